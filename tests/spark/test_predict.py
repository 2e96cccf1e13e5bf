"""spark.predict: a model made of numpy over events of every format, against features by plain Python."""

from __future__ import annotations

import dataclasses
import math
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlaas_spark import manifest as manifests
from mlaas_spark.drift import Drift
from mlaas_spark.errors import ChunkError, ConfigError, SpecsError, SpecsMismatchError
from mlaas_spark.formats import Format
from mlaas_spark.layout import FeatureLayout
from mlaas_spark.schema import of_size
from mlaas_spark.spark import convert as converting
from mlaas_spark.spark import session
from mlaas_spark.spark.predict import PredictRequest, predict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    from pyspark.sql import SparkSession

    from mlaas_spark.manifest import Manifest
    from mlaas_spark.spark.ingest import Events
    from mlaas_spark.transform import FeatureTransform
    from tests.spark.conftest import CrashAt, Sample

KEYS = ("run", "luminosityBlock", "event")


def weights_of(transform: FeatureTransform, outputs: int = 1) -> npt.NDArray[np.float32]:
    return np.random.default_rng(5).normal(size=(transform.width, outputs)).astype(np.float32)


def request_of(transform: FeatureTransform, outputs: Sequence[str] = ("score",), **settings: Any) -> PredictRequest:
    """A linear model that looks at matrix and mask, by numpy."""
    scorer = partial(partial, np.einsum, "wk,nw,nw->nk", weights_of(transform, len(outputs)))
    return PredictRequest("linear_1", transform, {}, scorer, tuple(outputs), KEYS, batch_size=64, **settings)


def listed(folder: Path, manifest: Manifest) -> pa.Table:
    """The rows of all files in the order of inputs and entries."""
    files = sorted(manifest.files, key=lambda file: file.ranges)
    return pa.concat_tables(pq.read_table(folder / file.path) for file in files)


def scores_of(table: pa.Table, outputs: Sequence[str] = ("score",)) -> npt.NDArray[np.float32]:
    return np.column_stack([table[name].to_numpy() for name in outputs])


def without_inputs(events: Events) -> Events:
    """The same events of files that are gone: whoever reads one fails."""
    gone = tuple(dataclasses.replace(file, path=f"/gone{file.path}") for file in events.plan.files)
    return dataclasses.replace(events, plan=dataclasses.replace(events.plan, files=gone))


@pytest.fixture(scope="module")
def predicted(
    opened: Callable[..., Events],
    sample: Sample,
    transform: FeatureTransform,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Manifest]:
    """Scores of the sample's ROOT files in ranges of at most 200 events; no test changes them."""
    folder = tmp_path_factory.mktemp("predict") / "out"
    request = request_of(transform, keep=("Jet_pt", "MET_pt"))
    return folder, predict(opened(sample.paths(), 200), request, str(folder))


def test_rows_are_keys_kept_branches_source_entry_and_score_in_entry_order(
    predicted: tuple[Path, Manifest],
    sample: Sample,
    opened: Callable[..., Events],
    same_values: Callable[[Any, Any], bool],
) -> None:
    folder, manifest = predicted
    table = listed(folder, manifest)
    assert table.column_names == [*KEYS, "Jet_pt", "MET_pt", "__source", "__entry", "__selected", "score"]
    assert table["__selected"].to_pylist() == [True] * 1280
    assert table.schema.field("score").type == pa.float32()
    for name in (*KEYS, "Jet_pt", "MET_pt"):
        assert same_values(table[name].to_pylist(), sample.columns(name)), name
    files = opened(sample.paths(), 200).plan.files
    expected = [(f"{files[index].uuid}:Events", entry) for index, entry in sample.events]
    assert list(zip(table["__source"].to_pylist(), table["__entry"].to_pylist(), strict=True)) == expected
    assert manifest.ledger == {"entries": 1280, "events": 1280, "selection": 0, "rows": 1280}
    assert {path.name for path in folder.iterdir()} == {"scores", "manifest.json", "_manifests"}


@pytest.mark.parametrize("kind", ["root", "parquet", "json", "csv"])
def test_scores_are_those_of_features_by_plain_python(
    opened: Callable[..., Events],
    sample: Sample,
    transform: FeatureTransform,
    plain_matrix: Callable[..., tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]],
    tmp_path: Path,
    kind: str,
) -> None:
    outputs = ("score_a", "score_b")
    manifest = predict(opened(sample.paths(kind), 200), request_of(transform, outputs), str(tmp_path / "out"))
    matrix, _ = plain_matrix(list(sample.events.values()), transform)
    expected = matrix.astype(np.float64) @ weights_of(transform, 2)
    np.testing.assert_allclose(scores_of(listed(tmp_path / "out", manifest), outputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["parquet", "root"])
def test_digest_does_not_depend_on_partitions(
    opened: Callable[..., Events],
    sample: Sample,
    transform: FeatureTransform,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    events = opened(sample.paths(), 100, selection="nJet >= 2")
    request = request_of(transform, keep=("Jet_pt", "MET_pt"), format=Format(kind))
    digests = []
    for count in (1, 2, 7):
        monkeypatch.setattr(session, "partitions", lambda *_, count=count: count)
        digests.append(predict(events, request, str(tmp_path / str(count))).content_digest)
    assert len({*digests}) == 1


def test_events_that_fail_the_selection_are_marked_and_have_no_score(
    opened: Callable[..., Events],
    sample: Sample,
    transform: FeatureTransform,
    predicted: tuple[Path, Manifest],
    tmp_path: Path,
) -> None:
    passes = np.array([event["nJet"] >= 3 and event["flag"] for event in sample.events.values()])
    events = opened(sample.paths(), 200, selection="nJet >= 3 && flag")
    manifest = predict(events, request_of(transform), str(tmp_path / "out"))
    table, whole = listed(tmp_path / "out", manifest), listed(*predicted)
    assert table["event"] == whole["event"]
    assert table["__entry"] == whole["__entry"]
    assert table["__selected"].to_pylist() == passes.tolist()
    assert table["score"].is_null().to_pylist() == (~passes).tolist()
    found = table["score"].filter(pa.array(passes)).to_numpy()
    np.testing.assert_allclose(found, scores_of(whole)[passes, 0], rtol=1e-5, atol=1e-6)
    assert manifest.ledger == {
        "entries": 1280,
        "events": int(passes.sum()),
        "selection": int((~passes).sum()),
        "rows": 1280,
    }
    assert manifests.read(str(tmp_path / "out")) == manifest


def test_what_only_failing_events_have_is_no_drift_and_no_error(
    opened: Callable[..., Events], sample: Sample, transform: FeatureTransform, tmp_path: Path
) -> None:
    strict = dataclasses.replace(transform, nan="error")
    good = "not (isnan(MET_pt) or isnan(MET_sum) or any(isnan(Jet_pt)) or any(isnan(Jet_eta)) or any(isnan(Ele_pt)))"
    finite = "isfinite(MET_pt) and isfinite(MET_sum) and all(isfinite(Jet_pt)) and all(isfinite(Jet_eta))"
    events = opened(sample.paths(), 200, selection=f"{good} and {finite} and all(isfinite(Ele_pt))")
    manifest = predict(events, request_of(strict), str(tmp_path / "out"))
    assert 0 < manifest.ledger["selection"] < 1280
    assert not any(drift.missing for drift in manifest.drift.values())


@pytest.mark.parametrize("kind", ["parquet", "root"])
def test_selection_that_keeps_none_gives_rows_without_scores(
    opened: Callable[..., Events], sample: Sample, transform: FeatureTransform, tmp_path: Path, kind: str
) -> None:
    events = opened(sample.paths(), selection="nJet > 99")
    manifest = predict(events, request_of(transform, format=Format(kind)), str(tmp_path / "out"))
    assert manifest.ledger == {"entries": 1280, "events": 0, "selection": 1280, "rows": 1280}


def test_second_run_scores_nothing_and_a_new_file_alone(
    opened: Callable[..., Events], sample: Sample, transform: FeatureTransform, tmp_path: Path
) -> None:
    folder, request = tmp_path / "out", request_of(transform)

    def files() -> dict[Path, int]:
        return {path: path.stat().st_ino for path in folder.rglob("*.parquet")}

    first = predict(opened(sample.paths()[:2], 200), request, str(folder))
    before = files()
    assert predict(opened(sample.paths()[:2], 200), request, str(folder)) == first
    assert files() == before
    manifest = predict(opened(sample.paths(), 200), request, str(folder))
    assert before.items() <= files().items()
    assert (manifest.version, manifest.rows) == (2, 1280)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "linear_2"}, "holds scores of another model than linear_2: choose another folder"),
        ({"format": Format.ROOT}, r"holds scores as Parquet, not as friend trees \(ROOT\): choose another folder"),
        ({"keep": ("MET_pt",)}, "holds scores with other branches beside them"),
    ],
)
def test_other_scores_are_refused_and_stay(
    opened: Callable[..., Events],
    sample: Sample,
    transform: FeatureTransform,
    predicted: tuple[Path, Manifest],
    changes: dict[str, Any],
    says: str,
) -> None:
    request = request_of(transform, keep=("Jet_pt", "MET_pt"))
    other = dataclasses.replace(request, **changes)
    with pytest.raises(ChunkError, match=says):
        predict(opened(sample.paths(), 200), other, str(predicted[0]))
    assert manifests.read(str(predicted[0])) == predicted[1]


def test_folder_of_a_converted_set_is_refused(
    opened: Callable[..., Events], sample: Sample, transform: FeatureTransform, tmp_path: Path
) -> None:
    converting.convert(opened(sample.paths()[2:]), str(tmp_path / "set"))
    with pytest.raises(ChunkError, match=r"holds a data set of another kind \(events\), not scores"):
        predict(opened(sample.paths()[2:]), request_of(transform), str(tmp_path / "set"))


def test_rerun_after_a_crash_scores_only_what_was_not_scored(
    opened: Callable[..., Events],
    sample: Sample,
    transform: FeatureTransform,
    tmp_path: Path,
    crash_at: CrashAt,
) -> None:
    events, folder, request = opened(sample.paths(), 200), tmp_path / "out", request_of(transform)
    with crash_at(converting, "commit"):
        predict(events, request, str(folder))
    assert not (folder / "manifest.json").exists()
    assert predict(without_inputs(events), request, str(folder)).rows == 1280


def test_a_model_that_fails_leaves_nothing(
    opened: Callable[..., Events], sample: Sample, transform: FeatureTransform, tmp_path: Path
) -> None:
    strict = dataclasses.replace(transform, nan="error")
    with pytest.raises(SpecsError, match=r"MET_pt.*NaN"):
        predict(opened(sample.paths()[:1], 700), request_of(strict), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_was_not_as_in_training_is_counted(
    opened: Callable[..., Events], sample: Sample, transform: FeatureTransform, tmp_path: Path
) -> None:
    events = list(sample.events.values())
    narrow = dict(transform.layout.dims) | {"Ele_pt": 1}
    dims = tuple((name, narrow[name]) for name, _ in transform.layout.dims)
    capped = dataclasses.replace(transform, layout=FeatureLayout(dims))
    ranges = {"MET_pt": (10.0, 60.0), "Jet_pt": (20.0, math.inf), "flag": (0.0, 1.0)}
    request = dataclasses.replace(request_of(capped), ranges=ranges)
    manifest = predict(opened(sample.paths(), 200), request, str(tmp_path / "out"))
    met = [event["MET_pt"] for event in events]
    jets = [pt for event in events for pt in event["Jet_pt"]]
    assert manifest.drift["MET_pt"] == Drift(
        below=sum(pt < 10.0 for pt in met), above=sum(pt > 60.0 for pt in met), missing=sum(map(math.isnan, met))
    )
    assert manifest.drift["Jet_pt"] == Drift(below=sum(pt < 20.0 for pt in jets), missing=sum(map(math.isnan, jets)))
    assert manifest.drift["Ele_pt"] == Drift(cut=sum(max(len(event["Ele_pt"]) - 1, 0) for event in events))
    assert "flag" not in manifest.drift
    assert manifests.read(str(tmp_path / "out")).drift == manifest.drift


def test_undefined_scores_are_counted(
    opened: Callable[..., Events], sample: Sample, transform: FeatureTransform, tmp_path: Path
) -> None:
    weights = np.full((transform.width, 1), np.nan, np.float32)
    scorer = partial(partial, np.einsum, "wk,nw,nw->nk", weights)
    request = dataclasses.replace(request_of(transform), scorer=scorer)
    manifest = predict(opened(sample.paths()[2:]), request, str(tmp_path / "out"))
    assert manifest.drift["score"] == Drift(missing=130)


def test_missing_branches_are_all_named_with_the_nearest(
    opened: Callable[..., Events], sample: Sample, transform: FeatureTransform, tmp_path: Path
) -> None:
    events = opened(sample.paths(), exclude=("MET_pt", "Jet_id"))
    with pytest.raises(SpecsMismatchError, match=r"'MET_pt'; nearest: .*'Jet_id'; nearest: Jet_"):
        predict(events, request_of(transform), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_branches_of_another_kind_are_named(
    opened: Callable[..., Events], sample: Sample, transform: FeatureTransform, tmp_path: Path
) -> None:
    jagged = tuple(not is_jagged if name == "flag" else is_jagged for name, is_jagged in kinds(transform))
    other = dataclasses.replace(transform, jagged=jagged)
    with pytest.raises(SpecsMismatchError, match="flag is bool, not jagged numbers"):
        predict(opened(sample.paths()), request_of(other), str(tmp_path / "out"))


def kinds(transform: FeatureTransform) -> list[tuple[str, bool]]:
    return list(zip(transform.layout.branches, transform.jagged, strict=True))


def test_kept_branch_with_the_name_of_a_score_is_refused(
    opened: Callable[..., Events], sample: Sample, transform: FeatureTransform, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="'MET_pt' is a branch that is kept and the name of a score"):
        predict(opened(sample.paths()), request_of(transform, ("MET_pt",), keep=("MET_pt",)), str(tmp_path / "out"))


@pytest.mark.parametrize("cuts", [[10], [3, 3, 4], [1] * 10, [0, 7, 0, 3], [9, 1], []])
@pytest.mark.parametrize("size", [1, 3, 10, 11])
def test_batches_have_one_size_however_the_events_were_cut(cuts: list[int], size: int) -> None:
    rows = pa.RecordBatch.from_pydict({"x": list(range(10)), "l": [[i] * (i % 3) for i in range(10)]})
    starts = np.cumsum([0, *cuts])[:-1].tolist()
    batches = list(of_size((rows.slice(start, n) for start, n in zip(starts, cuts, strict=True)), size))
    n = sum(cuts)
    assert [batch.num_rows for batch in batches] == [min(size, n - start) for start in range(0, n, size)]
    assert [row for batch in batches for row in batch.to_pylist()] == rows.slice(0, n).to_pylist()


class Counted:
    """A scorer that writes down in which process it is unpickled; there it is called once a task."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._note("unpickled")

    def __call__(self) -> Any:
        self._note("asked")
        return lambda matrix, mask: matrix[:, :1] + mask[:, :1]

    def _note(self, what: str) -> None:
        with (self.folder / f"{what}-{os.getpid()}").open("a") as stream:
            stream.write("x")


def test_the_model_crosses_once_to_each_worker(
    opened: Callable[..., Events],
    sample: Sample,
    transform: FeatureTransform,
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # the scorer's class is of this module, which workers do not find of themselves
    monkeypatch.setitem(spark.sparkContext.environment, "PYTHONPATH", str(Path(__file__).parents[2]))
    request = dataclasses.replace(request_of(transform), scorer=Counted(tmp_path))
    predict(opened(sample.paths(), 100), request, str(tmp_path / "out"))
    times = {path.name: len(path.read_text()) for path in tmp_path.glob("*-*")}
    workers = {name.partition("-")[2] for name in times} - {str(os.getpid())}
    assert workers
    assert sum(times[f"asked-{pid}"] for pid in workers) > len(workers)  # more tasks than workers
    assert {times[f"unpickled-{pid}"] for pid in workers} == {1}


def test_scores_beside_all_branches_are_the_converted_rows_with_scores(
    opened: Callable[..., Events],
    sample: Sample,
    transform: FeatureTransform,
    predicted: tuple[Path, Manifest],
    tmp_path: Path,
) -> None:
    events = opened(sample.paths(), 200)
    request = request_of(transform, keep=events.plan.schema.names)
    table = listed(tmp_path / "out", predict(events, request, str(tmp_path / "out")))
    converted = listed(tmp_path / "set", converting.convert(events, str(tmp_path / "set")))
    assert {*table.column_names} - {*converted.column_names} == {"__source", "__selected", "score"}
    for name in converted.column_names:
        assert manifests.value_digest(table.select([name])) == manifests.value_digest(converted.select([name])), name
    assert table["score"] == listed(*predicted)["score"]
