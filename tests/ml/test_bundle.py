from __future__ import annotations

import dataclasses
import gzip
import io
import json
import math
import os
import re
import shutil
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlaas_spark.branch_specs import Specs
from mlaas_spark.config import ExportConfig, FeatureConfig
from mlaas_spark.errors import ExportError, ServingError
from mlaas_spark.ml import archive, savedmodel
from mlaas_spark.ml import bundle as bundles
from mlaas_spark.ml.bundle import Bundle, contents_of, read_bundle, serve_check, write_bundle, write_bundles
from mlaas_spark.ml.card import Origin
from mlaas_spark.ml.inputs import InputLayout
from mlaas_spark.ml.model import load_user_model
from mlaas_spark.ml.predict import SavedModel
from mlaas_spark.ml.savedmodel import run_savedmodel, save_as, write_savedmodel
from mlaas_spark.ml.sending import Sending
from mlaas_spark.ml.stream import ChunkStream
from mlaas_spark.ml.tfaas import Params
from mlaas_spark.transform import FeatureTransform
from tests.ml.conftest import TRANSFORM, compact_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from tests.ml.conftest import Chunks, Event, MakeChunks

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def net() -> Any:
    """A model of one output for the five columns of the test chunks."""
    return make_net(1)


def make_net(outputs: int, bias: float = 0.1) -> Any:
    import keras

    keras.utils.set_random_seed(1)
    activation = "sigmoid" if outputs == 1 else "softmax"
    output = keras.layers.Dense(outputs, activation=activation, bias_initializer=keras.initializers.Constant(bias))
    model = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(4, activation="relu"), output])
    model.compile(loss="binary_crossentropy", optimizer="sgd")
    return model


@pytest.fixture(scope="module")
def made(chunks: Chunks, net: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that no test changes."""
    return write_bundle(net, chunks.stream(), ExportConfig(name="higgs"), "ab" * 32, tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def copy(made: Bundle, tmp_path: Path) -> Path:
    """A copy of the bundle's folder to tamper with."""
    return shutil.copytree(made.folder, tmp_path / made.name)


# what is in a bundle


def test_a_bundle_has_what_the_server_needs(made: Bundle) -> None:
    inside = {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*")}
    assert {"assets", "variables", "variables/variables.index", "saved_model.pb", "params.json"} < inside
    assert {"labels.txt", "layout.json", "check.npz"} < inside
    assert Params.loads((made.folder / "params.json").read_text()).name == made.name == made.folder.name
    assert made.name.startswith("higgs_")


def test_nothing_else_is_left_beside_it(made: Bundle) -> None:
    assert {path.name for path in made.folder.parent.iterdir()} == {made.name, f"{made.name}.tar.gz"}


def test_its_layout_names_every_column(made: Bundle) -> None:
    layout = json.loads((made.folder / "layout.json").read_text())
    assert layout["columns"] == ["MET", "nJet", "Jet_pt_0", "Jet_pt_1", "Jet_pt_2"]


def test_it_records_the_models_scores_of_test_events(made: Bundle, chunks: Chunks, net: Any) -> None:
    with np.load(made.folder / "check.npz", allow_pickle=False) as check:
        np.testing.assert_allclose(check["x"], chunks.expected("test")[0], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(check["scores"], net.predict(check["x"], verbose=0), atol=1e-6)


def test_the_tar_has_folders_before_their_files_and_the_name_first(made: Bundle) -> None:
    with tarfile.open(made.archive, "r:gz") as archive:
        members = archive.getmembers()
    names = [member.name for member in members]
    assert names[0] == made.name
    for member in members:
        assert (member.mtime, member.uid, member.uname) == (0, 0, "")
        if "/" in member.name:
            folder = member.name.rsplit("/", 1)[0]
            assert names.index(folder) < names.index(member.name)
            assert members[names.index(folder)].isdir()


def test_the_tar_of_a_folder_is_always_the_same(made: Bundle, tmp_path: Path) -> None:
    again = shutil.copytree(made.folder, tmp_path / made.name)
    archive.write_tar(again, tmp_path / "again.tar.gz")  # what Keras writes differs from run to run
    assert (tmp_path / "again.tar.gz").read_bytes() == made.archive.read_bytes()


def test_exporting_the_same_again_gives_the_same_bundle(made: Bundle, chunks: Chunks, net: Any) -> None:
    before = made.archive.stat().st_mtime_ns
    again = write_bundle(net, chunks.stream(), ExportConfig(name="higgs"), "ab" * 32, made.folder.parent)
    assert again == made
    assert made.archive.stat().st_mtime_ns == before


def test_a_damaged_earlier_export_is_named_and_kept(made: Bundle, chunks: Chunks, net: Any, tmp_path: Path) -> None:
    shutil.copytree(made.folder.parent, tmp_path / "out")
    (tmp_path / "out" / made.name / "labels.txt").unlink()
    with pytest.raises(ExportError, match=r"earlier export of this model is damaged.*labels\.txt"):
        write_bundle(net, chunks.stream(), ExportConfig(name="higgs"), "ab" * 32, tmp_path / "out")
    assert (tmp_path / "out" / made.name / "check.npz").exists()


def test_a_model_built_twice_has_one_name(chunks: Chunks, made: Bundle, tmp_path: Path) -> None:
    assert write_bundle(make_net(1), chunks.stream(), ExportConfig(name="higgs"), "ab" * 32, tmp_path).name == made.name


def test_other_weights_have_another_name(chunks: Chunks, made: Bundle, tmp_path: Path) -> None:
    other = write_bundle(make_net(1, bias=0.2), chunks.stream(), ExportConfig(name="higgs"), "ab" * 32, tmp_path)
    assert other.name != made.name


@pytest.mark.parametrize(
    ("outputs", "given", "labels"),
    [(1, (), ["1"]), (2, (), ["0", "1"]), (1, ("bkg", "sig"), ["sig"]), (3, ("a", "b", "c"), ["a", "b", "c"])],
)
def test_each_output_has_a_label(
    chunks: Chunks, tmp_path: Path, outputs: int, given: tuple[str, ...], labels: list[str]
) -> None:
    made = write_bundle(make_net(outputs), chunks.stream(), ExportConfig(labels=given), "ab", tmp_path)
    assert (made.folder / "labels.txt").read_text().splitlines() == labels


@pytest.mark.parametrize(("labels", "message"), [(("a", "b", "c"), "has 3 labels"), (("a\nb",), "not one line")])
def test_labels_that_do_not_fit_are_refused(
    chunks: Chunks, net: Any, tmp_path: Path, labels: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        write_bundle(net, chunks.stream(), ExportConfig(labels=labels), "ab", tmp_path)


def test_an_export_that_differs_from_the_model_leaves_nothing(
    chunks: Chunks, net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = make_net(1, bias=0.1001)
    monkeypatch.setattr(
        bundles, "write_savedmodel", lambda _, width, folder, __: write_savedmodel(wrong, width, folder)
    )
    with pytest.raises(ExportError, match="gives other scores than the model did"):
        write_bundle(net, chunks.stream(), ExportConfig(), "ab", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# serve-check


def test_serve_check_repeats_the_proof_for_folder_and_tar(made: Bundle) -> None:
    report = serve_check(made.folder)
    assert report == serve_check(made.archive)
    assert (report["name"], report["width"], report["outputs"], report["events"]) == (made.name, 5, 1, 119)
    assert report["difference"] <= 1e-6


def rewrite_check(folder: Path, **change: Any) -> None:
    with np.load(folder / "check.npz") as check:
        content = {**check, **change}
    np.savez_compressed(folder / "check.npz", **content)


def other_scores(folder: Path) -> None:
    with np.load(folder / "check.npz") as check:
        scores = check["scores"] + np.float32(1e-5)
    rewrite_check(folder, scores=scores)


def other_weights(folder: Path) -> None:
    # into the places of the old ones: where a second export would put each weight is not certain, TensorFlow gathers
    # the variables of a function in a set (func_graph._watched_variables)
    import tensorflow as tf

    prefix = str(folder / "variables" / "variables")
    saved = tf.train.load_checkpoint(prefix)
    tensors = {name: saved.get_tensor(name) for name in sorted(saved.get_variable_to_shape_map())}
    changed = [value + 0.5 if isinstance(value, np.ndarray) else value for value in tensors.values()]
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=[*tensors], shape_and_slices=[""] * len(tensors), tensors=changed)


def cut_variables(folder: Path) -> None:
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"")


def pickled_check(folder: Path) -> None:
    rewrite_check(folder, x=np.array([object()], dtype=object))


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (other_scores, "gives other scores"),
        (other_weights, "gives other scores"),
        (cut_variables, "cannot be loaded as a SavedModel"),
        (pickled_check, "holds no check events"),
        (lambda folder: rewrite_check(folder, x=np.zeros((119, 4), np.float32)), "4 columns, layout.json 5"),
        (lambda folder: rewrite_check(folder, scores=np.zeros((119, 2), np.float32)), "names 1 outputs"),
        (lambda folder: (folder / "check.npz").write_bytes(b"PK"), "holds no check events"),
        (lambda folder: (folder / "check.npz").unlink(), "cannot read .*check.npz"),
        (lambda folder: (folder / "assets").rmdir(), "has no folder assets"),
        (lambda folder: (folder / "params.json").unlink(), r"cannot read .*params\.json"),
        (lambda folder: (folder / "params.json").write_text(Params("other").dumps()), "is of the model other"),
        (lambda folder: (folder / "labels.txt").write_text("a\nb\n"), r"has labels .*do not belong together"),
        (lambda folder: (folder / "layout.json").write_text("{}"), "does not describe a feature layout"),
        (lambda folder: (folder / "saved_model.pb").write_bytes(b"nothing"), "is no SavedModel|graphs tagged"),
        (lambda folder: (folder / "saved_model.pb").unlink(), "is no SavedModel"),
    ],
)
def test_a_tampered_bundle_is_refused(copy: Path, tamper: Callable[[Path], Any], message: str) -> None:
    tamper(copy)
    with pytest.raises(ServingError, match=message):
        serve_check(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, r"version 2 of what is under mlaas_spark, this program reads 1"),
        ({"version": None}, "a part of the bundle is missing"),
        ({"inputs": "features"}, r'has inputs "features" .*say "raw": they do not belong together'),
        ({"missing": -999.0}, r"has missing -999\.0 .*say -1e\+30"),
        ({"W": 6}, "has W 6 .*say 5"),
        ({"branches": [["nJet", 1], ["MET", 1], ["Jet_pt", 3]]}, "has branches"),
        ({"specs": "of others"}, "has specs"),
        ({"mask": True}, "has mask true"),
        ({"labels": ["other"]}, "has labels"),
    ],
)
def test_params_that_say_something_else_than_the_bundle_are_refused(
    raw_copy: Path, change: dict[str, Any], message: str
) -> None:
    path = raw_copy / "params.json"
    content = json.loads(path.read_text())
    ours = {key: value for key, value in {**content["mlaas_spark"], **change}.items() if value is not None}
    path.write_text(json.dumps({**content, "mlaas_spark": ours}))
    for look in (serve_check, read_bundle):
        with pytest.raises(ServingError, match=message):
            look(raw_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"missing": float("nan")}, "nan, which is no finite float32"),
        ({"missing": float("-inf")}, "-inf, which is no finite float32"),
        ({"missing": -1e39}, "which is no finite float32"),
        ({"missing": "none"}, "'none', which is no finite float32"),
        ({"inputs": "raw events"}, "inputs are 'raw events'"),
        ({"mask": 1}, "the mask is 1"),
        ({"ranges": {"MET": [1.0]}}, "does not describe a feature layout"),
        ({"missing": None}, "KeyError: 'missing'"),
        ({"inputs": None}, 'layout.json and labels.txt say "features"'),
    ],
)
def test_a_layout_that_does_not_say_what_is_sent_is_refused(
    raw_copy: Path, change: dict[str, Any], message: str
) -> None:
    path = raw_copy / "layout.json"
    content = {key: value for key, value in {**json.loads(path.read_text()), **change}.items() if value is not None}
    path.write_text(json.dumps(content))
    for look in (serve_check, read_bundle):
        with pytest.raises(ServingError, match=message):
            look(raw_copy)


def test_a_bundle_without_our_part_of_params_is_refused(raw_copy: Path) -> None:
    content = json.loads((raw_copy / "params.json").read_text())
    del content["mlaas_spark"]
    (raw_copy / "params.json").write_text(json.dumps(content))
    with pytest.raises(ServingError, match=r"says nothing under mlaas_spark: a part of the bundle is missing"):
        serve_check(raw_copy)


def test_our_part_of_params_must_be_a_mapping(raw_copy: Path) -> None:
    content = json.loads((raw_copy / "params.json").read_text())
    (raw_copy / "params.json").write_text(json.dumps({**content, "mlaas_spark": [1]}))
    with pytest.raises(ServingError, match="mlaas_spark is a list, not a mapping"):
        serve_check(raw_copy)


def test_a_bundle_from_before_there_were_raw_ones_is_read_as_one_of_features(copy: Path, made: Bundle) -> None:
    for name, keys in {"params.json": ["mlaas_spark"], "layout.json": ["inputs", "missing", "mask", "ranges"]}.items():
        content = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps({key: value for key, value in content.items() if key not in keys}))
    (copy / "MODEL_CARD.md").unlink()
    assert serve_check(copy) == serve_check(made.folder)
    assert read_bundle(copy).sending == Sending()


# bundles that take events as they are in the file

RANGES = {"MET": (-20.0, 60.0), "Jet_pt": (0.0, 90.0), "other": (0.0, 1.0)}
ORIGIN = Origin(RANGES, "2026-11-25T21:00:00+00:00", "c0" * 32, {"auc": 0.9876543, "events": 1234}, {"keras": "3.15.1"})


@pytest.fixture(scope="module")
def raw(chunks: Chunks, net: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A raw bundle of the same model."""
    where = tmp_path_factory.mktemp("raw")
    export = ExportConfig(name="higgs", description="Finds | signals.")
    return write_bundle(net, chunks.stream(), export, "ab" * 32, where, kind="raw", origin=ORIGIN)


@pytest.fixture
def raw_copy(raw: Bundle, tmp_path: Path) -> Path:
    return shutil.copytree(raw.folder, tmp_path / raw.name)


def sent_of(events: list[Event]) -> npt.NDArray[np.float32]:
    """What a client sends of the events of the test chunks, by plain Python."""
    rows = []
    for event in events:
        row = [event["MET"], event["nJet"], *event["Jet_pt"][:3], *[math.nan] * (3 - len(event["Jet_pt"]))]
        rows.append([value if math.isfinite(value) else -1e30 for value in row])
    return np.array(rows, np.float32)


def kernel_matrix(events: list[Event], transform: FeatureTransform) -> Any:
    (batch,) = compact_table(events).combine_chunks().to_batches()
    return transform.matrix(batch)


def test_raw_bundle_gives_events_the_scores_that_the_model_gives_their_features(
    raw: Bundle, made: Bundle, chunks: Chunks, net: Any
) -> None:
    events = chunks.of("train")
    assert len(events) > 300
    features = kernel_matrix(events, TRANSFORM).matrix
    expected = net.predict(features, verbose=0)
    np.testing.assert_allclose(run_savedmodel(raw.folder, sent_of(events)), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(run_savedmodel(made.folder, features), expected, rtol=0, atol=1e-6)


def test_nan_and_infinity_are_missing_in_a_raw_bundle_too(raw: Bundle) -> None:
    given = np.array([[1.0, 2.0, 5.0, odd, -1e30] for odd in (np.nan, np.inf, -np.inf, -2e30, -1e30)], np.float32)
    scores = run_savedmodel(raw.folder, given)
    assert (scores == scores[0]).all()


@pytest.mark.parametrize("normalise", ["minmax", "standard", "robust", "none"])
def test_raw_and_features_score_alike_by_every_normalisation(
    chunks: Chunks, net: Any, tmp_path: Path, normalise: Any
) -> None:
    table = compact_table(chunks.of("train"))
    (batch,) = table.select(["MET", "nJet", "Jet_pt"]).combine_chunks().to_batches()
    specs = Specs.of(batch, batch.schema.names, batch.schema.names)
    transform = FeatureTransform.of(specs, FeatureConfig(normalise=normalise, caps={"Jet_pt": 3}))
    stream = ChunkStream.open(str(chunks.folder), transform, 16)
    made = write_bundles(net, stream, ExportConfig(), "ab", tmp_path, origin=Origin(specs.ranges))
    events = chunks.of("validation")
    features = kernel_matrix(events, transform).matrix
    expected = net.predict(features, verbose=0)
    for bundle, x in ((made["raw"], sent_of(events)), (made["features"], features)):
        assert bundle.difference <= 1e-6
        np.testing.assert_allclose(run_savedmodel(bundle.folder, x), expected, rtol=0, atol=1e-6)


def test_both_bundles_have_names_of_their_own_and_nothing_is_left_beside_them(
    chunks: Chunks, net: Any, raw: Bundle, tmp_path: Path
) -> None:
    export = ExportConfig(name="higgs", description="Finds | signals.")
    made = write_bundles(net, chunks.stream(), export, "ab" * 32, tmp_path, origin=ORIGIN)
    assert [*made] == ["raw", "features"]
    assert made["raw"].name == raw.name != made["features"].name
    names = {name for bundle in made.values() for name in (bundle.name, bundle.archive.name)}
    assert {path.name for path in tmp_path.iterdir()} == names
    for kind, bundle in made.items():
        assert serve_check(bundle.archive)["inputs"] == bundle.inputs == kind


def test_params_say_how_to_send_events(raw: Bundle) -> None:
    content = json.loads((raw.folder / "params.json").read_text())
    assert content["mlaas_spark"] == {
        "version": 1,
        "inputs": "raw",
        "missing": -1e30,
        "mask": False,
        "W": 5,
        "branches": [["MET", 1], ["nJet", 1], ["Jet_pt", 3]],
        "schema": [["MET", "float32"], ["nJet", "uint32"], ["Jet_pt", "list<float32>"]],
        "specs": "ab" * 32,
        "labels": ["1"],
        "rounding": 0.0,
    }


def test_the_check_events_are_those_of_the_features_bundle_as_they_are_in_the_file(raw: Bundle, chunks: Chunks) -> None:
    with np.load(raw.folder / "check.npz", allow_pickle=False) as check:
        np.testing.assert_array_equal(check["x"], sent_of(chunks.of("test")))


def test_contents_say_what_is_sent_and_the_ranges_of_training(raw: Bundle, made: Bundle) -> None:
    contents = read_bundle(raw.archive)
    assert contents.transform == TRANSFORM
    assert contents.sending == Sending("raw", -1e30, False, {"MET": (-20.0, 60.0), "Jet_pt": (0.0, 90.0)})  # noqa: FBT003
    assert contents.takes.scale == (1.0, 1.0, 1.0)
    assert read_bundle(made.folder).takes == TRANSFORM


@pytest.mark.parametrize(("low", "missing"), [(-3e29, -3.4028234663852886e38), (-1e28, -1e30)])
def test_the_sentinel_goes_below_the_ranges_of_training(
    chunks: Chunks, net: Any, tmp_path: Path, low: float, missing: float
) -> None:
    origin = Origin({"MET": (low, 1.0)})
    made = write_bundle(net, chunks.stream(), ExportConfig(), "ab", tmp_path, kind="raw", origin=origin)
    assert read_bundle(made.folder).sending.missing == missing


def test_a_sentinel_that_a_branch_has_leaves_nothing(chunks: Chunks, net: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"export\.missing: branch 'MET' has values down to -20"):
        write_bundles(net, chunks.stream(), ExportConfig(missing=-10.0), "ab", tmp_path, origin=ORIGIN)
    assert list(tmp_path.iterdir()) == []


def test_a_second_bundle_that_fails_takes_the_first_with_it(
    chunks: Chunks, net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(model: Any, width: int, folder: Path, graph: Any) -> None:
        if any(path.name.endswith(".tar.gz") for path in folder.parent.iterdir()):
            msg = "no"
            raise ExportError(msg)
        write_savedmodel(model, width, folder, graph)

    monkeypatch.setattr(bundles, "write_savedmodel", write)
    with pytest.raises(ExportError, match=r"^no$"):
        write_bundles(net, chunks.stream(), ExportConfig(), "ab", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_move_that_fails_takes_back_what_was_moved(
    chunks: Chunks, net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move, moved = type(tmp_path).replace, []

    def replace(path: Path, target: Path) -> Path:
        moved.append(path.name)
        if len(moved) == 4:
            raise OSError(28, "No space left on device")
        return move(path, target)

    monkeypatch.setattr(type(tmp_path), "replace", replace)
    with pytest.raises(ExportError, match="No space left"):
        write_bundles(net, chunks.stream(), ExportConfig(), "ab", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_dense_chunks_give_events_of_their_features(dense_chunks: Chunks, net: Any, tmp_path: Path) -> None:
    made = write_bundle(net, dense_chunks.stream(), ExportConfig(), "ab", tmp_path, kind="raw")
    assert made.difference <= 1e-6
    with np.load(made.folder / "check.npz", allow_pickle=False) as check:
        np.testing.assert_allclose(check["x"], sent_of(dense_chunks.of("test")), rtol=1e-5, atol=1e-5)
        scores = net.predict(dense_chunks.expected("test")[0].astype(np.float32), verbose=0)
        np.testing.assert_allclose(check["scores"], scores, atol=1e-5)
    assert json.loads((made.folder / "params.json").read_text())["mlaas_spark"]["rounding"] is None


def test_values_of_more_digits_than_float32_has_are_told(
    chunks: Chunks, net: Any, tmp_path: Path, make_chunks: MakeChunks, caplog: pytest.LogCaptureFixture
) -> None:
    events = [{**event, "nJet": 2_000_000_000 + event["nJet"]} for event in chunks.of("test")]
    stream = make_chunks({(0, "test"): events}).stream()
    transform = dataclasses.replace(TRANSFORM, center=(10.0, 2e9, 5.0))
    made = write_bundle(
        net, dataclasses.replace(stream, transform=transform), ExportConfig(), "ab", tmp_path / "out", kind="raw"
    )
    assert made.difference <= 1e-6  # the graph does with what is sent what the kernel does
    (record,) = (record for record in caplog.records if record.name == "mlaas_spark")
    assert record.getMessage().startswith("raw bundle: nJet have more digits than float32")
    assert json.loads((made.folder / "params.json").read_text())["mlaas_spark"]["rounding"] > 1e-3


# models that look at the mask


def masked_model(inputs: InputLayout) -> Any:
    """A model of all inputs of a layout."""
    import keras

    keras.utils.set_random_seed(3)
    tensors = inputs.keras_inputs()
    flat = [keras.layers.Flatten()(tensor) for tensor in tensors.values()]
    hidden = keras.layers.Dense(8, activation="tanh")(keras.layers.Concatenate()(flat))
    given = tensors if inputs.kind == "groups" else [*tensors.values()]
    return keras.Model(given, keras.layers.Dense(2, activation="softmax")(hidden))


@pytest.mark.parametrize("kind", ["matrix+mask", "groups"])
def test_a_model_that_looks_at_the_mask_is_told_by_the_sentinel_in_both_bundles(
    chunks: Chunks, tmp_path: Path, kind: Any
) -> None:
    inputs = InputLayout.of(TRANSFORM, kind)
    model = masked_model(inputs)
    made = write_bundles(model, chunks.stream(), ExportConfig(), "ab", tmp_path, inputs=inputs)
    events = chunks.of("train")
    features = kernel_matrix(events, TRANSFORM)
    expected = model.predict(inputs.arrays(features.matrix, features.mask), verbose=0)
    blind = model.predict(inputs.arrays(features.matrix, np.ones_like(features.mask)), verbose=0)
    assert np.abs(blind - expected).max() > 1e-3
    sent = {"raw": sent_of(events), "features": np.where(features.mask, features.matrix, np.float32(-1e30))}
    for name, bundle in made.items():
        np.testing.assert_allclose(run_savedmodel(bundle.folder, sent[name]), expected, rtol=0, atol=1e-6)
        contents = read_bundle(bundle.folder)
        assert (contents.sending.mask, contents.sending.missing) == (True, -1e30)
        # and in prediction, which has matrix and mask
        matrix = kernel_matrix(events, contents.takes).matrix
        found = SavedModel.of(contents)()(matrix, features.mask)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    bare = contents_of(model, TRANSFORM, inputs, "model", (), {})
    found = SavedModel.of(bare)()(features.matrix, features.mask)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_regression_is_described_by_its_targets(make_chunks: MakeChunks, tmp_path: Path, chunks: Chunks) -> None:
    events = [{**event, "second": 1.0} for event in chunks.of("test")]
    stream = make_chunks({(0, "test"): events}, targets=2).stream()
    made = write_bundle(make_net(2), stream, ExportConfig(), "ab", tmp_path / "out", kind="raw")
    card = (made.folder / "MODEL_CARD.md").read_text()
    assert "The answer is an estimate of: `3 * nJet - 1`, `-nJet`." in card
    assert f"| test | {len(events)} |" in card


def test_prediction_with_a_raw_bundle_scores_like_the_model(raw: Bundle, chunks: Chunks, net: Any) -> None:
    contents, events = read_bundle(raw.archive), chunks.of("train")
    values, features = kernel_matrix(events, contents.takes), kernel_matrix(events, contents.transform)
    found = SavedModel.of(contents)()(values.matrix, values.mask)
    np.testing.assert_allclose(found, net.predict(features.matrix, verbose=0), rtol=0, atol=1e-6)


# the model card


def test_the_card_says_what_the_model_is_made_of_and_how_to_ask_it(raw: Bundle, chunks: Chunks) -> None:
    card = (raw.folder / "MODEL_CARD.md").read_text()
    for line in (
        f"# {raw.name}",
        "Finds | signals.",
        "one row of W = 5 numbers",
        "sent as `-1e+30`",
        "| `events.root` | `Events` |",
        "| train | 176 | 175 | 351 |",
        "| auc | 0.987654 |",
        "| events | 1,234 |",
        "| `MET` | float32 | 0 | 1 | -20 to 60 |",
        "| `nJet` | uint32 | 1 | 1 | - |",
        "| `Jet_pt` | list<float32> | 2 to 4 | 3 | 0 to 90 |",
        "| trained | 2026-11-25T21:00:00+00:00 |",
        f"| digest of specs | `{'ab' * 32}` |",
        f"| digest of training events | `{chunks.manifest.content_digest}` |",
        "| keras | 3.15.1 |",
        "To be filled in by whoever publishes the model",
    ):
        assert line in card


def test_the_event_of_the_card_gets_the_score_of_the_card(raw: Bundle, made: Bundle) -> None:
    for bundle in (raw, made):
        blocks = re.findall(r"```json\n(.*?)\n```", (bundle.folder / "MODEL_CARD.md").read_text())
        row, scores = map(json.loads, blocks)
        assert row["model"] == bundle.name
        assert row["keys"] == ["MET", "nJet", "Jet_pt_0", "Jet_pt_1", "Jet_pt_2"]
        found = run_savedmodel(bundle.folder, np.array([row["values"]], np.float32))
        np.testing.assert_allclose(found[0], scores, rtol=0, atol=1e-6)


# hostile tars


def pack(path: Path, members: list[tarfile.TarInfo | tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


ROOT = special("m", tarfile.DIRTYPE)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("/etc/evil", b"x")], "'/etc/evil' is no part of a bundle"),
        ([ROOT, ("m/../../evil", b"x")], "no part of a bundle"),
        ([ROOT, ("../evil", b"x")], "no part of a bundle"),
        ([ROOT, special("m/params.json", tarfile.SYMTYPE, "/etc/passwd")], "neither a file nor a folder"),
        ([ROOT, special("m/params.json", tarfile.LNKTYPE, "m/x")], "neither a file nor a folder"),
        ([ROOT, special("m/params.json", tarfile.CHRTYPE)], "neither a file nor a folder"),
        ([ROOT, special("m/params.json", tarfile.FIFOTYPE)], "neither a file nor a folder"),
        ([ROOT, ("m/params.json", b"1"), ("m/params.json", b"2")], "comes twice"),
        ([ROOT, ("m/./params.json", b"1"), ("m/params.json", b"2")], "comes twice"),
        ([ROOT, ("m/run.sh", b"x")], "no part of a bundle"),
        ([ROOT, special("m/variables", tarfile.DIRTYPE), ("m/variables/.bashrc", b"x")], "no part of a bundle"),
        ([ROOT, special("n", tarfile.DIRTYPE)], "is of another model"),
        ([special("my-model", tarfile.DIRTYPE)], "no part of a bundle"),
        ([("m/params.json", b"{}")], "does not come before it"),
        ([], "holds no model"),
    ],
)
def test_a_hostile_tar_is_refused_and_writes_nothing(
    tmp_path: Path, members: list[Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "work"))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ServingError, match=message):
        serve_check(pack(tmp_path / "evil.tar.gz", members))
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "evil.tar.gz"}


def test_a_tar_that_says_it_is_too_large_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    huge = tarfile.TarInfo("m/check.npz")
    huge.size = 9 * 2**30
    path = tmp_path / "huge.tar.gz"
    path.write_bytes(gzip.compress(ROOT.tobuf() + huge.tobuf()))
    with pytest.raises(ServingError, match="makes it too large"):
        serve_check(path)


@pytest.mark.parametrize(
    "content", [b"", b"no gzip at all", gzip.compress(b"no tar at all" * 100)], ids=["empty", "no gzip", "no tar"]
)
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar.gz").write_bytes(content)
    with pytest.raises(ServingError, match="cannot read the bundle"):
        serve_check(tmp_path / "x.tar.gz")


def test_a_cut_tar_is_refused(made: Bundle, tmp_path: Path) -> None:
    (tmp_path / "cut.tar.gz").write_bytes(made.archive.read_bytes()[:-2000])
    with pytest.raises(ServingError, match="cannot read the bundle"):
        serve_check(tmp_path / "cut.tar.gz")


def test_a_missing_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="No such file"):
        serve_check(tmp_path / "none.tar.gz")


# SavedModels


def events(n: int, width: int = 5) -> Any:
    return np.random.default_rng(2).normal(size=(n, width)).astype(np.float32)


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_a_savedmodel_fed_by_op_name_scores_like_the_model(tmp_path: Path, outputs: int) -> None:
    model, x = make_net(outputs), events(1000)
    write_savedmodel(model, 5, tmp_path / "s")
    served = run_savedmodel(tmp_path / "s", x)
    assert served.dtype == np.float32
    np.testing.assert_allclose(served, model.predict(x, verbose=0), atol=1e-6)
    np.testing.assert_allclose(run_savedmodel(tmp_path / "s", x[:1]), served[:1], atol=1e-6)


def test_scores_of_another_type_are_served_as_float32(tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(1, dtype="float64")])
    write_savedmodel(model, 5, tmp_path / "s")
    assert run_savedmodel(tmp_path / "s", events(3)).dtype == np.float32


def test_subclassed_models_are_served_and_bundled(
    model_file: Callable[[str], Path], chunks: Chunks, tmp_path: Path
) -> None:
    text = """
    import keras

    class Net(keras.Model):
        def __init__(self, **kwds):
            super().__init__(**kwds)
            self.drop, self.dense = keras.layers.Dropout(0.5), keras.layers.Dense(1, activation="sigmoid")

        def call(self, x, training=False):
            return self.dense(self.drop(x, training=training))

    def model(idim):
        net = Net()
        net.compile(loss="binary_crossentropy", optimizer="sgd")
        return net
    """
    model = load_user_model(model_file(text), InputLayout.matrix(5))
    made = write_bundle(model, chunks.stream(), ExportConfig(), "ab", tmp_path / "out")
    assert serve_check(made.archive)["difference"] <= 1e-6


def write_with_tensorflow(folder: Path, signature: str = "serving_default", argument: str = "inputs_input") -> None:
    import tensorflow as tf

    class Module(tf.Module):  # type: ignore[misc] # TensorFlow has no types
        def __init__(self) -> None:
            super().__init__()
            self.factor = tf.Variable(2.0)

    module = Module()
    spec = tf.TensorSpec((None, 5), tf.float32, name=argument)
    function = tf.function(lambda x: module.factor * x, input_signature=[spec])
    tf.saved_model.save(module, str(folder), signatures={signature: function})


def test_a_savedmodel_of_another_signature_is_refused(tmp_path: Path) -> None:
    write_with_tensorflow(tmp_path / "s", signature="predict")
    with pytest.raises(ServingError, match="has the signatures predict, the server needs serving_default alone"):
        run_savedmodel(tmp_path / "s", events(2))


def test_a_savedmodel_of_another_argument_is_refused(tmp_path: Path) -> None:
    write_with_tensorflow(tmp_path / "s", argument="x")
    with pytest.raises(ServingError, match="takes x"):
        run_savedmodel(tmp_path / "s", events(2))


def test_a_savedmodel_without_variables_is_fetched_elsewhere(tmp_path: Path) -> None:
    import tensorflow as tf

    spec = tf.TensorSpec((None, 5), tf.float32, name="inputs_input")
    function = tf.function(lambda x: 2.0 * x, input_signature=[spec])
    tf.saved_model.save(tf.Module(), str(tmp_path / "s"), signatures={"serving_default": function})
    with pytest.raises(ServingError, match="fetched at PartitionedCall:0, the server uses"):
        run_savedmodel(tmp_path / "s", events(2))


def test_a_savedmodel_that_writes_files_is_refused_and_does_not(tmp_path: Path) -> None:
    import tensorflow as tf

    variable = tf.Variable(1.0)
    module = tf.Module()
    module.variable = variable

    def score(x: Any) -> Any:
        with tf.control_dependencies([tf.io.write_file(str(tmp_path / "ran"), "x")]):
            return variable * x

    spec = tf.TensorSpec((None, 5), tf.float32, name="inputs_input")
    function = tf.function(score, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "s"), signatures={"serving_default": function})
    with pytest.raises(ServingError, match="has the op WriteFile"):
        run_savedmodel(tmp_path / "s", events(2))
    assert not (tmp_path / "ran").exists()


def test_events_of_another_width_are_refused(made: Bundle) -> None:
    with pytest.raises(ServingError, match=r"takes float32 \(None, 5\), the events are float32 \(None, 6\)"):
        run_savedmodel(made.folder, events(2, width=6))


def test_running_a_savedmodel_writes_nothing_to_the_terminal(made: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    run_savedmodel(made.folder, events(2))
    assert capfd.readouterr() == ("", "")


def test_other_lines_on_stderr_are_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with savedmodel.without_start_up_lines():
        os.write(2, b"I0000 MLIR V1 optimization pass is not enabled\nan error\n")
    assert capfd.readouterr().err == "an error\n"


# names that users choose


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_model_saved_by_keras_loads_back(net: Any, tmp_path: Path, name: str, capfd: Any) -> None:
    import keras

    path = save_as(net, 5, tmp_path / "new" / name)
    assert capfd.readouterr() == ("", "")
    loaded = keras.models.load_model(path, compile=False)
    np.testing.assert_array_equal(loaded.predict(events(4), verbose=0), net.predict(events(4), verbose=0))
    assert [path.name for path in path.parent.iterdir()] == [name]


def test_a_pb_name_is_a_savedmodel_folder_and_can_be_replaced(net: Any, tmp_path: Path) -> None:
    for model in (make_net(2), net):
        path = save_as(model, 5, tmp_path / "model.pb")
    np.testing.assert_allclose(run_savedmodel(path, events(4)), net.predict(events(4), verbose=0), atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pb"]


def test_another_suffix_is_refused_with_what_is_possible(net: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"model\.onnx: give a name that ends in \.keras, \.h5 or \.pb"):
        save_as(net, 5, tmp_path / "model.onnx")


def test_a_folder_that_holds_something_else_is_kept(net: Any, tmp_path: Path) -> None:
    (tmp_path / "model.pb").mkdir()
    (tmp_path / "model.pb" / "thesis.tex").write_text("years")
    with pytest.raises(ExportError, match="holds no model"):
        save_as(net, 5, tmp_path / "model.pb")
    assert (tmp_path / "model.pb" / "thesis.tex").read_text() == "years"


def test_chunks_without_any_events_cannot_be_exported(net: Any, make_chunks: MakeChunks, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no events to check"):
        write_bundle(net, make_chunks({}).stream(), ExportConfig(), "ab", tmp_path / "out")
