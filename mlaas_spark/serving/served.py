"""What a server tells of a model, and what follows for the events that are sent to it. Opens nothing."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mlaas_spark.errors import ServingError, reason
from mlaas_spark.ml import tfaas
from mlaas_spark.ml.archive import LAYOUT
from mlaas_spark.raw import unscaled
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

_LARGEST = np.finfo(np.float32).max
_OURS = "mlaas_spark"  # key of params.json that the server passes over


@dataclass(frozen=True, slots=True)
class Served:
    """A model of a server.

    Attributes:
        name: Served name.
        columns: Names of the values of an event, in order; () of a model that we did not make.
        labels: Names of the outputs; () if the server has none.
        transform: Makes the features from events; None of a model that we did not make.
        missing: The number that stands for a missing value; None where none may be missing.
        raw: The model takes values as they are in the file, and makes the features itself.
    """

    name: str
    columns: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    transform: FeatureTransform | None = None
    missing: float | None = None
    raw: bool = False

    @classmethod
    def of(cls, name: str, params: bytes, layout: bytes | None, labels: bytes | None, url: str) -> Self:
        """From the files of a model.

        Raises:
            ServingError: One of them cannot be read.
        """
        where = f"{tfaas.PARAMS} of {name} at {url}"
        try:
            told = json.loads(params)
            missing, raw = missing_value(told), (told.get(_OURS) or {}).get("inputs") == "raw"
            where = f"{LAYOUT} of {name} at {url}"
            described = json.loads(layout) if layout else {}
            columns = tuple(str(column) for column in described.get("columns", ()))
            transform = FeatureTransform.from_json(described["transform"]) if "transform" in described else None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            msg = f"{where} cannot be read: {reason(error)}"
            raise ServingError(msg) from error
        named = tuple((labels or b"").decode(errors="replace").splitlines())
        return cls(name, columns, named, transform, missing, raw)

    @property
    def width(self) -> int | None:
        """W; None of a model that we did not make."""
        return len(self.columns) or None

    def vectors(self, events: pa.RecordBatch) -> npt.NDArray[np.float32]:
        """What the model takes of events with a column for each branch, (n, W); NaN for what is missing, if it knows.

        Raises:
            MlaasSparkError: As :meth:`FeatureTransform.matrix`; ServingError where the model is not ours.
        """
        if self.transform is None:
            raise self.not_ours()
        features = (unscaled(self.transform) if self.raw else self.transform).matrix(events)
        if self.missing is None:
            return features.matrix  # what is missing is 0 in it
        above = np.nextafter(np.float32(self.missing), np.float32(np.inf))
        there = np.clip(features.matrix, above, _LARGEST) if self.raw else features.matrix
        return np.where(features.mask, there, np.float32(np.nan))

    def not_ours(self) -> ServingError:
        """That the model's columns are not known here."""
        return ServingError(
            f"the server has no {LAYOUT} of {self.name}, which would say what the model takes of an event: send it "
            "rows of numbers (JSON lines, CSV or npz)"
        )

    def checked(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Events (n, W) as they are sent: float32, missing values as the model knows them.

        Raises:
            ServingError: Another width, or a value that is no finite float32, with its event and column.
        """
        rows = np.ascontiguousarray(x, np.float32) if np.ndim(x) == 2 else np.empty((0, 0), np.float32)
        if np.ndim(x) != 2 or (self.width is not None and rows.shape[1] != self.width):
            shape = " x ".join(map(str, np.shape(x)))
            msg = (
                f"the events are {shape} values, model {self.name} takes (n, {self.width or 'W'}): not sent, for the "
                f"server drops the connection then; its columns: {', '.join(self.columns[:5]) or 'not known'}"
                f"{', ...' if len(self.columns) > 5 else ''}"
            )
            raise ServingError(msg)
        finite = np.isfinite(rows)
        if finite.all():
            return rows
        if self.missing is not None:
            return np.where(finite, rows, np.float32(self.missing))
        event, column = (int(index) for index in np.argwhere(~finite)[0])
        key = self.columns[column] if self.columns else f"column {column}"
        msg = (
            f"event {event} has {rows[event, column]} for {key!r}: JSON has no such number, and {tfaas.PARAMS} of "
            f"{self.name} names none for what is missing (mlaas_spark.missing); give a finite value"
        )
        raise ServingError(msg)


def missing_value(params: dict[str, Any]) -> float | None:
    """The number that params.json documents for a missing value: ``mlaas_spark.missing``, or its ``value``.

    Raises:
        TypeError: It is no number.
    """
    ours = params.get(_OURS) or {}
    told = ours.get("missing")
    value = told.get("value") if isinstance(told, dict) else told
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        msg = f"mlaas_spark.missing is {value!r}, no finite number"
        raise TypeError(msg)
    return float(value)
