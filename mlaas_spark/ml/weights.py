"""Weights of events and classes: checked, added up, and the factor that each class gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlaas_spark.errors import ModelContractError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

    from mlaas_spark.config import TrainConfig


@dataclass(frozen=True, slots=True)
class ClassTotals:
    """Events of a label: how many, the sum of their weights, what of it is negative, and of how many events."""

    events: int
    weight: float
    negative: float = 0.0
    negatives: int = 0


def totals(parts: Iterable[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]) -> dict[float, ClassTotals]:
    """Totals of each label, from arrays of labels and of weights, each shape (n,)."""
    found: dict[float, ClassTotals] = {}
    for labels, weights in parts:
        for label in np.unique(labels):
            of_label = weights[labels == label].astype(np.float64)
            before = found.get(float(label), ClassTotals(0, 0.0))
            found[float(label)] = ClassTotals(
                before.events + len(of_label),
                before.weight + float(of_label.sum()),
                before.negative + float(of_label[of_label < 0].sum()),
                before.negatives + int(np.count_nonzero(of_label < 0)),
            )
    return dict(sorted(found.items()))


def added(found: Mapping[float, ClassTotals]) -> ClassTotals:
    """The totals of all labels together."""
    parts = list(found.values())
    return ClassTotals(
        sum(of.events for of in parts),
        sum(of.weight for of in parts),
        sum(of.negative for of in parts),
        sum(of.negatives for of in parts),
    )


def shown(found: Mapping[str, ClassTotals]) -> str:
    """Totals as a line: of each label by its name, what is negative last."""
    return "; ".join(
        f"{name}: {of.weight:.6g} of {of.events:,} events"
        + (f", {of.negatives:,} of them negative, {of.negative:.6g}" if of.negatives else "")
        for name, of in found.items()
    )


def check(found: Mapping[float, ClassTotals], where: str) -> None:
    """The weights can train.

    Raises:
        ModelContractError: Some are NaN or infinite, or all of them are 0.
    """
    if odd := [label for label, of in found.items() if not np.isfinite(of.weight)]:
        msg = f"{where}: the weights of the events of label {odd[0]:g} are not all finite; see input.weight"
        raise ModelContractError(msg)
    if not any(of.weight for of in found.values()):
        msg = f"{where}: the weights of all events add up to 0, so nothing can be learned; see input.weight"
        raise ModelContractError(msg)


def class_factors(found: Mapping[float, ClassTotals], config: TrainConfig) -> dict[float, float]:
    """A factor for the weight of the events of each label; {} for none.

    ``balanced``: n / (classes * n of the class), as scikit-learn's ``compute_class_weight``. ``normalise_weights``: the
    weights of each class add up to the mean of the classes.

    Raises:
        ModelContractError: A weight is given for a label that no event has; a class whose weights do not add up to
            more than 0 cannot be normalised.
    """
    if isinstance(config.class_weight, dict):
        if foreign := sorted(set(config.class_weight) - set(found)):
            there = ", ".join(f"{label:g}" for label in found)
            msg = f"train.class_weight names the label {foreign[0]:g}, the labels in training are {there}"
            raise ModelContractError(msg)
        return {label: config.class_weight.get(label, 1.0) for label in found}
    if config.class_weight == "balanced":
        events = sum(of.events for of in found.values())
        return {label: events / (len(found) * of.events) for label, of in found.items()}
    if not config.normalise_weights:
        return {}
    if odd := [label for label, of in found.items() if of.weight <= 0]:
        msg = (
            f"train.normalise_weights: the weights of label {odd[0]:g} add up to {found[odd[0]].weight:g}, which no "
            "factor makes that of the others"
        )
        raise ModelContractError(msg)
    mean = sum(of.weight for of in found.values()) / len(found)
    return {label: mean / of.weight for label, of in found.items()}


def weighed(
    labels: npt.NDArray[np.float32], weights: npt.NDArray[np.float32], factors: Mapping[float, float]
) -> npt.NDArray[np.float32]:
    """The weights, shape (n,), with the factors of their classes."""
    if not factors:
        return weights
    of_label = np.array(list(factors), np.float32)
    place = np.searchsorted(of_label, labels)
    known = (place < len(of_label)) & (of_label[np.minimum(place, len(of_label) - 1)] == labels)
    factor = np.where(known, np.array(list(factors.values()), np.float32)[np.minimum(place, len(of_label) - 1)], 1)
    return weights * factor.astype(np.float32)
