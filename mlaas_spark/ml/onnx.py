"""model.onnx: the model as ONNX for programs without TensorFlow, compared with the model before it is kept.

The only importer of tf2onnx, onnx and onnxruntime, the extra ``onnx``. Source: ONNX, operator set 17 (2022), which
onnxruntime reads from 1.12 on.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.errors import ExportError, reason
from mlaas_spark.ml import tfaas
from mlaas_spark.ml.model import known_remarks
from mlaas_spark.ml.savedmodel import quiet_tensorflow, without_start_up_lines

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from mlaas_spark.ml.savedmodel import Graph

NAME = "model.onnx"

_OPSET = 17
_OUTPUT = "scores"
_PACKAGES = ("onnx", "onnxruntime", "tf2onnx")


def check_installed() -> None:
    """ExportError, with the line that installs them, unless the packages of the extra are here."""
    if lacking := [name for name in _PACKAGES if find_spec(name) is None]:
        msg = f"export.onnx needs {', '.join(lacking)}: pip install 'mlaas-spark[onnx]', or set export.onnx to false"
        raise ExportError(msg)


def write_onnx(graph: Graph, width: int, path: Path) -> None:
    """Write what ``graph`` does with float32 (n, W), argument ``inputs_input``, output ``scores``.

    Raises:
        ExportError: A package is missing, or the model has what ONNX or its converter does not know.
    """
    check_installed()
    import tensorflow as tf

    def score(inputs_input: Any) -> Any:
        return tf.identity(tf.cast(graph(inputs_input), tf.float32), name=_OUTPUT)

    try:
        with known_remarks(), quiet_tensorflow("tf2onnx"), without_start_up_lines(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy 1.26 on np.object and of protobuf, in code that is not ours
            import onnx
            import tf2onnx

            spec = tf.TensorSpec((None, width), tf.float32, name=tfaas.ARGUMENT)
            made, _ = tf2onnx.convert.from_function(tf.function(score), input_signature=[spec], opset=_OPSET)
            _rename_output(made.graph)
            onnx.checker.check_model(made)  # tf2onnx passes on ops that ONNX does not have
    except Exception as error:
        # tf2onnx raises whatever it met, of any kind
        msg = f"the model cannot be written as ONNX: {reason(error)}; set export.onnx to false to go without"
        raise ExportError(msg) from error
    path.write_bytes(made.SerializeToString())


def run_onnx(path: Path, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scores (n, K) of float32 (n, W) by onnxruntime on the CPU.

    Raises:
        ExportError: A package is missing, or onnxruntime cannot run it.
    """
    check_installed()
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (scores,) = session.run(None, {tfaas.ARGUMENT: x})
    except Exception as error:
        # onnxruntime's errors have no class of their own that it documents
        msg = f"{path} does not run in onnxruntime: {reason(error)}"
        raise ExportError(msg) from error
    return np.asarray(scores, np.float32)


def _rename_output(graph: Any) -> None:
    """``scores`` in place of the name that TensorFlow gives, such as ``Identity:0``."""
    (output,) = graph.output
    for node in graph.node:
        node.output[:] = [_OUTPUT if name == output.name else name for name in node.output]
        node.input[:] = [_OUTPUT if name == output.name else name for name in node.input]
    output.name = _OUTPUT
