"""Models as whoever means harm makes them: no code of a ``.keras`` file or a SavedModel runs, each is refused."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlaas_spark.errors import ModelContractError, ServingError
from mlaas_spark.ml import tfaas
from mlaas_spark.ml.model import load_saved_model
from mlaas_spark.ml.savedmodel import check_graph, write_savedmodel

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that Keras saved."""
    import keras

    path = tmp_path_factory.mktemp("net") / "model.keras"
    keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)]).save(path)
    return path


def parts(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def packed(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as target:
        for name, one in content.items():
            target.writestr(name, one)
    return path


def with_layer(net: Path, target: Path, layer: dict[str, Any]) -> Path:
    """The saved model with its dense layer described so."""
    content = parts(net)
    config = json.loads(content["config.json"])
    config["config"]["layers"][1] = layer
    return packed(target, {**content, "config.json": json.dumps(config).encode()})


def marshalled(marker: Path) -> dict[str, Any]:
    """A Lambda layer as Keras writes it, its code being that of a function that writes the marker."""
    import keras

    namespace: dict[str, Any] = {}
    exec(f"f = lambda x: (open({str(marker)!r}, 'w').close(), x)[1]", namespace)  # noqa: S102 - our own text
    layer = keras.saving.serialize_keras_object(keras.layers.Lambda(namespace["f"], output_shape=(3,)))
    assert isinstance(layer, dict)
    return layer


def named(module: str, name: str, config: Any = None, registered: str | None = None) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": config, "registered_name": registered}


def function(module: str, name: str) -> dict[str, Any]:
    return named("builtins", "function", name, "function") | {"module": module}


def lambda_of(code: Any, marker: Path) -> dict[str, Any]:
    """A Lambda layer whose function is found by name."""
    config = {"name": "l", "function": code, "arguments": {"mode": "w"} | {"file": str(marker)}, "output_shape": [3]}
    return named("keras.layers", "Lambda", config)


class Planted:
    """Writes a marker where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def wrapped(marker: Path) -> dict[str, Any]:
    """A module of torch as Keras keeps it: a pickle."""
    import base64

    config = {"name": "t", "module": base64.b64encode(pickle.dumps(Planted(marker))).decode(), "output_shape": None}
    return named("keras.layers", "TorchModuleWrapper", config)


CODE: dict[str, Callable[[Path], dict[str, Any]]] = {
    "marshalled Lambda": marshalled,
    "Lambda of a builtin": lambda marker: lambda_of(function("builtins", "open"), marker),
    "Lambda of os.system": lambda marker: lambda_of(named("os", "function", "system", "function"), marker),
    "Lambda of get_file": lambda marker: lambda_of(named("keras.utils", "function", "get_file", "function"), marker),
    "Lambda of eval": lambda marker: lambda_of(named("builtins", "function", "eval", "function"), marker),
    "class of subprocess": lambda marker: named("subprocess", "Popen", {"args": ["touch", str(marker)]}),
    "class of pathlib": lambda marker: named("pathlib", "Path", {"args": [str(marker)]}),
    "function for a layer": lambda marker: named("os", "mknod", {"path": str(marker)}),
    "our own function": lambda marker: named(
        "mlaas_spark.storage", "write_atomic", {"url": str(marker), "content": "x"}
    ),
    "module of torch": wrapped,
    "SavedModel from outside": lambda marker: named(
        "keras.layers", "TFSMLayer", {"name": "s", "filepath": str(marker.parent), "call_endpoint": "serve"}
    ),
    "unknown class": lambda _: named("evil", "Layer", {}, "evil>Layer"),
}


@pytest.mark.parametrize("name", CODE)
def test_code_in_a_keras_file_is_refused_and_does_not_run(name: str, net: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = with_layer(net, tmp_path / "model.keras", CODE[name](marker))
    with pytest.raises(ModelContractError, match=r"cannot load the model .*model\.keras"):
        load_saved_model(path, None)
    assert not marker.exists()


def test_without_the_safe_mode_keras_does_run_it_so_these_tests_can_fail(net: Path, tmp_path: Path) -> None:
    import keras

    marker = tmp_path / "ran"
    path = with_layer(net, tmp_path / "model.keras", marshalled(marker))
    keras.saving.load_model(path, safe_mode=False)(np.zeros((1, 3), np.float32))
    assert marker.exists()


def test_the_error_of_a_lambda_says_what_to_write_instead(net: Path, tmp_path: Path) -> None:
    path = with_layer(net, tmp_path / "model.keras", marshalled(tmp_path / "ran"))
    with pytest.raises(ModelContractError, match="register_keras_serializable"):
        load_saved_model(path, None)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: {},
        lambda content: {**content, "config.json": b"{"},
        lambda content: {**content, "config.json": b"[]"},
        lambda content: {**content, "config.json": b'{"module": "keras"}'},
        lambda content: {**content, "model.weights.h5": b"no HDF5"},
        lambda content: {name: one for name, one in content.items() if name != "model.weights.h5"},
    ],
)
def test_a_keras_file_that_is_none_is_refused(
    change: Callable[[dict[str, bytes]], dict[str, bytes]], net: Path, tmp_path: Path
) -> None:
    content = change(parts(net))
    path = packed(tmp_path / "model.keras", content)
    with pytest.raises(ModelContractError, match="cannot load the model"):
        load_saved_model(path, None)


def test_a_keras_file_writes_nothing_outside(net: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    path = packed(tmp_path / "deep" / "model.keras", {**parts(net), "../../evil": b"x", "/var/evil": b"x"})
    with pytest.warns(UserWarning, match="invalid path"):  # Keras takes the parts that it knows
        load_saved_model(path, None)
    assert not any(place.exists() for place in (tmp_path / "evil", tmp_path.parent / "evil", Path("/var/evil")))


def test_a_keras_file_that_unpacks_to_far_more_than_it_is_is_not_opened(net: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
        for name, one in parts(net).items():
            target.writestr(name, one)
        with target.open("assets/x", "w") as bomb:
            for _ in range(96):
                bomb.write(bytes(1 << 20))
    with pytest.raises(ModelContractError, match="unpacks to 100,"):
        load_saved_model(path, None)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x89HDF\r\n\x1a\n" + bytes(100), pickle.dumps([1])])
def test_other_files_by_the_name_of_a_keras_file_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(ModelContractError, match="cannot load the model"):
        load_saved_model(tmp_path / "model.keras", None)


# graphs


@pytest.fixture(scope="module")
def graph(net: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """saved_model.pb of the same model."""
    folder = tmp_path_factory.mktemp("graph")
    write_savedmodel(load_saved_model(net, None), 3, folder)
    check_graph(folder)
    return (folder / tfaas.GRAPH).read_bytes()


REACHING = [
    "ReadFile",
    "WriteFile",
    "MatchingFiles",
    "PyFunc",
    "PyFuncStateless",
    "EagerPyFunc",
    "Print",
    "PrintV2",
    "DebugIdentity",
    "DebugIdentityV2",
    "DebugIdentityV3",
    "DebugNumericSummaryV2",
    "DumpTensor",
    "TextLineDataset",
    "TFRecordDatasetV2",
    "SaveDatasetV2",
    "SqlDataset",
    "LMDBReader",
    "WholeFileReaderV2",
    "FixedLengthRecordReaderV2",
    "SnapshotDatasetV2",
    "DataServiceDatasetV4",
    "CacheDatasetV2",
    "CreateSummaryFileWriter",
    "CreateSummaryDbWriter",
    "WriteSummary",
    "LoadAndRemapMatrix",
    "InitializeTableFromTextFileV2",
    "RpcCall",
    "RpcServerStart",
    "RemoteCall",
    "CalibrationStatisticsSaver",
    "DatasetToTFRecord",
    "FileSystemSetConfiguration",
    "_Send",
    "_HostRecv",
    "CollectiveReduceV3",
    "TPUCompile",
    "ConfigureDistributedTPU",
    "OneShotIterator",
    "ImportEvent",
]


@pytest.mark.parametrize("where", ["graph", "function"])
@pytest.mark.parametrize("op", REACHING)
def test_a_graph_with_an_op_that_reaches_outside_is_not_loaded(
    op: str, where: str, graph: bytes, tmp_path: Path
) -> None:
    saved = parsed(graph)
    of = saved.meta_graphs[0].graph_def
    (of.node if where == "graph" else of.library.function[0].node_def).add(name="planted", op=op)
    (tmp_path / tfaas.GRAPH).write_bytes(saved.SerializeToString())
    with pytest.raises(ServingError, match=f"has the op {op}, which reaches outside"):
        check_graph(tmp_path)


@pytest.mark.parametrize("op", ["SaveV2", "RestoreV2", "MergeV2Checkpoints"])
def test_ops_that_store_variables_are_none_of_scoring(op: str, graph: bytes, tmp_path: Path) -> None:
    saved = parsed(graph)
    of = saved.meta_graphs[0].graph_def
    assert any(node.op == op for function in of.library.function for node in function.node_def)  # where they belong
    (output,) = (node for node in of.node if node.name == tfaas.OUTPUT_OP)
    (called,) = (function for function in of.library.function if function.signature.name == output.attr["f"].func.name)
    called.node_def.add(name="planted", op=op)
    (tmp_path / tfaas.GRAPH).write_bytes(saved.SerializeToString())
    with pytest.raises(ServingError, match=f"has the op {op}, which reaches outside"):
        check_graph(tmp_path)


def parsed(graph: bytes) -> Any:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel()
    saved.ParseFromString(graph)
    return saved
