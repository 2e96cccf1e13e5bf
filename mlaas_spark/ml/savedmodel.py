"""SavedModels that TFaaS can serve, run the way its C loader does, and models under the names that users ask for."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.errors import ExportError, ServingError, reason
from mlaas_spark.ml import tfaas
from mlaas_spark.ml.model import graph_reason, known_remarks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from mlaas_spark.ml.inputs import InputLayout
    from mlaas_spark.transform import FeatureTransform

    Scores = Callable[[Any, Any], Any]
    """Matrix and mask, tensors float32 (n, W), to scores (n, K); made of one model's weights."""

    Graph = Callable[[Any], Any]
    """What a client sends, a tensor float32 (n, W), to scores (n, K)."""

# ops by which a graph reaches files, processes, servers or Python, by their names in TensorFlow 2.19's registry: a
# model for TFaaS has none of them
_REACHES_OUT = re.compile(
    r"File(?!name)|PyFunc|Print|Debug|Dump|Dataset|Iterator|Reader|Snapshot|Summary|Statistics|Rpc|Remote|Collective|Nccl|TPU"
    r"|Heartbeat|Session|^_?(Host)?(Send|Recv)$|Xla(Host|Send|Recv)|^Load|ImportEvent|Distributed|Sleep"
)
# of the functions that save and load the variables, which nobody calls who scores
_STORES = re.compile(r"^(Distributed|DTensor)?(Save|Restore)(V2|Slices?)?$|^MergeV2Checkpoints$")
# what TensorFlow 2.19 writes to stderr at its first v1 session and when it optimises a graph for a converter, whatever
# TF_CPP_MIN_LOG_LEVEL says
_START_UP_LINES = (
    b"MLIR V1 optimization pass is not enabled",
    b"log messages before absl::InitializeLog",
    b"Number of eligible GPUs",
    b"Starting new session",
)
_FRACTION, _EXPONENT = 0x007FFFFF, 0x7F800000  # bits of a float32
_LOADER_OPS = frozenset({"__saved_model_init_op"})  # a signature that Keras adds, for loaders alone


def of_matrix(model: Any) -> Scores:
    """Scores of a model that looks at the matrix alone."""
    return lambda matrix, _: model(matrix, training=False)


def of_inputs(model: Any, inputs: InputLayout) -> Scores:
    """Scores of a model that takes what ``inputs`` makes of matrix and mask."""
    return lambda matrix, mask: model(inputs.tensors(matrix, mask), training=False)


def takes_matrix(scores: Scores) -> Graph:
    """Takes the feature matrix; the model does not look at the mask."""
    return lambda x: scores(x, None)


def takes_features(scores: Scores, missing: float) -> Graph:
    """Takes the feature matrix with ``missing`` where the mask is 0."""
    import tensorflow as tf

    def graph(x: Any) -> Any:
        real = x > missing
        return scores(tf.where(real, x, 0.0), tf.cast(real, tf.float32))

    return graph


def takes_events(scores: Scores, transform: FeatureTransform, missing: float) -> Graph:
    """Takes values as they are in the file (:func:`mlaas_spark.raw.raw_vector`), and normalises, pads and masks.

    The kernel's arithmetic: ``float32((float64(x) - center) * scale)``, 0 with mask 0 for what is NaN, infinite, at or
    below ``missing``, or beyond float32 then.
    """
    import tensorflow as tf

    dims = [dim for _, dim in transform.layout.dims]
    center, scale = np.repeat(transform.center, dims), np.repeat(transform.scale, dims)

    def graph(x: Any) -> Any:
        real = tf.logical_and(tf.math.is_finite(x), x > missing)
        matrix = tf.cast((_float64(x) - center) * scale, tf.float32)
        real = tf.logical_and(real, tf.math.is_finite(matrix))
        return scores(tf.where(real, matrix, 0.0), tf.cast(real, tf.float32))

    return graph


def _float64(x: Any) -> Any:
    """Float32 as float64, also the smallest: TensorFlow's threads take a denormal number for 0 when they cast it."""
    import tensorflow as tf

    bits = tf.bitcast(x, tf.int32)
    size = tf.cast(tf.bitwise.bitwise_and(bits, _FRACTION), tf.float64) * 2.0**-149
    small = tf.equal(tf.bitwise.bitwise_and(bits, _EXPONENT), 0)
    return tf.where(small, tf.where(bits < 0, -size, size), tf.cast(x, tf.float64))


def write_savedmodel(model: Any, width: int, folder: str | Path, graph: Graph | None = None) -> None:
    """Write ``model`` as a SavedModel with the one signature TFaaS calls: float32 (None, W) to float32 (None, K).

    Args:
        model: Whose weights are written.
        width: W.
        folder: Of the SavedModel.
        graph: What is done with that which a client sends; None for the model on the feature matrix.

    Raises:
        ExportError: TensorFlow cannot write it.
    """
    import tensorflow as tf
    from keras.export import ExportArchive

    if not model.weights:
        msg = "the model has no variables: TFaaS could not find its output op"
        raise ExportError(msg)
    served = graph or takes_matrix(of_matrix(model))

    def score(inputs_input: Any) -> Any:
        return tf.cast(served(inputs_input), tf.float32)

    try:
        with known_remarks(), quiet_tensorflow():
            archive = ExportArchive()
            archive.track(model)
            archive.add_endpoint(
                name=tfaas.SIGNATURE,
                fn=score,
                input_signature=[tf.TensorSpec((None, width), tf.float32, name=tfaas.ARGUMENT)],
            )
            archive.write_out(str(folder), verbose=False)
    except Exception as error:
        msg = f"cannot write the model as a SavedModel to {folder}: {reason(error)}"
        raise ExportError(msg) from error


def run_savedmodel(folder: str | Path, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scores (n, K) of a SavedModel, loaded, fed and fetched by op name as the server does.

    Raises:
        ServingError: The graph is not readable, lacks the signature or the ops, can reach files, or does not take
            (n, W).
    """
    import tensorflow as tf

    check_graph(folder)
    with without_start_up_lines(), tf.Graph().as_default(), tf.compat.v1.Session() as session:
        try:
            with quiet_tensorflow():
                tf.compat.v1.saved_model.loader.load(session, [tfaas.TAG], str(folder))
        except Exception as error:
            msg = f"{folder} cannot be loaded as a SavedModel: {reason(error)}"
            raise ServingError(msg) from error
        names = {operation.name for operation in session.graph.get_operations()}
        if missing := [name for name in (tfaas.INPUT_OP, tfaas.OUTPUT_OP) if name not in names]:
            msg = f"{folder} has no op {' and no op '.join(missing)}, which the server feeds and fetches"
            raise ServingError(msg)
        fed = session.graph.get_tensor_by_name(f"{tfaas.INPUT_OP}:0")
        if fed.dtype != tf.float32 or not fed.shape.is_compatible_with((None, x.shape[1])):
            msg = f"{folder} takes {fed.dtype.name} {fed.shape}, the events are float32 (None, {x.shape[1]})"
            raise ServingError(msg)
        try:
            scores = session.run(f"{tfaas.OUTPUT_OP}:0", {fed: np.ascontiguousarray(x, np.float32)})
        except Exception as error:
            msg = f"{folder} does not run: {graph_reason(error)}"
            raise ServingError(msg) from error
    if scores.dtype != np.float32 or scores.ndim != 2 or len(scores) != len(x):
        msg = f"{folder} gives {scores.dtype} {scores.shape} for {len(x)} events, the server needs float32 (n, K)"
        raise ServingError(msg)
    result: npt.NDArray[np.float32] = scores
    return result


def save_as(model: Any, width: int, path: str | Path) -> Path:
    """Write the model under a name that the user chose: ``.keras``, ``.h5``, or ``.pb`` (a SavedModel folder).

    What was there under that name is replaced, unless it is a folder that holds something else.

    Raises:
        ExportError: Another suffix, or Keras cannot write this model in this format.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex}{target.suffix}")
    if target.suffix not in {".keras", ".h5", ".pb"}:
        msg = f"cannot write a model as {target.name}: give a name that ends in .keras, .h5 or .pb"
        raise ExportError(msg)
    if target.is_dir() and not (target / tfaas.GRAPH).is_file():
        msg = f"{target} is a folder that holds no model: choose another name"
        raise ExportError(msg)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".pb":
            write_savedmodel(model, width, temporary)
        else:
            with quiet_tensorflow():
                model.save(temporary)
        if target.is_dir():
            shutil.rmtree(target)
        temporary.replace(target)
    except ExportError:
        raise
    except Exception as error:
        msg = f"cannot write the model as {target}: {reason(error)}"
        raise ExportError(msg) from error
    finally:
        _remove(temporary)
    return target


def check_graph(folder: str | Path) -> None:
    """The graph's signatures and ops, before any of it is run.

    Raises:
        ServingError: It cannot be read, lacks the signature or the ops, or can reach files.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped] # comes with TensorFlow
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    path = Path(folder) / tfaas.GRAPH
    saved = SavedModel()
    try:
        saved.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        msg = f"{path} is no SavedModel: {reason(error)}"
        raise ServingError(msg) from error
    graphs = [graph for graph in saved.meta_graphs if tfaas.TAG in graph.meta_info_def.tags]
    if len(graphs) != 1:
        msg = f"{path} has {len(graphs)} graphs tagged {tfaas.TAG!r}, the server loads one"
        raise ServingError(msg)
    (graph,) = graphs
    signatures = sorted(set(graph.signature_def) - _LOADER_OPS)
    if signatures != [tfaas.SIGNATURE]:
        msg = f"{path} has the signatures {', '.join(signatures) or '(none)'}, the server needs {tfaas.SIGNATURE} alone"
        raise ServingError(msg)
    signature = graph.signature_def[tfaas.SIGNATURE]
    if list(signature.inputs) != [tfaas.ARGUMENT] or len(signature.outputs) != 1:
        msg = (
            f"{path} takes {', '.join(sorted(signature.inputs)) or 'nothing'} and gives {len(signature.outputs)} "
            f"outputs, the server needs {tfaas.ARGUMENT} and one output"
        )
        raise ServingError(msg)
    ops_used = (signature.inputs[tfaas.ARGUMENT].name, *(output.name for output in signature.outputs.values()))
    if ops_used != (f"{tfaas.INPUT_OP}:0", f"{tfaas.OUTPUT_OP}:0"):
        msg = (
            f"{path} is fed at {ops_used[0]} and fetched at {ops_used[1]}, the server uses the ops {tfaas.INPUT_OP} "
            f"and {tfaas.OUTPUT_OP}: a model without variables has others"
        )
        raise ServingError(msg)
    nodes, functions = graph.graph_def.node, graph.graph_def.library.function
    bodies = {function.signature.name: function.node_def for function in functions}
    ops = {node.op for body in (nodes, *bodies.values()) for node in body}
    loading = [graph.signature_def[name] for name in _LOADER_OPS if name in graph.signature_def]
    wanted = [tfaas.OUTPUT_OP, *(output.name for one in loading for output in one.outputs.values())]
    forbidden = sorted(op for op in ops if _REACHES_OUT.search(op))
    forbidden += sorted(op for op in _ops_of(wanted, nodes, bodies) if _STORES.search(op))
    if forbidden:
        msg = f"{path} has the op {forbidden[0]}, which reaches outside the model: not loaded"
        raise ServingError(msg)


def _ops_of(wanted: Sequence[str], nodes: Any, bodies: Mapping[str, Any]) -> set[str]:
    """The ops that are run for nodes of a graph: of all that they wait for, and of the functions that these call."""
    by_name = {node.name: node for node in nodes}
    due = [by_name[_node(name)] for name in wanted if _node(name) in by_name]
    ops: set[str] = set()
    seen: set[tuple[str, str]] = set()
    while due:
        node = due.pop()
        ops.add(node.op)
        called = {one.name for value in node.attr.values() for one in (value.func, *value.list.func)} | {node.op}
        waits = {("node", _node(name)) for name in node.input} | {("function", name) for name in called}
        for kind, name in sorted(waits - seen):
            due += bodies.get(name, ()) if kind == "function" else [by_name[name]] if name in by_name else ()
        seen |= waits
    return ops


def _node(name: str) -> str:
    """The node that gives a tensor, or that is waited for."""
    return name.lstrip("^").partition(":")[0]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def quiet_tensorflow(*others: str) -> Iterator[None]:
    """Without TensorFlow's and absl's log lines on APIs that we use on purpose (the v1 loader, Keras' HDF5 format).

    Nor those of other loggers, whose errors are raised as well.
    """
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl", *others)]
    levels = [log.level for log in loggers]
    try:
        for log in loggers:
            log.setLevel(logging.CRITICAL if log.name in others else logging.ERROR)
        yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)


@contextmanager
def without_start_up_lines() -> Iterator[None]:
    """Hold back what C++ code writes to stderr, then pass on all of it but the known start-up lines."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if not any(known in line for known in _START_UP_LINES):
                    os.write(2, line)
