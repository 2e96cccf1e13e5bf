"""The files and the command line of an MLaaS4HEP user, as they are today."""

from __future__ import annotations

import gzip
import json
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import Command

PARAMS: dict[str, Any] = {
    "nevts": -1,
    "shuffle": True,
    "chunk_size": 1000,
    "epochs": 2,
    "batch_size": 100,
    "identifier": ["run", "event", "luminosityBlock"],
    "branch": "Events",
    "selected_branches": "",
    "exclude_branches": ["PV_npvs"],
    "hist": "pdfs",
    "redirector": "root://xrootd.example.org",
    "verbose": 0,
    "split": 0.3,
    "nan": 0,
}

OWN_FIT = """
import keras
from keras.models import Sequential
from keras.layers import Dense

class MyModel(Sequential):
    def fit(self, x_train, y_train, **kwds):
        with open("calls.txt", "a") as log:
            log.write(f"{len(x_train)} {sorted(kwds)}\\n")
        return super().fit(x_train, y_train, **kwds)

def model(idim):
    network = MyModel([Dense(8, activation="relu", input_shape=(idim,)), Dense(1, activation="sigmoid")])
    network.compile(optimizer=keras.optimizers.Adam(learning_rate=1e-3), loss=keras.losses.BinaryCrossentropy(),
                    metrics=[keras.metrics.BinaryAccuracy(name="accuracy"), keras.metrics.AUC(name="auc")])
    return network
"""

SOFTMAX = """
from keras.models import Sequential
from keras.layers import Dense, Activation

def model(idim):
    network = Sequential([Dense(8, input_shape=(idim,)), Activation("relu"), Dense({outputs}), Activation("softmax")])
    network.compile(optimizer="adam", loss="{loss}", metrics=["accuracy"])
    return network
"""


@pytest.fixture
def user(sample: Path, model_file: Path, tmp_path: Path) -> Path:
    """A folder with files.txt, labels.txt, params.json and model.py."""
    assert model_file.parent == tmp_path
    names = ["signal_0", "signal_1", "background_0", "background_1"]
    (tmp_path / "files.txt").write_text("# ours\n" + "".join(f"{sample / name}.root\n" for name in names))
    (tmp_path / "labels.txt").write_text("1\n1\n0\n0\n")
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    return tmp_path


def given(line: str) -> list[str]:
    return shlex.split(line)


BASE = "train --files files.txt --labels labels.txt --model model.py --params params.json "


def only_run(folder: Path) -> Path:
    (run,) = (path.parent for path in folder.rglob("run.json"))
    return run


def test_the_command_of_today_gives_a_run_and_names_what_has_no_effect(run: Command, user: Path) -> None:
    outcome = run(*given(BASE + "--fout out"))
    assert outcome.code == 0, outcome.err
    folder = only_run(user / "out")
    history = (folder / "history.csv").read_text().splitlines()
    assert len(history) == 1 + 3 * PARAMS["epochs"]  # a fit of its epochs for each of the 3 chunks
    notes = [line for line in outcome.err.splitlines() if line.startswith("note:")]
    assert [note.split()[2] for note in notes] == ["hist", "split", "nan"]
    columns = json.loads((folder / "specs.json").read_text())
    assert "PV_npvs" not in columns["minv"]
    assert not {"run", "event", "luminosityBlock"} & set(columns["minv"])


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.pb"])
def test_fout_as_a_file_name_is_the_model_with_the_run_folder_beside_it(name: str, run: Command, user: Path) -> None:
    outcome = run(*given(BASE + f"--fout result/{name}"))
    assert outcome.code == 0, outcome.err
    saved, folder = user / "result" / name, only_run(user / "result")
    assert folder.parent == user / "result" / "model"
    if name.endswith(".pb"):
        assert (saved / "saved_model.pb").is_file()
        return
    import keras

    width = json.loads((folder / "run.json").read_text())["width"]
    model = keras.saving.load_model(saved, compile=False)
    assert model.predict(np.zeros((3, width), np.float32), verbose=0).shape == (3, 1)


def test_own_fit_is_called_for_each_chunk_with_arrays(run: Command, user: Path) -> None:
    (user / "model.py").write_text(OWN_FIT)
    outcome = run(*given(BASE + "--fout out"))
    assert outcome.code == 0, outcome.err
    calls = (user / "calls.txt").read_text().splitlines()
    assert len(calls) == 3
    assert all("'batch_size', 'epochs'" in call and "validation_data" in call for call in calls)


def test_two_softmax_outputs_are_trained_on_categories(run: Command, user: Path) -> None:
    (user / "model.py").write_text(SOFTMAX.format(outputs=2, loss="categorical_crossentropy"))
    outcome = run(*given(BASE + "--fout out"))
    assert outcome.code == 0, outcome.err
    assert json.loads((only_run(user / "out") / "metrics.json").read_text())["auc"] > 0.55


def test_softmax_on_one_output_runs_and_is_warned_about(run: Command, user: Path) -> None:
    (user / "model.py").write_text(SOFTMAX.format(outputs=1, loss="binary_crossentropy"))
    outcome = run(*given(BASE + "--fout out"))
    assert outcome.code == 0, outcome.err
    assert "softmax" in outcome.err
    assert "always 1" in outcome.err


def test_labels_as_a_comma_list_and_as_words(run: Command, user: Path, sample: Path) -> None:
    files = f"{sample / 'signal_0.root'},{sample / 'background_0.root'}"
    outcome = run(*given(f"train --files {files} --labels sig,bkg --model {user / 'model.py'} --fout out"))
    assert outcome.code == 0, outcome.err
    assert "bkg is class 0, sig is class 1" in outcome.err


def test_specs_of_mlaas4hep_are_taken(run: Command, user: Path) -> None:
    own = run(*given(BASE + "--fout first"))
    assert own.code == 0, own.err
    made = json.loads((only_run(user / "first") / "specs.json").read_text())
    theirs = {key: made[key] for key in ("jdim", "minv", "maxv", "fkeys", "jkeys", "nans", "events")}
    (user / "global-specs.json").write_text(json.dumps(theirs))
    outcome = run(*given(BASE + "--specs global-specs.json --fout second"))
    assert outcome.code == 0, outcome.err
    first, second = (
        json.loads((only_run(user / name) / "run.json").read_text())["digests"] for name in ("first", "second")
    )
    assert second["transform"] == first["transform"]
    assert second["content"] == first["content"]


PREPROC = """
def preprocessing(rec):
    "Picks attributes and makes numbers of words."
    doc = {}
    for key, val in rec["data"].items():
        if key == "event_type":
            doc[key] = 1 if val == "transfer-submitted" else 0
        elif key == "activity":
            doc[key] = 1 if val == "Staging" else 0
        elif key in ("bytes", "file_size", "tf_created_at"):
            doc[key] = val
    doc.setdefault("activity", 0)
    return doc
"""


def test_gzipped_json_records_train_on_a_label_that_preprocessing_makes(
    run: Command, user: Path, model_file: Path
) -> None:
    random = np.random.default_rng(5)
    lines = []
    for number in range(1500):
        staging = bool(random.integers(2))
        record = {
            "activity": "Staging" if staging else "Production",
            "event_type": "transfer-submitted" if random.uniform() < (0.8 if staging else 0.3) else "transfer-done",
            "bytes": int(random.integers(1, 10**10)),
            "file_size": int(random.integers(1, 10**9)) if number % 7 else None,
            "tf_created_at": 1.5e9 + number,
            "scope": "cms",
        }
        lines.append(json.dumps({"data": record, "metadata": {"timestamp": number}}))
    for half in (0, 1):
        with gzip.open(user / f"part-{half}.json.gz", "wt") as file:
            file.write("\n".join(lines[half::2]) + "\n")
    (user / "files.txt").write_text("".join(f"{user / f'part-{half}.json.gz'}\n" for half in (0, 1)))
    (user / "preproc.py").write_text(PREPROC)
    (user / "params.json").write_text(json.dumps({"nevts": 1000, "chunk_size": 500, "epochs": 3, "batch_size": 50}))
    outcome = run(
        *given(
            f"train --files files.txt --labels activity --model {model_file} --preproc preproc.py "
            "--params params.json --fout out"
        )
    )
    assert outcome.code == 0, outcome.err
    folder = only_run(user / "out")
    specs = json.loads((folder / "specs.json").read_text())
    assert specs["fkeys"] == ["bytes", "event_type", "file_size", "tf_created_at"]
    assert specs["mlaas_spark"]["branches"]["file_size"]["nan"] > 0
    assert json.loads((folder / "run.json").read_text())["events"]["events"] == 1000
    assert json.loads((folder / "metrics.json").read_text())["auc"] > 0.6
