"""Raw vectors: events as a client sends them to a served model, the values of the file in the order of the layout.

Pure; numpy and the kernels only. The graph of a raw bundle does in TensorFlow what :func:`normalised` does here.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark import kernels
from mlaas_spark.errors import ExportError
from mlaas_spark.transform import Features, FeatureTransform, mask_overflow

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from mlaas_spark.drift import Ranges

MISSING = -1e30
"""Sent for what is missing or padding, where no branch of the training came near: see docs/decisions/0019."""

LOWEST = float(np.finfo(np.float32).min)
"""Sent in its place where one did: the lowest float32, -3.4028234663852886e38."""

_NEAR = MISSING / 10
_LARGEST = np.finfo(np.float32).max


def sentinel(ranges: Ranges, asked: float | None = None) -> float:
    """What is sent for a missing value: lower than all that the branches had in training.

    Args:
        ranges: Values of the branches in training.
        asked: The user's choice, used if it can be.

    Raises:
        ExportError: The user's choice is no finite float32, or a branch had values as low.
    """
    lowest = min(((low, name) for name, (low, _) in ranges.items()), default=(0.0, ""))
    if asked is None:
        return LOWEST if lowest[0] < _NEAR else MISSING
    with np.errstate(over="ignore"):
        number = float(np.float32(asked))
    if not math.isfinite(number):
        msg = f"export.missing: {asked:g} is no finite float32, and neither JSON nor the server knows another"
        raise ExportError(msg)
    if lowest[1] and lowest[0] <= number:
        msg = (
            f"export.missing: branch {lowest[1]!r} has values down to {lowest[0]:g} in training, and what is at or "
            f"below {asked:g} is missing: choose a lower one, or none for {MISSING:g}"
        )
        raise ExportError(msg)
    return asked


def unscaled(transform: FeatureTransform) -> FeatureTransform:
    """The same layout with the values as they are in the file; padding and missing ones are 0 with mask 0."""
    n = len(transform.layout.branches)
    return dataclasses.replace(transform, center=(0.0,) * n, scale=(1.0,) * n)


def raw_vector(
    events: pa.RecordBatch, transform: FeatureTransform, missing: float = MISSING
) -> npt.NDArray[np.float32]:
    """Events as a raw bundle takes them, float32 (n, W).

    Flat branches have one value each, jagged ones are cut or padded to their dim. NaN, infinite values, those beyond
    float32 and padding are ``missing``; every other value is the nearest float32 above ``missing``: whole numbers
    beyond 2**24 and float64 are rounded, as the server has float32 alone.

    Args:
        events: A column for each branch of the layout.
        transform: Of the model; only its layout counts, and ``nan``.
        missing: As the bundle says (:class:`mlaas_spark.ml.bundle.Contents`).

    Raises:
        MlaasSparkError: As :meth:`FeatureTransform.matrix`.
    """
    values = unscaled(transform).matrix(events)
    return with_missing(values.matrix, values.mask, missing)


def with_missing(
    matrix: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8], missing: float
) -> npt.NDArray[np.float32]:
    """A copy with ``missing`` where the mask is 0, and nothing as low or infinite elsewhere."""
    above = np.nextafter(np.float32(missing), np.float32(np.inf))
    sent: npt.NDArray[np.float32] = np.clip(matrix, above, _LARGEST)
    sent[mask == 0] = np.float32(missing)
    return sent


def normalised(x: npt.NDArray[np.float32], transform: FeatureTransform, missing: float = MISSING) -> Features:
    """Features of raw vectors, by the kernel that makes those of events; ``missing`` counts padding too.

    Values at or below the sentinel, NaN, infinite ones and those whose features are beyond float32 are missing.
    """
    n, width = x.shape
    values = np.where(x > np.float32(missing), x, np.float32(np.nan)).T  # NaN is not above it either
    dims = [dim for _, dim in transform.layout.dims]
    matrix, mask = np.empty((n, width), np.float32), np.empty((n, width), np.uint8)
    # as if each column were a flat branch
    counts = kernels.fill(
        [np.ascontiguousarray(column) for column in values],
        [None] * width,
        np.arange(width),
        np.ones(width, np.int64),
        np.repeat(transform.center, dims),
        np.repeat(transform.scale, dims),
        matrix,
        mask,
    )
    mask_overflow(matrix, mask, counts.missing, np.arange(width))
    starts = np.cumsum(dims) - dims
    of_branches = [int(counts.missing[start : start + dim].sum()) for start, dim in zip(starts, dims, strict=True)]
    return Features(matrix, mask, np.array(of_branches, np.int64), np.zeros(len(dims), np.int64))


def restored(features: npt.NDArray[np.float32], transform: FeatureTransform) -> npt.NDArray[np.float32]:
    """Values that have these features, but for rounding: of a constant branch its center. Float32 (n, W)."""
    dims = [dim for _, dim in transform.layout.dims]
    center, scale = np.repeat(transform.center, dims), np.repeat(transform.scale, dims)
    spread = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)
    with np.errstate(over="ignore"):  # beyond float32: infinite, as its own features would be
        made: npt.NDArray[np.float32] = (features * spread + center).astype(np.float32)
    return made


def shortest(row: npt.NDArray[np.float32]) -> list[Any]:
    """Numbers of a row as JSON writes them with the fewest digits that give the same float32."""
    return [float(str(value)) for value in row]
