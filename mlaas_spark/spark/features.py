"""Feature matrix as pandas UDFs: ``normalize``, ``pad`` and ``mask`` for a column, ``features`` for all in one pass.

All of it runs through the transform's kernels, so that a matrix made here and one made while streaming are equal to
the bit. For notebooks and dense chunks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import functions as F  # noqa: N812 - the name Spark's own documentation uses
from pyspark.sql.pandas.functions import pandas_udf

from mlaas_spark.spark.session import on_executor

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import Column

    from mlaas_spark.transform import Features, FeatureTransform

MATRIX = "features"
MASK = "mask"


def normalize(transform: FeatureTransform, branch: str) -> Column:
    """The values of a branch, normalised: a float for a flat branch, an array of its own length for a jagged one.

    Missing values are 0; values beyond the branch's dim are cut.
    """
    alone = transform.only(branch)
    jagged = alone.jagged[0]

    def run(column: pd.Series) -> pd.Series:
        made = _matrix(alone, {branch: column})
        if not jagged:
            return pd.Series(made.matrix[:, 0])
        lengths = np.minimum(column.str.len().fillna(0).to_numpy(np.int64), alone.width)
        return pd.Series([row[:length] for row, length in zip(made.matrix, lengths, strict=True)], dtype=object)

    return _udf(run, "array<float>" if jagged else "float")(_named(branch))


def pad(transform: FeatureTransform, branch: str) -> Column:
    """The columns of a branch in the feature matrix: normalised, cut or padded to its dim, as an array of floats."""
    alone = transform.only(branch)

    def run(column: pd.Series) -> pd.Series:
        return pd.Series(list(_matrix(alone, {branch: column}).matrix), dtype=object)

    return _udf(run, "array<float>")(_named(branch))


def mask(transform: FeatureTransform, branch: str) -> Column:
    """The mask of a branch as an array of its dim: 1 = real value, 0 = padding or missing."""
    alone = transform.only(branch)

    def run(column: pd.Series) -> pd.Series:
        return pd.Series(list(_matrix(alone, {branch: column}).mask.astype(np.int8)), dtype=object)

    return _udf(run, "array<tinyint>")(_named(branch))


def features(transform: FeatureTransform) -> Column:
    """All branches in one pass: a struct of ``features`` (W little-endian float32) and ``mask`` (W bits, packbits).

    Read them with ``numpy.frombuffer(row.features, "<f4")`` and ``numpy.unpackbits(mask)[:W]``: as bytes a wide row
    crosses to the JVM several times faster than as an array.
    """
    branches = transform.layout.branches

    def run(frame: pd.DataFrame) -> pd.DataFrame:
        made = _matrix(transform, {name: frame[name] for name in branches})
        packed = np.packbits(made.mask, axis=1)
        return pd.DataFrame(
            {MATRIX: _rows_as_bytes(made.matrix.astype("<f4", copy=False)), MASK: _rows_as_bytes(packed)}
        )

    return _udf(run, f"{MATRIX} binary, {MASK} binary")(F.struct(*(_named(name) for name in branches)))


def _udf(function: Callable[..., pd.Series | pd.DataFrame], returns: str) -> Callable[..., Column]:
    # Spark's overloads name pandas types that its own runtime check accepts more widely
    made: Callable[..., Column] = pandas_udf(function, returns)  # type: ignore[call-overload]
    return made


def _named(branch: str) -> Column:
    return F.col(f"`{branch}`")


def _matrix(transform: FeatureTransform, columns: dict[str, pd.Series]) -> Features:
    with on_executor():
        return transform.matrix(
            pa.RecordBatch.from_arrays(
                [_arrow(column, jagged) for column, jagged in zip(columns.values(), transform.jagged, strict=True)],
                names=list(columns),
            )
        )


def _arrow(column: pd.Series, jagged: bool) -> pa.Array:  # noqa: FBT001 - the branch's kind, not a switch
    if not jagged:
        return pa.Array.from_pandas(column)
    filled = column.map(_no_list_is_empty)
    lengths = filled.str.len().to_numpy(np.int64)
    values = np.concatenate(filled.to_numpy()) if len(filled) and lengths.any() else np.empty(0, np.float64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, from_pandas=False))


def _no_list_is_empty(values: Any) -> Any:
    return np.empty(0) if values is None else values


def _rows_as_bytes(matrix: np.ndarray[Any, Any]) -> list[bytes]:
    """Each row's bytes; one copy of the whole, then slices of it."""
    width = matrix.shape[1] * matrix.itemsize
    whole = np.ascontiguousarray(matrix).tobytes()
    return [whole[start : start + width] for start in range(0, len(whole), width)]
