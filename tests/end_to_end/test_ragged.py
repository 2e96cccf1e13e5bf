"""HZZ trained on its jets and muons as sets of objects, by a DeepSets, and served: events in, scores out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import awkward as ak
import numpy as np
import pytest
import uproot

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Command
    from tests.serving.server import ContractServer

pytestmark = pytest.mark.real_data

MODEL = """
import keras
from keras import layers

@keras.saving.register_keras_serializable("test")
class SumOfObjects(layers.Layer):
    "Adds up what is known of each object that is there: DeepSets (Zaheer et al., arXiv:1703.06114)."

    def call(self, objects, mask):
        return keras.ops.sum(objects * keras.ops.expand_dims(mask, -1), axis=1)

def model(layout, config):
    inputs = layout.keras_inputs()
    parts = [inputs["flat"]]
    for name in ("Jet", "Muon"):
        hidden = layers.Dense(16, activation="relu")(inputs[name])
        parts.append(SumOfObjects()(hidden, inputs[f"{name}_mask"]))
    hidden = layers.Dense(16, activation="relu")(layers.Concatenate()(parts))
    network = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(hidden))
    network.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return network
"""
JAGGED = ["Jet_Px", "Jet_Py", "Jet_E", "Muon_Px", "Muon_Py", "Muon_E"]


def test_a_model_of_sets_of_objects_is_trained_and_served(
    run: Command, data_folder: Path, server: ContractServer
) -> None:
    path = str(data_folder / "uproot-HZZ.root")
    Path("sets.py").write_text(MODEL)
    settings = {
        "input": {"files": [path], "label": "NMuon >= 2", "branches": [*JAGGED, "MET_px", "MET_py", "NMuon"]},
        "train": {"model": "sets.py", "inputs": "groups", "epochs": 2, "batch_size": 64},
    }
    Path("c.yaml").write_text(json.dumps(settings))
    done = run("train", "--config", "c.yaml", "--set", "input.exclude=[NMuon]")
    assert done.code == 0, done.err
    (folder,) = Path("runs").glob("run/20*")
    told = json.loads((folder / "run.json").read_text())
    bundle = folder / "bundle" / f"{told['bundles']['raw']}.tar.gz"

    done = run("upload", str(bundle), "--url", server.url, "--promote", "--alias", "hzz")
    assert done.code == 0, done.err
    done = run("predict-remote", path, "--events", "50", "--alias", "hzz", "--url", server.url)
    assert done.code == 0, done.err
    remote = [json.loads(line)[0] for line in done.out.splitlines()]

    # the oracle: the model itself on arrays made with awkward and numpy alone
    import keras

    namespace: dict[str, object] = {}
    exec(compile(MODEL, "sets.py", "exec"), namespace)  # noqa: S102 - the test's own text
    model = keras.saving.load_model(folder / "model.keras")
    specs = json.loads((folder / "specs.json").read_text())
    with uproot.open(path) as file:
        events = file["events"].arrays([*JAGGED, "MET_px", "MET_py"], entry_stop=50)
    low, high = specs["minv"], specs["maxv"]

    def scaled(name: str) -> ak.Array:
        return (events[name] - low[name]) / (high[name] - low[name])

    inputs = {"flat": np.stack([ak.to_numpy(scaled(name)) for name in ("MET_px", "MET_py")], axis=1)}
    for kind in ("Jet", "Muon"):
        names = sorted(name for name in JAGGED if name.startswith(kind))
        dim = max(specs["jdim"][name] for name in names)
        padded = [ak.to_numpy(ak.fill_none(ak.pad_none(scaled(name), dim, clip=True), 0.0)) for name in names]
        inputs[kind] = np.stack(padded, axis=2)
        inputs[f"{kind}_mask"] = ak.to_numpy(ak.num(events[names[0]]))[:, None] > np.arange(dim)
    expected = model.predict({name: array.astype(np.float32) for name, array in inputs.items()}, verbose=0)[:, 0]
    assert remote == pytest.approx(expected, abs=1e-5)
    assert np.ptp(expected) > 0.01
