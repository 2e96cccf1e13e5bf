"""A training killed by the system in the middle of an epoch goes on with --resume to the model of one never killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

REPOSITORY = Path(__file__).parents[2]
COMMAND = [str(Path(sys.executable).with_name("mlaas-spark")), "train", "--config", "conf/demo.yaml"]

pytestmark = [pytest.mark.spark, pytest.mark.tensorflow]


def arguments(sample: Path, runs: Path, **settings: Any) -> list[str]:
    groups = [
        {"files": [str(sample / "signal_*.root")], "label": 1},
        {"files": [str(sample / "background_*.root")], "label": 0},
    ]
    values = {
        "input.groups": groups,
        "runs": str(runs),
        "spark.master": "local[2]",
        "train.epochs": 3,
        "train.batch_size": 32,
        "train.threads": 1,
        "train.model": str(REPOSITORY / "conf" / "demo_model.py"),
        "train.checkpoint": {"steps": 1, "seconds": None},
        **settings,
    }
    return [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [*COMMAND, *options], cwd=REPOSITORY, env=one_thread(), capture_output=True, text=True, check=False, timeout=600
    )


def one_thread() -> dict[str, str]:
    """With one thread TensorFlow adds up in one order."""
    return {**os.environ, "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


def killed_after(step: int, runs: Path, options: Sequence[str]) -> int:
    """Start a training and kill it when it has a checkpoint of at least so many batches; of how many it was."""
    process = subprocess.Popen(  # noqa: S603 - our own command
        [*COMMAND, *options], cwd=REPOSITORY, env=one_thread(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with process:
        while process.poll() is None:
            steps = [int(path.name[5:]) for path in runs.glob("demo/checkpoints/*/step-*")]
            if steps and max(steps) >= step:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return max(steps)
            time.sleep(0.005)
    pytest.fail(f"the training ended ({process.returncode}) before it was killed")


def weights(runs: Path) -> dict[str, Any]:
    (folder,) = runs.glob("demo/20*")
    import keras

    model = keras.saving.load_model(folder / "model.keras")
    return {f"{number}": array for number, array in enumerate(model.get_weights())}


def history(runs: Path) -> list[dict[str, str]]:
    (path,) = runs.glob("demo/20*/history.csv")
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def never_killed(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("never-killed")
    done = run(*arguments(sample, runs))
    assert done.returncode == 0, done.stderr
    assert not list(runs.glob("demo/checkpoints"))
    return runs


def test_a_killed_training_resumes_to_the_same_model(sample: Path, never_killed: Path, tmp_path: Path) -> None:
    at = killed_after(30, tmp_path, arguments(sample, tmp_path))

    other = run(*arguments(sample, tmp_path, **{"train.epochs": 4, "train.seed": 2}), "--resume")
    assert other.returncode == 5
    assert "train.epochs: 3 -> 4; train.seed: 1 -> 2" in " ".join(other.stderr.split())
    assert "Traceback" not in other.stderr

    done = run(*arguments(sample, tmp_path), "--resume")
    assert done.returncode == 0, done.stderr
    (step,) = (int(line.split()[3].replace(",", "")) for line in done.stderr.splitlines() if "goes on after" in line)
    assert step >= at
    assert history(tmp_path) == history(never_killed)
    ours, theirs = weights(tmp_path), weights(never_killed)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert not list(tmp_path.glob("demo/checkpoints"))
    (record,) = tmp_path.glob("demo/20*/run.json")
    assert json.loads(record.read_text())["resumed"]["step"] == step

    again = run(*arguments(sample, tmp_path), "--resume")
    assert (again.returncode, "nothing to resume" in again.stderr) == (2, True)
