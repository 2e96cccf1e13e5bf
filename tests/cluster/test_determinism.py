"""The whole of the demo twice, and on two masters: equal digests of plan, specs, chunks, and of what was learned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from mlaas_spark import demo

pytestmark = [pytest.mark.cluster, pytest.mark.tensorflow]

REPOSITORY = Path(__file__).parents[2]
TIMES = {"local[2]": 2, "local-cluster[2,1,2048]": 1}

JOB = """
    import json, sys
    from pathlib import Path

    from mlaas_spark import pipeline
    from mlaas_spark.config import resolve
    from mlaas_spark.ml.digest import content_digest
    from mlaas_spark.ml.model import load_saved_model
    from mlaas_spark.runs import Journal

    job, made = json.loads(sys.argv[1]), []
    for number in range(job["times"]):
        runs = f"{job['out']}/{number}"
        run = Path(pipeline.train(resolve({**job["config"], "runs": runs}), Journal()).folder)
        told = json.loads((run / "run.json").read_text())
        scored = pipeline.predict(resolve(job["config"]), str(run), runs + "/scores", Journal())
        made.append({
            **{name: told["digests"][name] for name in ("plan", "specs", "transform", "content")},
            "model": content_digest(load_saved_model(run / "model.keras", None), []),
            "history": (run / "history.csv").read_text(),
            "bundles": told["bundles"],
            "scores": scored.content_digest,
        })
    print(json.dumps(made))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What each master makes, each time from nothing; TensorFlow with one thread adds up in one order."""
    folder = tmp_path_factory.mktemp("determinism")
    demo.generate(folder / "data", events=2_400, files=4, seed=3)
    (folder / "job.py").write_text(textwrap.dedent(JOB))
    groups = [
        {"name": name, "files": [str(folder / "data" / f"{name}_*.root")], "label": label}
        for label, name in enumerate(("background", "signal"))
    ]
    results = {}
    for number, (master, times) in enumerate(TIMES.items()):
        config = {
            "name": "demo",
            "input": {"groups": groups},
            "chunks": {"size": 700},
            "train": {"model": str(REPOSITORY / "conf" / "demo_model.py"), "epochs": 2, "batch_size": 64, "threads": 2},
            "spark": {"master": master, "events_per_task": 500},
        }
        job = {"config": config, "out": str(folder / f"out-{number}"), "times": times}
        done = subprocess.run(  # noqa: S603 - our own interpreter and script
            [sys.executable, str(folder / "job.py"), json.dumps(job)],
            cwd=folder,  # of local-cluster: its work folder is made here
            env={
                **os.environ,
                "PYTHONPATH": str(REPOSITORY),
                "PYSPARK_PYTHON": sys.executable,
                "TF_NUM_INTRAOP_THREADS": "1",
                "TF_NUM_INTEROP_THREADS": "1",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr
        results[master] = json.loads(done.stdout.splitlines()[-1])
    return results


@pytest.mark.parametrize("what", ["plan", "specs", "transform", "content", "model", "history", "bundles", "scores"])
def test_every_time_and_everywhere_the_same_is_made(made: dict[str, list[dict[str, Any]]], what: str) -> None:
    every = [json.dumps(of[what]) for times in made.values() for of in times]
    assert len(every) == sum(TIMES.values())
    assert len(set(every)) == 1
