"""Nights of a scheduled job over arriving files: one with nothing new, one killed, one with other data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import awkward as ak
import pytest
import uproot

from mlaas_spark.demo import generate

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Command, Outcome

SERVICE = Path("runs/night/service/service.json")


def _arrive(seed: int, scale: float = 1.0) -> None:
    """Files of a day, signal and background, with MET_pt scaled."""
    for path in generate(Path("made"), 1_600, 2, seed):
        target = Path("data") / f"{path.stem}_{seed}.root"
        target.parent.mkdir(exist_ok=True)
        if scale == 1.0:
            shutil.move(path, target)
            continue
        with uproot.open(path) as source, uproot.recreate(target) as file:
            arrays = source["Events"].arrays()
            flat = {name: arrays[name] for name in arrays.fields if arrays[name].ndim == 1 and not name.startswith("n")}
            jagged = {
                kind: ak.zip(
                    {name.split("_")[1]: arrays[name] for name in arrays.fields if name.startswith(f"{kind}_")}
                )
                for kind in ("Jet", "Muon")
            }
            content = {**flat, "MET_pt": arrays["MET_pt"] * scale, **jagged}
            # what is assigned becomes an RNTuple, whose branches are not those of the files before
            file.mktree("Events", {name: values.type.content for name, values in content.items()}).extend(content)


@pytest.fixture
def night(run: Command) -> Any:
    """``night(*options)``: the scheduled job, its exit code and the lines that it says."""
    _arrive(1)
    Path("model.py").write_text(
        "from keras import Sequential, layers\n"
        "def model(idim):\n"
        "    network = Sequential([layers.Input((idim,)), layers.Dense(8, 'relu'), layers.Dense(1, 'sigmoid')])\n"
        "    network.compile('adam', 'binary_crossentropy', metrics=['accuracy'])\n"
        "    return network\n"
    )
    groups = [{"name": n, "files": f"data/{n}_*.root", "label": i} for i, n in enumerate(("background", "signal"))]
    config = {
        "name": "night",
        "input": {"groups": groups, "tree": "Events"},
        "features": {"caps": {f"Jet_{name}": 4 for name in ("pt", "eta", "phi", "mass", "btag")}},
        "train": {"model": "model.py", "epochs": 2, "batch_size": 64},
        "evaluate": {"bootstrap": 0, "importance_events": 0},
        # so few events say little: no alarm by chance of a margin
        "retrain": {"margin": 0.2},
    }
    Path("c.yaml").write_text(json.dumps(config))

    def again(*options: str) -> Outcome:
        told = ("--name", "night", "--metrics-file", "night.prom", "--log-json", "night.jsonl")
        return run("scheduled", *told, "retrain", "--config", "c.yaml", "--json", *options)

    return again


def _in_service() -> dict[str, Any]:
    return dict(json.loads(SERVICE.read_text()))


def _metric(name: str) -> float:
    line = next(
        line for line in Path("night.prom").read_text().splitlines() if line.startswith(f"mlaas_spark_{name}{{")
    )
    return float(line.rpartition(" ")[2])


def test_five_nights_over_arriving_files(night: Any) -> None:
    # there is nothing in service yet
    first = night()
    assert first.code == 0, first.err
    told = json.loads(first.out)
    assert (told["what"], told["new"], told["before"]) == ("promoted", 2, None)
    assert _in_service()["current"]["run"] == told["run"]
    assert Path(told["archive"]).exists()

    # no new file, nothing done
    second = night()
    assert (second.code, json.loads(second.out)["what"]) == (0, "nothing new")
    assert len(list(Path("runs/night").glob("2*"))) == 1

    # new files, as those before
    _arrive(3)
    third = night()
    assert third.code == 0, third.err
    told = json.loads(third.out)
    assert (told["what"], told["new"]) == ("promoted", 2)
    assert told["metric"] == "auc"
    assert told["score"] >= told["before"] - 0.2
    assert not any(shift["worries"] for shift in told["shifts"] if shift["of"] == "values")
    assert _in_service()["history"][0]["run"] == json.loads(first.out)["run"]
    assert _metric("last_exit_code") == 0
    success = _metric("last_success_timestamp_seconds")

    # files that are not as those before
    _arrive(4, scale=3.0)
    fourth = night()
    assert fourth.code == 4
    assert "MET_pt (PSI " in fourth.err
    assert _in_service()["current"]["run"] == told["run"]
    assert _metric("last_exit_code") == 4
    assert _metric("last_success_timestamp_seconds") == success
    assert json.loads(Path("night.jsonl").read_text().splitlines()[-1])["message"].endswith("ended with exit code 4")

    # the same again ends the same; somebody has looked at them: they are right
    assert night().code == 4
    accepted = night("--drift", "warn")
    assert accepted.code == 0, accepted.err
    told = json.loads(accepted.out)
    assert any(shift["branch"] == "MET_pt" and shift["worries"] for shift in told["shifts"])
    assert json.loads(night().out)["what"] == "nothing new"


def test_a_killed_night_is_made_good_by_the_next_one_which_takes_its_lock_over(night: Any) -> None:
    assert night().code == 0
    before = _in_service()
    _arrive(3)
    main = "import sys; from mlaas_spark.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", main, "retrain", "--config", "c.yaml"]
    with subprocess.Popen(  # noqa: S603 - ours
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        assert any(line.startswith("train ...") for line in process.stderr), "it was not killed in its training"
        refused = night()
        os.killpg(process.pid, signal.SIGKILL)
    assert refused.code == 4
    assert f"process {process.pid} of" in refused.err
    assert _in_service() == before
    time.sleep(0.1)
    made_good = night()
    assert made_good.code == 0, made_good.err
    assert json.loads(made_good.out)["new"] == 2
    assert _in_service()["history"] == [before["current"]]


def test_a_worse_model_does_not_come_into_service(night: Any) -> None:
    assert night("--set", "train.epochs=6").code == 0
    before = _in_service()
    Path("model.py").write_text(
        "from keras import Sequential, layers, optimizers\n"
        "def model(idim):\n"
        "    network = Sequential([layers.Input((idim,)), layers.Dense(1, 'sigmoid', kernel_initializer='zeros')])\n"
        "    network.compile(optimizers.SGD(0.0), 'binary_crossentropy', metrics=['accuracy'])\n"  # learns nothing
        "    return network\n"
    )
    _arrive(3)
    worse = night("--set", "retrain.margin=0.01", "--set", "train.epochs=1")
    assert worse.code == 0, worse.err
    told = json.loads(worse.out)
    assert told["what"] == "kept"
    assert told["score"] < told["before"] - 0.01
    assert _in_service() == before
    assert json.loads(night().out)["what"] == "nothing new"
