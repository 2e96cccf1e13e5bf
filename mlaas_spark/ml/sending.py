"""What a client of a bundle sends: layout.json, and the part of params.json that the server passes over."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np

from mlaas_spark.errors import ServingError, SpecsError, reason
from mlaas_spark.ml import tfaas
from mlaas_spark.ml.archive import LAYOUT
from mlaas_spark.raw import sentinel
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlaas_spark.drift import Ranges

    Inputs = Literal["raw", "features"]

VERSION = 1
"""Of what stands under ``mlaas_spark`` in params.json."""


@dataclass(frozen=True, slots=True)
class Sending:
    """What a client sends, as layout.json says it.

    Attributes:
        inputs: ``raw``: values as they are in the file; ``features``: the normalised vector.
        missing: Sent for what is missing, NaN, infinite or padding; what is at or below it is taken as missing. 0 in
            the features of a model that does not look at the mask.
        mask: Whether the model looks at the mask.
        ranges: Values of the branches in training; {} if that is not known.
    """

    inputs: Inputs = "features"
    missing: float = 0.0
    mask: bool = False
    ranges: Ranges = field(default_factory=dict)

    @property
    def marked(self) -> bool:
        """Whether ``missing`` says which values are missing; else they are 0 like any other 0."""
        return self.inputs == "raw" or self.mask

    @classmethod
    def of(
        cls, inputs: Inputs, transform: FeatureTransform, ranges: Ranges, asked: float | None, *, mask: bool
    ) -> Self:
        """How events of these ranges are sent; ``asked`` is the user's choice of ``missing`` for raw ones.

        Raises:
            ExportError: It cannot be.
        """
        known = {name: ranges[name] for name in transform.layout.branches if name in ranges}
        if inputs == "raw":
            return cls("raw", sentinel(known, asked), mask, known)
        if not mask:
            return cls("features", 0.0, mask, known)
        scaled = {
            name: ((known[name][0] - center) * scale, (known[name][1] - center) * scale)
            for name, center, scale in zip(transform.layout.branches, transform.center, transform.scale, strict=True)
            if name in known
        }
        return cls("features", sentinel(scaled), mask, known)

    def to_json(self) -> dict[str, Any]:
        """As plain values; :meth:`from_json` reads them back."""
        ranges = {name: list(pair) for name, pair in self.ranges.items()}
        return {"inputs": self.inputs, "missing": self.missing, "mask": self.mask, "ranges": ranges}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` wrote; of a layout.json without it, from before there were raw bundles, the default.

        Raises:
            ValueError: Values that cannot be.
            KeyError: Some are there, others are not.
        """
        if "inputs" not in content:
            return cls()
        inputs, missing, mask = content["inputs"], content["missing"], content["mask"]
        if inputs not in {"raw", "features"} or not isinstance(mask, bool):
            msg = f"inputs are {inputs!r}, the mask is {mask!r}"
            raise ValueError(msg)
        with np.errstate(over="ignore"):
            finite = isinstance(missing, int | float) and math.isfinite(np.float32(missing))
        if not finite:
            msg = f"missing values are sent as {missing!r}, which is no finite float32"
            raise ValueError(msg)
        ranges = {str(name): (float(low), float(high)) for name, (low, high) in content["ranges"].items()}
        return cls(inputs, float(missing), mask, ranges)


class Layout(NamedTuple):
    """Content of layout.json; ``current`` unless it is from before there were raw bundles."""

    transform: FeatureTransform
    sending: Sending
    specs: str
    current: bool


def read_layout(path: Path) -> Layout:
    """Content of layout.json, whose column names are those of its transform.

    Raises:
        ServingError: It cannot be read, or is none.
    """
    try:
        content = json.loads(read(path))
        transform = FeatureTransform.from_json(content["transform"])
        columns, specs = [str(name) for name in content["columns"]], str(content["specs"])
        sending = Sending.from_json(content)
        fits = columns == transform.columns
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, SpecsError) as error:
        msg = f"{path} does not describe a feature layout: {reason(error)}"
        raise ServingError(msg) from error
    if not fits:
        msg = f"{path}: the columns are not those of its transform"
        raise ServingError(msg)
    return Layout(transform, sending, specs, "inputs" in content)


def described(sending: Sending, transform: FeatureTransform, labels: Sequence[str], specs: str) -> dict[str, Any]:
    """What params.json says under ``mlaas_spark`` that layout.json and labels.txt say too."""
    return {
        "version": VERSION,
        "inputs": sending.inputs,
        "missing": sending.missing,
        "mask": sending.mask,
        "W": transform.width,
        "branches": [[name, dim] for name, dim in transform.layout.dims],
        "specs": specs,
        "labels": list(labels),
    }


def check_described(ours: Mapping[str, Any], told: Mapping[str, Any], path: Path) -> None:
    """Check our part of params.json against what the other files say, :func:`described`.

    Raises:
        ServingError: It is not there, of another version, or says something else.
    """
    if (version := ours.get("version")) != VERSION:
        if version is None:
            msg = f"{path} says nothing under {tfaas.OURS}: a part of the bundle is missing, export the model again"
        else:
            msg = (
                f"{path} has version {version!r} of what is under {tfaas.OURS}, this program reads {VERSION}: "
                "export the model again"
            )
        raise ServingError(msg)
    for key, value in told.items():
        if ours.get(key) != value:
            msg = (
                f"{path} has {key} {_short(ours.get(key))} under {tfaas.OURS}, {LAYOUT} and {tfaas.LABELS} say "
                f"{_short(value)}: they do not belong together"
            )
            raise ServingError(msg)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def read(path: Path) -> bytes:
    """Content of a file of a bundle; ServingError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror or error}"
        raise ServingError(msg) from error
