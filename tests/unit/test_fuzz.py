"""Whatever stands in a file that we read: what comes out is a value that can be used, or an error of ours."""

from __future__ import annotations

import copy
import gzip
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlaas_spark import arrow_io, mlaas4hep, parquet_io
from mlaas_spark import config as configs
from mlaas_spark import manifest as manifests
from mlaas_spark.branch_specs import Specs, SpecsFile
from mlaas_spark.config import FeatureConfig, InputConfig
from mlaas_spark.errors import MlaasSparkError
from mlaas_spark.filesets import InputFile, fileset, read_list
from mlaas_spark.formats import Format
from mlaas_spark.manifest import DataFile, Input, Manifest
from mlaas_spark.ml import tfaas
from mlaas_spark.ml.archive import unpack
from mlaas_spark.ml.sending import VERSION, check_described, read_layout
from mlaas_spark.plan import PlannedFile
from mlaas_spark.readers import How
from mlaas_spark.schema import Branch, EventSchema
from mlaas_spark.selection import Expression
from mlaas_spark.serving import inputs
from mlaas_spark.serving.served import Served
from mlaas_spark.skipping import Skipped
from mlaas_spark.spark.damage import first_fault
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Read = Callable[[Path], object]

CASES = 60
ODD: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def specs() -> bytes:
    batch = pa.RecordBatch.from_pydict(
        {"x": pa.array([1.0, 2.0, float("nan")]), "Jet_pt": pa.array([[1.0, 2.0], [], [3.0]])}
    )
    made = Specs.of(batch, ["x", "Jet_pt"], ["x"])
    skipped = (Skipped("/data/b.root", "damaged", "Events", "ab:Events", 3, 9),)
    return SpecsFile(made, {"ab:Events": made}, {"ab:Events": "/data/a.root"}, "00", skipped).dumps().encode()


def use_specs(path: Path) -> None:
    made = SpecsFile.loads(path.read_bytes(), str(path))
    for normalise in ("minmax", "standard", "none"):
        FeatureTransform.of(made.specs, FeatureConfig.model_validate({"normalise": normalise}))
    made.dumps()
    for part in made.by_file.values():
        made.specs.merge(part)


def manifest() -> bytes:
    branches = [Branch("x", "x", "float32", jagged=False), Branch("Jet_pt", "Jet_pt", "float32", jagged=True)]
    made = Manifest(
        layout="compact",
        request="ab" * 32,
        schema=EventSchema.of(branches),
        inputs=(Input("/a.root", "ab", "Events", 9, 5, 1.0, 1.0, 0, 2),),
        files=(DataFile("train/0.parquet", 5, 99, ((0, 0, 9),), "ab", labels={"1": 5}, split="train"),),
        digests={"plan": "ab"},
        skipped=(Skipped("/a.root", "damaged", "Events", "ab:Events", 3, 5),),
    )
    return json.dumps(made.to_json()).encode()


def use_manifest(path: Path) -> None:
    (path.parent / "manifest.json").write_bytes(path.read_bytes())
    made = manifests.read(str(path.parent))
    json.dumps(made.to_json())
    assert made.of("train") is not None
    assert made.events() is not None


CONFIG = b"""name: run
input:
  groups:
    - {name: s, files: [a.root], label: 1}
  selection: nMuon > 1
  derive: {HT: sum(Jet_pt)}
features: {normalise: minmax, caps: {Jet_pt: 4}}
train: {epochs: 2, class_weight: {0: 1.0}}
spark: {conf: {spark.ui.enabled: false}}
"""

PARAMS = json.dumps(
    {
        "nevts": 100,
        "shuffle": True,
        "chunk_size": 10,
        "epochs": 2,
        "batch_size": 5,
        "identifier": ["run"],
        "selected_branches": ["x"],
    }
).encode()

FILE = {"object_path": "Events", "steps": [[0, 5]], "uuid": "ab"}
FILESET = json.dumps({"signal": {"files": {"a.root": FILE}, "metadata": {"label": 1}}}).encode()

TRANSFORM = FeatureTransform.of(SpecsFile.loads(specs()).specs, FeatureConfig())
LAYOUT = json.dumps(
    {
        "transform": TRANSFORM.to_json(),
        "columns": TRANSFORM.columns,
        "specs": "ab",
        "inputs": "features",
        "missing": 0.0,
        "mask": False,
        "ranges": {"x": [0.0, 1.0]},
    }
).encode()


TOLD = {"specs": "ab", "labels": ["signal"], "width": 2}
BUNDLE_PARAMS = tfaas.Params("m", "of a test", ours={"version": VERSION, **TOLD}).dumps().encode()


def use_bundle_params(path: Path) -> None:
    made = tfaas.Params.loads(path.read_bytes(), str(path))
    check_described(made.ours, TOLD, path)
    # what passes is what was written, but for what no other file says
    assert json.loads(made.dumps())[tfaas.OURS].items() >= TOLD.items()
    assert made.input_node == tfaas.INPUT_OP


def tar() -> bytes:
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("m", "m/assets", "m/variables"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
        for name in ("m/saved_model.pb", "m/params.json", "m/variables/variables.index"):
            member = tarfile.TarInfo(name)
            member.size = 30
            archive.addfile(member, io.BytesIO(bytes(30)))
    return stream.getvalue()


def use_tar(path: Path) -> None:
    target = path.with_name(f"out{len(list(path.parent.iterdir()))}")
    target.mkdir()
    unpack(path, target)


def parquet() -> bytes:
    stream = io.BytesIO()
    table = pa.table({"x": pa.array(np.arange(50.0)), "Jet_pt": pa.array([[1.0, 2.0]] * 50)})
    pq.write_table(table, stream, row_group_size=20, compression="zstd")
    return stream.getvalue()


def use_parquet(path: Path) -> None:
    header = parquet_io.read_header(str(path))
    assert header.entries < 10**9
    for _, batch in parquet_io.read_ranges(str(path), header.schema, [(0, header.entries)], 0):
        assert batch.num_rows


def arrow() -> bytes:
    stream = io.BytesIO()
    table = pa.table({"x": pa.array(np.arange(50.0)), "Jet_pt": pa.array([[1.0, 2.0]] * 50), "s": ["a"] * 50})
    pyarrow.feather.write_feather(table, stream, chunksize=20, compression="zstd")
    return stream.getvalue()


def use_arrow(path: Path) -> None:
    header = arrow_io.read_header(str(path))
    file = PlannedFile(str(path), Format.ARROW, "", header.uuid, header.entries, None, 1.0, "", header.boundaries)
    for _, batch in arrow_io.READER.batches(file, 0, header.schema, [(0, header.entries)], How()):
        assert batch.num_rows


def lines(kind: Format) -> Read:
    def use(path: Path) -> None:
        if fault := first_fault(InputFile(str(path), kind)):
            raise fault.error()

    return use


SERVED = Served("m", ("MET_pt", "nJet"), ("signal",))
EVENTS = b'{"MET_pt": 1.5, "nJet": 2}\n[3.5, 4]\n'


DOCUMENTS: dict[str, tuple[bytes, Read]] = {
    "specs.json": (specs(), use_specs),
    "manifest.json": (manifest(), use_manifest),
    "config.yaml": (CONFIG, lambda path: configs.resolve(configs.read(path)).to_yaml()),
    "params.json": (PARAMS, lambda path: mlaas4hep.read_params(str(path))),
    "fileset.json": (FILESET, lambda path: fileset(InputConfig(fileset=path))),
    "files.txt": (b"# list\n/data/a.root\n/data/b.root\n", read_list),
    "layout.json": (LAYOUT, read_layout),
    "params-of-bundle.json": (BUNDLE_PARAMS, use_bundle_params),
    "served-params.json": (BUNDLE_PARAMS, lambda path: Served.of("m", path.read_bytes(), None, None, "http://s")),
    "served-layout.json": (LAYOUT, lambda path: Served.of("m", BUNDLE_PARAMS, path.read_bytes(), None, "http://s")),
    "events.json": (EVENTS, lambda path: inputs.read(str(path), SERVED)),
    "m.tar.gz": (tar(), use_tar),
    "f.parquet": (parquet(), use_parquet),
    "f.arrow": (arrow(), use_arrow),
    "f.json": (b'{"x": 1, "Jet_pt": [1.5]}\n{"x": 2, "Jet_pt": []}\n' * 3, lines(Format.JSON)),
    "f.csv": (b"x,Jet_pt\n1,[1.5]\n2,[]\n" * 3, lines(Format.CSV)),
}
OF_JSON = [name for name in DOCUMENTS if name.endswith(".json") and name not in {"f.json", "events.json"}]


def outcome(read: Read, path: Path) -> str:
    try:
        read(path)
    except MlaasSparkError as error:
        assert 0 < len(str(error)) < 2_000  # noqa: PT017 - each outcome is one or the other
        return "refused"
    return "read"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_whole_is_read(name: str, tmp_path: Path) -> None:
    content, read = DOCUMENTS[name]
    path = tmp_path / name
    path.write_bytes(content)
    # the fileset names a file that is not there
    assert outcome(read, path) == ("refused" if name == "fileset.json" else "read")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_cut_and_flipped_documents_are_read_or_refused_by_name(name: str, tmp_path: Path) -> None:
    content, read = DOCUMENTS[name]
    rng, path, counts = np.random.default_rng(8), tmp_path / name, {"read": 0, "refused": 0}
    for stop in rng.integers(0, len(content), CASES):
        path.write_bytes(content[:stop])
        counts[outcome(read, path)] += 1
    for place in rng.integers(0, 8 * len(content), CASES):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        counts[outcome(read, path)] += 1
    print(name, counts)  # noqa: T201 - the counts are what is asked for
    assert sum(counts.values()) == 2 * CASES


def nodes(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(below for key, item in inner for below in nodes(item, (*place, key)))]


@pytest.mark.parametrize("name", OF_JSON)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(data=st.data())
def test_documents_with_another_value_somewhere_are_read_or_refused_by_name(
    name: str, tmp_path: Path, data: st.DataObject
) -> None:
    content, read = DOCUMENTS[name]
    changed = copy.deepcopy(json.loads(content))
    for _ in range(data.draw(st.integers(1, 3))):
        if not (places := nodes(changed)[1:]):
            break
        *above, last = data.draw(st.sampled_from(places))
        target = changed
        for key in above:
            target = target[key]
        if data.draw(st.booleans()):
            target[last] = data.draw(ODD)
        else:
            del target[last]
    path = tmp_path / name
    path.write_text(json.dumps(changed), encoding="utf-8")
    outcome(read, path)


@pytest.mark.parametrize("name", OF_JSON)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(value=ODD)
def test_other_json_is_refused_by_name(name: str, tmp_path: Path, value: Any) -> None:
    path = tmp_path / name
    path.write_text(json.dumps(value), encoding="utf-8")
    outcome(DOCUMENTS[name][1], path)


@pytest.mark.parametrize(
    "name",
    [
        "specs.json",
        "manifest.json",
        "layout.json",
        "params.json",
        "params-of-bundle.json",
        "served-params.json",
        "served-layout.json",
        "events.json",
        "config.yaml",
        "fileset.json",
    ],
)
def test_depth_without_end_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"[" * 20_000)
    assert outcome(DOCUMENTS[name][1], path) == "refused"


def test_an_event_with_a_number_beyond_float64_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    path.write_text(f"[{10**400}, 1]\n")
    assert outcome(DOCUMENTS["events.json"][1], path) == "refused"


@pytest.mark.parametrize("version", [0, VERSION + 1, str(VERSION), None, 1e400])
def test_params_of_a_bundle_of_another_version_are_refused(tmp_path: Path, version: Any) -> None:
    content = json.loads(BUNDLE_PARAMS)
    content[tfaas.OURS]["version"] = version
    path = tmp_path / "params.json"
    path.write_text(json.dumps(content))
    assert outcome(use_bundle_params, path) == "refused"


@pytest.mark.parametrize("key", ["name", "model", "labels", "options", "input_name", "output_node", tfaas.OURS])
@pytest.mark.parametrize("lie", [None, 1, "../x", ["serve", "train"], {"specs": "00"}], ids=repr)
def test_params_of_a_bundle_that_lie_are_refused(tmp_path: Path, key: str, lie: Any) -> None:
    path = tmp_path / "params.json"
    path.write_text(json.dumps({**json.loads(BUNDLE_PARAMS), key: lie}))
    assert outcome(use_bundle_params, path) == "refused"


@given(st.dictionaries(st.sampled_from(["input", "features", "train", "spark", "chunks", "name"]), ODD, max_size=3))
def test_config_of_anything_is_resolved_or_refused(content: dict[str, Any]) -> None:
    try:
        configs.resolve(content).to_yaml()
    except MlaasSparkError as error:
        assert str(error)  # noqa: PT017 - or it is a config


TOKENS = "x Jet_pt ( ) [ ] + - ** > and not 1 1e999 0x sum max , . 'a' lambda : \0 é == in if".split()  # noqa: SIM905 - shorter


@given(st.lists(st.sampled_from(TOKENS), max_size=12).map(" ".join) | st.text(max_size=30))
def test_expression_of_anything_is_parsed_or_refused(text: str) -> None:
    batch = pa.RecordBatch.from_pydict(
        {"x": pa.array([1.0, 2.0]), "Jet_pt": pa.array([[1.0], []], pa.list_(pa.float64()))}
    )
    try:
        assert Expression.parse(text).values(batch).shape == (2,)
    except MlaasSparkError as error:
        assert str(error)  # noqa: PT017 - or it has values
