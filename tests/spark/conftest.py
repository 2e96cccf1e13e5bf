"""One sample of events in every format, with the events kept beside it."""

from __future__ import annotations

import csv
import gzip
import json
import math
import subprocess
import sys
import textwrap
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import uproot

from mlaas_spark.config import ChunkConfig, FeatureConfig, InputConfig
from mlaas_spark.errors import ConfigError
from mlaas_spark.filesets import fileset
from mlaas_spark.selection import Expression
from mlaas_spark.spark import specs as spark_specs
from mlaas_spark.spark.chunks import ChunkRequest
from mlaas_spark.spark.ingest import Events, open_events
from mlaas_spark.transform import FeatureTransform
from mlaas_spark.usercode import UserFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import ModuleType

    import numpy.typing as npt
    from pyspark.sql import DataFrame, SparkSession

    CrashAt = Callable[[ModuleType, str], AbstractContextManager[None]]

TREE = "Events"
KEYS = ("run", "luminosityBlock", "event")
FLAT = {
    "MET_pt": "float32",
    "MET_sum": "float64",
    "const": "float32",
    "flag": "bool",
    "nEle_pt": "int32",
    "nJet": "int32",
}
JAGGED = {"Ele_pt": "float64", "Jet_eta": "float64", "Jet_id": "int32", "Jet_pt": "float32"}
FEATURES = sorted([*FLAT, *JAGGED])
KEY_TYPES = {"run": "uint32", "luminosityBlock": "uint32", "event": "uint64"}
TYPES = {**KEY_TYPES, **FLAT, **JAGGED}

Event = dict[str, Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("spark")


def events_of(n: int, run: int, seed: int) -> list[Event]:
    """Events with NaN, infinities, empty lists and, in the middle, a stretch without any jet."""
    random = np.random.default_rng(seed)

    def float32(value: float) -> float:
        return float(np.float32(value))

    events = []
    for entry in range(n):
        jets = 0 if n // 3 < entry < n // 3 + 40 else int(random.poisson(1.8))
        electrons = int(random.poisson(0.4))
        event: Event = {
            "run": run,
            "luminosityBlock": entry // 50 + 1,
            "event": 1000 * run + entry,
            "MET_pt": math.nan if entry % 53 == 7 else float32(random.gamma(2.0, 20.0)),
            "MET_sum": {11: math.inf, 12: -math.inf}.get(entry % 97, float(random.normal(100.0, 30.0))),
            "const": 1.5,
            "flag": bool(random.integers(2)),
            "nJet": jets,
            "Jet_pt": [float32(pt) for pt in random.exponential(40.0, jets)],
            "Jet_eta": [float(eta) for eta in random.normal(0.0, 1.5, jets)],
            "Jet_id": [int(number) for number in random.integers(-3, 7, jets)],
            "nEle_pt": electrons,
            "Ele_pt": [float(pt) for pt in random.exponential(10.0, electrons)],
        }
        if jets and entry % 31 == 3:
            event["Jet_pt"][0] = math.nan
        if jets and entry % 37 == 5:
            event["Jet_eta"][-1] = -math.inf
        events.append(event)
    return events


def write_root(
    path: Path, events: Sequence[Event], cluster: int, identity: int = 0, types: dict[str, str] = TYPES
) -> None:
    """A TTree with a cluster every ``cluster`` events; equal identity, equal uuid."""
    jets = sorted(name for name in types if name.startswith("Jet_"))
    lone = sorted(name for name in types if name in JAGGED and name not in jets)
    flat = [name for name in types if name not in {*jets, *lone, "nJet", "nEle_pt"}]
    made = uuid.UUID(int=identity) if identity else uuid.uuid5(uuid.NAMESPACE_URL, path.name)
    with uproot.recreate(path, uuid_function=lambda: made) as file:
        tree: Any = None
        for start in range(0, len(events), cluster):
            part = events[start : start + cluster]
            branches: dict[str, Any] = {name: np.array([e[name] for e in part], types[name]) for name in flat}
            for name in lone:
                branches[name] = _jagged([e[name] for e in part], types[name])
            if jets:
                branches["Jet"] = ak.zip(
                    {name.removeprefix("Jet_"): _jagged([e[name] for e in part], types[name]) for name in jets}
                )
            if tree is None:
                tree = file.mktree(
                    TREE,
                    {n: v.type.content if isinstance(v, ak.Array) else v.dtype for n, v in branches.items()},
                )
            tree.extend(branches)


def _jagged(lists: list[list[Any]], dtype: str) -> ak.Array:
    values = np.array([value for values in lists for value in values], dtype)
    return ak.unflatten(values, [len(values) for values in lists])


def write_parquet(path: Path, events: Sequence[Event], cluster: int, **_: Any) -> None:
    pq.write_table(_table(events), path, row_group_size=cluster)


def write_arrow(path: Path, events: Sequence[Event], cluster: int, **_: Any) -> None:
    pyarrow.feather.write_feather(_table(events), str(path), chunksize=cluster)


def _table(events: Sequence[Event]) -> pa.Table:
    fields = [
        pa.field(name, pa.list_(_arrow(dtype)) if name in JAGGED else _arrow(dtype)) for name, dtype in TYPES.items()
    ]
    return pa.table(
        [pa.array([e[f.name] for e in events], f.type, from_pandas=False) for f in fields], pa.schema(fields)
    )


def _arrow(dtype: str) -> pa.DataType:
    return pa.bool_() if dtype == "bool" else pa.from_numpy_dtype(dtype)


def write_json(path: Path, events: Sequence[Event], **_: Any) -> None:
    text = "".join(json.dumps(event) + "\n" for event in events)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        path.write_text(text)


def write_csv(path: Path, events: Sequence[Event], **_: Any) -> None:
    """Lists as JSON text, infinities as Spark reads them."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(TYPES)
        writer.writerows([_cell(event[name]) for name in TYPES] for event in events)


def _cell(value: Any) -> Any:
    if isinstance(value, bool | list):
        return json.dumps(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Inf" if value > 0 else "-Inf"
    return value


WRITERS: dict[str, Callable[..., None]] = {
    "root": write_root,
    "parquet": write_parquet,
    "arrow": write_arrow,
    "json": write_json,
    "json.gz": write_json,
    "csv": write_csv,
}


@dataclass(frozen=True)
class Sample:
    """The same events in files of every format: ``files[i]`` are the events of ``paths(kind)[i]``."""

    folder: Path
    files: tuple[tuple[Event, ...], ...]
    clusters: tuple[int, ...]
    _written: set[str] = field(default_factory=set)

    def paths(self, kind: str = "root") -> list[str]:
        paths = [self.folder / f"part{index}.{kind}" for index in range(len(self.files))]
        if kind not in self._written:
            for index, (path, events) in enumerate(zip(paths, self.files, strict=True)):
                WRITERS[kind](path, events, cluster=self.clusters[index], identity=index + 1)
            self._written.add(kind)
        return [str(path) for path in paths]

    def columns(self, name: str) -> list[Any]:
        """Values of a branch, file after file."""
        return [event[name] for events in self.files for event in events]

    @property
    def events(self) -> dict[tuple[int, int], Event]:
        """Each event by (index of its file, entry)."""
        return {(i, entry): event for i, events in enumerate(self.files) for entry, event in enumerate(events)}


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Three files of 700, 450 and 130 events in clusters of 100, 64 and 130; nobody changes them."""
    files = tuple(tuple(events_of(n, run=i + 1, seed=i)) for i, n in enumerate((700, 450, 130)))
    return Sample(tmp_path_factory.mktemp("sample"), files, (100, 64, 130))


@pytest.fixture(scope="session")
def crash_at() -> CrashAt:
    """A block ``with`` it, of a module and the name of a function there, dies where it calls that, as it must."""

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    @contextmanager
    def crash(module: ModuleType, function: str) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(module, function, die)
            with pytest.raises(KeyboardInterrupt):
                yield

    return crash


@pytest.fixture(scope="session")
def opened(spark: SparkSession) -> Callable[..., Events]:
    """``opened(paths, events_per_task=250, **input)``: the events of files; see ``run`` for more.

    With ``labels`` each file is a group of its own.
    """

    def run(
        paths: Sequence[str],
        events_per_task: int = 250,
        *,
        labels: Sequence[float] | None = None,
        weights: Sequence[float] | None = None,
        preproc: Path | None = None,
        on: SparkSession | None = None,
        text: bool = False,
        **settings: Any,
    ) -> Events:
        if labels is None:
            settings["files"] = list(paths)
        else:
            settings["groups"] = [
                {"name": f"g{i}", "files": [path], "label": label, "weight": weights[i] if weights else 1.0}
                for i, (path, label) in enumerate(zip(paths, labels, strict=True))
            ]
        config = InputConfig(**settings)
        code = UserFile.read(preproc, ConfigError) if preproc else None
        expressions = [Expression.parse(config.label)] if config.label else []
        return open_events(on or spark, fileset(config), config, events_per_task, expressions, code, text=text)

    return run


@pytest.fixture(scope="session")
def transform(opened: Callable[..., Events], sample: Sample) -> FeatureTransform:
    """The transform of all features of the sample, one branch capped, one of each normalisation."""
    config = FeatureConfig(caps={"Jet_id": 2}, overrides={"MET_sum": "standard", "Jet_eta": "robust", "Ele_pt": "none"})
    specs, _ = spark_specs.compute(opened(sample.paths()), FEATURES, quantiles=["Jet_eta"])
    return FeatureTransform.of(specs.specs, config)


@pytest.fixture(scope="session")
def request_of(transform: FeatureTransform) -> Callable[..., ChunkRequest]:
    """``request_of(size=..., seed=..., layout=...)``: what chunks are made of, for the sample's transform."""

    def make(
        *,
        size: int | str = 300,
        seed: int = 1,
        layout: str = "compact",
        label: str | None = None,
        keys: tuple[str, ...] = KEYS,
        features: FeatureTransform = transform,
        batch_size: int = 32,
        split: dict[str, float] | None = None,
        targets: tuple[str, ...] = (),
        weight: str | None = None,
    ) -> ChunkRequest:
        config = ChunkConfig.model_validate(
            {"size": size, "seed": seed, "layout": layout, **({"split": split} if split else {})}
        )
        parsed = {name: Expression.parse(text) if text else None for name, text in (("l", label), ("w", weight))}
        answers = tuple(map(Expression.parse, targets))
        return ChunkRequest(config, features, keys, parsed["l"], batch_size, "specs", answers, parsed["w"])

    return make


@pytest.fixture(scope="session")
def plain_matrix(sample: Sample) -> Callable[..., tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]]:
    """``plain_matrix(events, transform)``: feature matrix and mask by plain Python, from center and scale alone."""

    def run(
        events: Sequence[Event], transform: FeatureTransform
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        rows, masks = [], []
        for event in events:
            row: list[float] = []
            mask: list[int] = []
            for (name, dim), center, scale in zip(
                transform.layout.dims, transform.center, transform.scale, strict=True
            ):
                values = event[name] if isinstance(event[name], list) else [event[name]]
                for place in range(dim):
                    real = place < len(values) and math.isfinite(values[place])
                    row.append((float(values[place]) - center) * scale if real else 0.0)
                    mask.append(int(real))
            rows.append(row)
            masks.append(mask)
        return np.array(rows, np.float64).astype(np.float32), np.array(masks, np.uint8)

    assert len(sample.files) == 3
    return run


@pytest.fixture(scope="session")
def collected() -> Callable[[DataFrame], list[Event]]:
    """``collected(frame)``: rows as dictionaries, in the order of (file, entry)."""

    def run(frame: DataFrame) -> list[Event]:
        rows: list[Event] = frame.toArrow().to_pylist()
        return sorted(rows, key=lambda row: (row["__file"], row["__entry"]))

    return run


@pytest.fixture(scope="session")
def same_values() -> Callable[[Any, Any], bool]:
    """``same_values(a, b)``: equal numbers or lists of numbers, NaN equal to NaN, 0.0 not equal to -0.0."""

    def run(a: Any, b: Any) -> bool:
        if isinstance(a, list) or isinstance(b, list):
            return (
                isinstance(a, list)
                and isinstance(b, list)
                and len(a) == len(b)
                and all(run(x, y) for x, y in zip(a, b, strict=True))
            )
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))

    return run


@pytest.fixture(scope="session")
def write() -> Callable[..., str]:
    """``write(path, events, cluster=50, ...)``: events in the format that the path's name says; the path as text."""

    def run(path: Path, events: Sequence[Event], cluster: int = 50, **settings: Any) -> str:
        WRITERS[path.name.split(".", 1)[1]](path, events, cluster=cluster, **settings)
        return str(path)

    return run


@pytest.fixture(scope="session")
def make_events() -> Callable[[int, int, int], list[Event]]:
    """``make_events(n, run, seed)``."""
    return events_of


@dataclass(frozen=True)
class Ended:
    """What became of a process."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[[str], Ended]:
    """Runs a script in a Python of its own, from an empty folder."""

    def run(script: str) -> Ended:
        folder = tmp_path / "elsewhere"
        folder.mkdir(exist_ok=True)
        made = folder / "script.py"
        made.write_text(textwrap.dedent(script))
        done = subprocess.run(  # noqa: S603 - our own interpreter and script
            [sys.executable, str(made)], cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run
