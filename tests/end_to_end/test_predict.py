"""``mlaas-spark predict`` of a run and of a bundle, against uproot, awkward, numpy and Keras' own predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

from mlaas_spark import manifest, pipeline
from mlaas_spark.config import resolve
from mlaas_spark.runs import Journal
from tests.end_to_end.conftest import EVENTS, MODEL

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa
    from pyspark.sql import SparkSession

    from tests.end_to_end.conftest import Command

THREE = MODEL.replace('Dense(1), Activation("sigmoid")', 'Dense(3), Activation("softmax")').replace(
    "binary_crossentropy", "sparse_categorical_crossentropy"
)


def trained(sample: Path, folder: Path, model: str, groups: dict[str, int], **settings: Any) -> str:
    """A run folder."""
    (folder / "model.py").write_text(model)
    content = {
        "runs": str(folder / "runs"),
        "input": {
            "groups": [{"files": str(sample / files), "label": label} for files, label in groups.items()],
            "derive": {"HT": "sum(Jet_pt)"},
        },
        "features": {"caps": {"Jet_pt": 2}, "overrides": {"MET_pt": "standard"}},
        "train": {"model": str(folder / "model.py"), "epochs": 1, "batch_size": 64},
        **settings,
    }
    return pipeline.train(resolve(content), Journal()).folder


@pytest.fixture(scope="module")
def binary(spark: SparkSession, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of a model with one output, and with a derived branch and a cap."""
    assert spark.version
    return trained(sample, tmp_path_factory.mktemp("binary"), MODEL, {"signal_*.root": 1, "background_*.root": 0})


def columns_of(values: ak.Array, dim: int) -> npt.NDArray[np.float64]:
    """Values of a branch by awkward: a column, or for lists ``dim`` of them and NaN behind."""
    padded = ak.fill_none(ak.pad_none(values, dim, clip=True), np.nan) if values.ndim > 1 else values[:, np.newaxis]
    return np.asarray(ak.to_numpy(padded), np.float64)


def matrix_of(run: str, paths: list[Path]) -> npt.NDArray[np.float32]:
    """The feature matrix of ROOT files by uproot, awkward and numpy, from specs.json and the settings above."""
    specs = json.loads((Path(run) / "specs.json").read_text())["mlaas_spark"]["branches"]
    parts = []
    for path in paths:
        with uproot.open(path) as file:
            arrays = dict(zip(file["Events"].keys(), file["Events"].arrays(how=tuple), strict=True))
        arrays["HT"] = ak.sum(ak.values_astype(arrays["Jet_pt"], np.float64), axis=1)
        columns = []
        for jagged in (False, True):
            for name in sorted(name for name, stats in specs.items() if stats["jagged"] == jagged):
                stats = specs[name]
                x = columns_of(arrays[name], min(stats["dim"], 2) if name == "Jet_pt" else stats["dim"])
                low, spread = stats["min"], stats["max"] - stats["min"]
                if name == "MET_pt":
                    low, spread = stats["mean"], stats["std"]
                scaled = (x - low) * (1.0 / spread) if spread else np.zeros_like(x)
                columns.append(np.where(np.isfinite(x), scaled, 0.0))
        parts.append(np.concatenate(columns, axis=1).astype(np.float32))
    return np.concatenate(parts)


def keras_scores(run: str, paths: list[Path]) -> npt.NDArray[np.float32]:
    import keras

    model = keras.saving.load_model(Path(run) / "model.keras", compile=False)
    scores: npt.NDArray[np.float32] = model.predict(matrix_of(run, paths), verbose=0)
    return scores


def rows_of(folder: str) -> pa.Table:
    """All rows of a data set, in the order of inputs and entries."""
    import pyarrow as pa

    files = sorted(manifest.read(folder).files, key=lambda file: file.ranges)
    return pa.concat_tables(pq.read_table(Path(folder) / file.path) for file in files)


def test_scores_of_a_run_are_those_of_keras_on_features_by_numpy(run: Command, binary: str, sample: Path) -> None:
    paths = [sample / "signal_0.root", sample / "background_1.root"]
    outcome = run("predict", *map(str, paths), "--run", binary, "--out", "out", "--keep", "MET_*,HT")
    assert outcome.code == 0, outcome.err
    table = rows_of("out")
    assert table.column_names == [
        *("run", "luminosityBlock", "event", "HT", "MET_phi", "MET_pt", "__source", "__entry", "__selected", "score"),
    ]
    expected = keras_scores(binary, paths)
    assert len(expected) == EVENTS // 2
    np.testing.assert_allclose(table["score"].to_numpy(), expected[:, 0], rtol=0, atol=1e-6)
    n = f"{EVENTS // 2:,}"
    assert f"{n} entries in = {n} rows out: {n} events scored + 0 not selected" in outcome.out
    # the cap of training cuts here too, and is told
    assert "Jet_pt" in outcome.out
    assert "cut" in outcome.out


def test_bundle_scores_a_converted_set_like_its_run_scores_the_files(run: Command, binary: str, sample: Path) -> None:
    (path,) = sample.glob("signal_1.root")
    assert run("predict", str(path), "--run", binary, "--out", "of_run", "--selection", "nJet >= 2").code == 0
    converted = run("convert", str(path), "--out", "set", "--derive", "HT=sum(Jet_pt)", "--selection", "nJet >= 2")
    assert converted.code == 0, converted.err
    bundle = Path(binary) / "bundle" / f"{json.loads((Path(binary) / 'run.json').read_text())['bundle']}.tar.gz"
    outcome = run("predict", "set", "--bundle", str(bundle), "--out", "of_bundle")
    assert outcome.code == 0, outcome.err
    of_run, of_bundle = rows_of("of_run"), rows_of("of_bundle")
    assert of_run.num_rows == EVENTS // 4
    of_run = of_run.filter(of_run["__selected"])
    assert 0 < of_run.num_rows < EVENTS // 4
    assert of_bundle["event"] == of_run["event"]
    np.testing.assert_allclose(of_bundle["score"].to_numpy(), of_run["score"].to_numpy(), rtol=0, atol=1e-6)
    # a bundle knows the ranges of training too
    assert manifest.read("of_bundle").drift == manifest.read("of_run").drift != {}
    # the run's own derived branches give way where the input has them
    again = run("predict", "set", "--run", binary, "--out", "again", "--set", "input.derive={}")
    assert again.code == 0, again.err
    np.testing.assert_allclose(rows_of("again")["score"].to_numpy(), of_run["score"].to_numpy(), rtol=0, atol=1e-6)


def test_several_outputs_have_a_column_each_by_label(run: Command, sample: Path, tmp_path: Path) -> None:
    groups = {"signal_0.root": 0, "signal_1.root": 1, "background_*.root": 2}
    folder = trained(sample, tmp_path, THREE, groups, export={"labels": ["ggH", "VBF.like", "QCD"]})
    outcome = run("predict", str(sample / "signal_0.root"), "--run", folder, "--out", "out")
    assert outcome.code == 0, outcome.err
    table = rows_of("out").select(["score_ggH", "score_VBF_like", "score_QCD"])
    found = np.column_stack([column.to_numpy() for column in table.columns])
    np.testing.assert_allclose(found, keras_scores(folder, [sample / "signal_0.root"]), rtol=0, atol=1e-6)


HALVES = {"first": (0, 1300), "second": (1300, 2421)}


@pytest.fixture
def halves(data_folder: Path, tmp_path: Path) -> list[str]:
    """HZZ in two files of one name, in two folders, in baskets of 300 events."""
    with uproot.open(data_folder / "uproot-HZZ.root") as file:
        arrays = file["events"].arrays()
    for folder, (start, stop) in HALVES.items():
        (tmp_path / folder).mkdir()
        with uproot.recreate(tmp_path / folder / "HZZ.root") as file:
            kinds = {name: arrays[name].type.content for name in arrays.fields}
            tree = file.mktree("events", kinds, counter_name=lambda name: f"count_{name}")
            for first in range(start, stop, 300):
                tree.extend({name: arrays[name][first : min(first + 300, stop)] for name in arrays.fields})
    return [str(tmp_path / folder / "HZZ.root") for folder in HALVES]


@pytest.mark.real_data
def test_friend_trees_of_hzz_are_its_parquet_scores_and_those_of_keras(
    run: Command, halves: list[str], data_folder: Path, model_file: Path, tmp_path: Path
) -> None:
    settings = {"input": {"files": [str(data_folder / "uproot-HZZ.root")], "label": "NMuon >= 2", "exclude": "NMuon"}}
    training = {"model": str(model_file), "epochs": 1, "batch_size": 64}
    folder = pipeline.train(resolve({**settings, "runs": str(tmp_path), "train": training}), Journal()).folder
    given = ["predict", *halves, "--run", folder, "--selection", "NJet >= 2", "--keep", "NJet,Muon_Px"]
    given += ["--set", "input.identifiers=[]", "--set", "spark.events_per_task=600"]
    outcome = run(*given, "--out", "friends", "--out-format", "root")
    assert outcome.code == 0, outcome.err
    assert "2,421 entries in = 2,421 rows out: 824 events scored + 1,597 not selected" in outcome.out
    assert "HZZ.root:events" in outcome.out
    assert "friends/HZZ.scores.root" in outcome.out
    assert run(*given, "--out", "parquet").code == 0
    of_parquet = rows_of("parquet")
    made = sorted(manifest.read("friends").files, key=lambda file: file.ranges)
    assert [file.rows for file in made] == [1300, 1121]
    friends = []
    for path, file in zip(halves, made, strict=True):
        with uproot.open(path) as source, uproot.open(Path("friends") / file.path) as written:
            theirs, ours = source["events"].arrays(["NJet", "Muon_Px"]), written["events"].arrays()
        assert ak.array_equal(ours["NJet"], theirs["NJet"])
        assert ak.array_equal(ours["Muon_Px"], theirs["Muon_Px"])
        assert ak.array_equal(ours["selected"], theirs["NJet"] >= 2)
        friends.append(ours)
    scores = ak.to_numpy(ak.concatenate(friends)["score"])
    assert np.array_equal(scores, of_parquet["score"].fill_null(np.nan).to_numpy(), equal_nan=True)
    passes = np.array(of_parquet["__selected"])
    assert np.isnan(scores).tolist() == (~passes).tolist()
    expected = keras_of_specs(folder, [Path(path) for path in halves])
    np.testing.assert_allclose(scores[passes], expected[passes, 0], rtol=0, atol=1e-6)


def keras_of_specs(folder: str, paths: list[Path]) -> npt.NDArray[np.float32]:
    """Keras' own predict on features by awkward and numpy, all branches scaled to their ranges in training."""
    import keras

    specs = json.loads((Path(folder) / "specs.json").read_text())["mlaas_spark"]["branches"]
    parts = []
    for path in paths:
        with uproot.open(path) as file:
            arrays = file["events"].arrays(list(specs))
        columns = []
        for jagged in (False, True):
            for name in sorted(name for name, stats in specs.items() if stats["jagged"] == jagged):
                x, low, high = columns_of(arrays[name], specs[name]["dim"]), specs[name]["min"], specs[name]["max"]
                columns.append(np.where(np.isfinite(x), (x - low) / (high - low) if high > low else 0.0, 0.0))
        parts.append(np.concatenate(columns, axis=1).astype(np.float32))
    model = keras.saving.load_model(Path(folder) / "model.keras", compile=False)
    scores: npt.NDArray[np.float32] = model.predict(np.concatenate(parts), verbose=0)
    return scores


def test_scores_lie_beside_all_that_convert_writes(run: Command, binary: str, sample: Path) -> None:
    path = str(sample / "signal_0.root")
    outcome = run("predict", path, "--run", binary, "--out", "beside", "--beside", "--selection", "nJet >= 2")
    assert outcome.code == 0, outcome.err
    assert run("convert", path, "--out", "set", "--derive", "HT=sum(Jet_pt)").code == 0
    found, converted = rows_of("beside"), rows_of("set")
    assert {*found.column_names} == {*converted.column_names, "__source", "__selected", "score"}
    assert manifest.value_digest(found.select(converted.column_names)) == manifest.value_digest(converted)
    passes = [n >= 2 for n in converted["nJet"].to_pylist()]
    assert found["__selected"].to_pylist() == passes
    assert found["score"].is_valid().to_pylist() == passes


def test_what_is_excluded_from_what_lies_beside_may_not_be_what_the_model_needs(
    run: Command, binary: str, sample: Path
) -> None:
    given = ["predict", str(sample / "signal_0.root"), "--run", binary, "--out", "out", "--beside"]
    outcome = run(*given, "--set", "input.exclude=[Muon_ph*]")
    assert outcome.code == 2
    assert "input.exclude has 'Muon_ph*', and the model needs Muon_phi" in outcome.err
    outcome = run(*given, "--set", "input.exclude=[run]", "--set", "input.identifiers=[event]")
    assert outcome.code == 0, outcome.err
    columns = rows_of("out").column_names
    assert "run" not in columns
    assert {"event", "luminosityBlock", "Muon_phi", "score"} < {*columns}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--beside", "--out-format", "root"], "beside is for Parquet: a friend tree lies beside its input anyway"),
        (["--beside", "--keep", "MET_pt"], "beside keeps all branches: leave out keep"),
        (["--out-format", "csv"], "predict.format: Input should be 'parquet' or 'root' (got 'csv')"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_starts(
    run: Command, options: list[str], says: str
) -> None:
    outcome = run("predict", "f.root", "--run", "r", "--out", "out", *options)
    assert outcome.code == 2
    assert says in outcome.err


def test_selection_that_keeps_none_is_said(run: Command, binary: str, sample: Path) -> None:
    path = str(sample / "signal_0.root")
    outcome = run("predict", path, "--run", binary, "--out", "out", "--selection", "nJet > 99")
    assert outcome.code == 0, outcome.err
    assert "selection 'nJet > 99' keeps none of the events: none has a score" in outcome.err
    assert rows_of("out")["score"].null_count == EVENTS // 4


def test_input_without_branches_of_the_model_is_refused(run: Command, binary: str, tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "other.root") as file:
        file["Events"] = {"MET_pT": np.ones(5, np.float32), "event": np.arange(5)}
    outcome = run("predict", "other.root", "--run", binary, "--out", "out")
    assert outcome.code == 4
    (message,) = outcome.messages
    assert "branches that the model was trained on are not in" in message
    assert "other.root" in message
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--run", "nowhere"], 6, "no such model: nowhere"),
        ([], 2, "name one model"),
        (["--run", "a", "--bundle", "b"], 2, "name one model"),
        (["--bundle", "."], 6, "has no folder assets"),
    ],
)
def test_no_model_is_an_error_before_anything_starts(run: Command, arguments: list[str], code: int, says: str) -> None:
    outcome = run("predict", "f.root", "--out", "out", *arguments)
    assert outcome.code == code
    assert says in outcome.err


def test_job_does_as_the_command_does() -> None:
    job = Path(__file__).parents[2] / "jobs" / "predict.py"
    lines = job.read_text().splitlines()
    assert len(lines) <= 40
    assert 'main(["predict", *sys.argv[1:]])' in job.read_text()
