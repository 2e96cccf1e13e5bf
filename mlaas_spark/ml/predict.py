"""Scores of a bundle's model, in whatever process: it crosses to executors as bytes and is loaded once in each.

The seam between Spark and a machine learning library: Spark's side knows a :class:`SavedModel` as a function without
arguments that gives the function which scores. A model of another library is another such class.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mlaas_spark.errors import ServingError, reason
from mlaas_spark.memory import ALIGNMENT
from mlaas_spark.ml import tfaas
from mlaas_spark.ml.model import graph_reason
from mlaas_spark.ml.savedmodel import check_graph, quiet_tensorflow
from mlaas_spark.raw import with_missing

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from mlaas_spark.ml.bundle import Contents


@dataclass(frozen=True, slots=True)
class SavedModel:
    """The SavedModel of a bundle, picklable. Equal digests, equal models.

    Attributes:
        name: Served name.
        digest: SHA-256 over the files.
        width: W.
        outputs: K.
        files: Content of each file by its path.
        missing: What the model takes where the mask is 0; None if it takes what the matrix has there, 0.
    """

    name: str
    digest: str
    width: int
    outputs: int
    files: tuple[tuple[str, bytes], ...] = field(compare=False, repr=False)
    missing: float | None = None

    @classmethod
    def of(cls, bundle: Contents) -> Self:
        """The model of a bundle."""
        digest = hashlib.sha256()
        for path, content in bundle.files:
            digest.update(f"{path}:{len(content)};".encode())
            digest.update(content)
        missing = bundle.sending.missing if bundle.sending.marked else None
        return cls(bundle.name, digest.hexdigest(), bundle.transform.width, len(bundle.labels), bundle.files, missing)

    def __call__(self) -> Callable[[npt.NDArray[np.float32], npt.NDArray[np.uint8]], npt.NDArray[np.float32]]:
        """Matrix (n, W) and mask to scores (n, K) float32, on one core.

        The matrix is what ``Contents.takes`` makes: the features, or for a raw bundle the values of events. It may be
        used again when the scores are there. One that begins at a multiple of 64 bytes is not copied, unless the model
        is told by a value of its own what is missing.

        Raises:
            ServingError: The model cannot be loaded; when it scores, that it does not run or gives no (n, K).
        """
        return _loaded(self).score


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model in this process."""

    model: SavedModel
    root: Any  # whoever lets go of it lets go of the variables
    function: Any

    def score(self, matrix: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        import tensorflow as tf

        if self.model.missing is not None:
            matrix = with_missing(matrix, mask, self.model.missing)
        # TensorFlow ends the process if memory that it is to take as it is begins elsewhere
        aligned = matrix.flags.c_contiguous and matrix.ctypes.data % ALIGNMENT == 0
        try:
            fed = tf.experimental.dlpack.from_dlpack(matrix.__dlpack__()) if aligned else tf.constant(matrix)
            (scores,) = self.function(**{tfaas.ARGUMENT: fed}).values()
        except (tf.errors.OpError, ValueError, TypeError) as error:
            msg = f"the model {self.model.name} does not run: {graph_reason(error)}"
            raise ServingError(msg) from error
        if scores.dtype != tf.float32 or tuple(scores.shape) != (len(matrix), self.model.outputs):
            shape = (len(matrix), self.model.outputs)
            msg = f"the model {self.model.name} gives {scores.dtype.name} {tuple(scores.shape)}, not float32 {shape}"
            raise ServingError(msg)
        made: npt.NDArray[np.float32] = scores.numpy()  # a copy: the scores may lie in the matrix' memory
        return made


@lru_cache(maxsize=1)
def _loaded(model: SavedModel) -> _Loaded:
    import tensorflow as tf

    _take_one_core()
    with tempfile.TemporaryDirectory(prefix="mlaas_spark_") as folder, quiet_tensorflow():
        for path, content in model.files:
            place = Path(folder, path)
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(content)
        check_graph(folder)
        try:
            root = tf.saved_model.load(folder)
            function = root.signatures[tfaas.SIGNATURE]
        except Exception as error:
            msg = f"the model {model.name} cannot be loaded: {reason(error)}"
            raise ServingError(msg) from error
    return _Loaded(model, root, function)


def _take_one_core() -> None:
    """Each core of an executor has a process like this one. Where TensorFlow has begun already its threads stay."""
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        return
