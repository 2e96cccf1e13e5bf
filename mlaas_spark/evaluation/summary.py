"""All metrics of a split as plain values for metrics.json; what cannot be given is None, and a note says why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from mlaas_spark.evaluation import roc, significance
from mlaas_spark.evaluation.calibration import calibration
from mlaas_spark.evaluation.confusion import confusion, predicted
from mlaas_spark.evaluation.distributions import overtraining, score_histograms
from mlaas_spark.evaluation.events import Scored, label_text, mean, plain, weighing
from mlaas_spark.evaluation.residuals import residuals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Task = Literal["binary", "multiclass", "regression"]
TASKS: tuple[Task, ...] = get_args(Task)

_CLASSIFICATION = (
    *("accuracy", "accuracy_error", "auc", "auc_interval", "auc_weighted", "roc", "scores", "overtraining"),
    *("confusion", "calibration", "significance"),
)
_BINARY_LOSSES = ("binary", "hinge")


@dataclass(frozen=True, slots=True)
class Settings:
    """How metrics are made.

    Attributes:
        replicas: Of the bootstrap; 0 makes no interval.
        seed: Of the bootstrap.
        signal_yield: Expected signal events without a cut, for the significance; None: the sum of the weights.
        background_yield: The same of the background.
    """

    replicas: int = 200
    seed: int = 1
    signal_yield: float | None = None
    background_yield: float | None = None


def task_of(scored: Scored, loss: str) -> Task:
    """The task that outputs, labels and the name of a loss speak of.

    Several targets, or several outputs without a loss of classes or with labels that are no class numbers: regression.
    One output: binary with a loss such as binary_crossentropy, or if all labels are 0 or 1, else regression.
    """
    labels = scored.labels
    if labels.ndim > 1 and labels.shape[1] > 1:
        return "regression"
    found = np.unique(labels)
    if scored.outputs == 1:
        binary = any(part in loss for part in _BINARY_LOSSES) or bool(np.isin(found, (0, 1)).all())
        return "binary" if binary else "regression"
    return "binary" if scored.outputs == 2 else "multiclass"


def summarise(
    task: Task,
    splits: Mapping[str, Scored],
    settings: Settings,
    targets: Sequence[str] = (),
) -> dict[str, Any]:
    """Metrics of the first split, compared with the second if there is one (some training events).

    Keys: ``task``, ``split``, ``events``, ``labels`` (events of each class), ``weights`` (see
    :func:`~mlaas_spark.evaluation.events.weighing`, and ``by_label``), those of classification and ``residuals``,
    None where the task has none, and ``notes``. See docs/evaluation.md for what each holds.

    Args:
        task: What labels and scores are.
        splits: Scored events by name; the first are judged.
        settings: How.
        targets: Names of the targets of a regression; [] gives them numbers.
    """
    split, scored = next(iter(splits.items()))
    result: dict[str, Any] = {
        "task": task,
        "split": split,
        "events": len(scored),
        "labels": None,
        "weights": weighing(scored.weights),
        **dict.fromkeys(_CLASSIFICATION),
        "residuals": None,
        "notes": _weight_notes(scored),
    }
    if task == "regression":
        result |= _regression(splits, targets, result["notes"])
    else:
        classes, events = np.unique(scored.labels, return_counts=True)
        result["labels"] = {label_text(k): int(n) for k, n in zip(classes, events, strict=True)}
        result["weights"]["by_label"] = {
            label_text(k): weighing(scored.weights[scored.labels == k]) for k in classes.tolist()
        }
        result |= _classification(splits, settings, result["notes"])
    return {key: plain(value) for key, value in result.items()}


def _weight_notes(scored: Scored) -> list[str]:
    of = weighing(scored.weights)
    if not of["negative"]:
        return []
    note = (
        f"{of['negative']} of {of['events']} weights are negative, {100 * of['negative_share']:.2g} % of the absolute "
        "total: they count as they are in sums, histograms and means, errors are the root of the sum of squares; "
        "curves need not grow, and what should lie in [0, 1] may leave it"
    )
    return [note]


def _classification(splits: Mapping[str, Scored], settings: Settings, notes: list[str]) -> dict[str, Any]:
    scored, *others = splits.values()
    classes = np.unique(scored.labels)
    if not np.isin(classes, np.arange(max(scored.outputs, 2))).all():
        notes.append("no accuracy and AUC: the labels are not class numbers")
        return {"scores": score_histograms(splits)}
    if not np.isfinite(scored.scores).all():
        notes.append("no accuracy and AUC: some scores are not numbers")
        return {"scores": score_histograms(splits)}
    accuracy, error = mean(predicted(scored.scores) == scored.labels, scored.weights)
    if accuracy is None:
        notes.append(f"no accuracy: the weights add up to {float(scored.weights.sum()):g}")
    result = {
        "accuracy": accuracy,
        "accuracy_error": error,
        "scores": score_histograms(splits),
        "confusion": confusion(scored),
        "calibration": _calibration(scored, notes),
    }
    if len(classes) == 1:
        notes.append(f"no AUC: all events have the label {classes[0]:g}")
    else:
        result |= _curves(scored, settings, notes)
    if others:
        result["overtraining"] = _overtraining(scored, others[0], notes)
    if scored.outputs > len(score_histograms(splits)) > 1:
        notes.append("scores has the first ten outputs only")
    return result


def _calibration(scored: Scored, notes: list[str]) -> dict[str, Any] | None:
    if (scored.scores < 0).any() or (scored.scores > 1).any():
        notes.append("no calibration: scores beyond [0, 1] are no probabilities")
        return None
    found = calibration(scored)
    if found["brier"] is None:
        notes.append(f"no Brier score: the weights add up to {float(scored.weights.sum()):g}")
    if any(total < 0 for of_class in found["classes"].values() for total in of_class["sum"]):
        notes.append("calibration leaves out bins whose weights add up to less than 0")
    return found


def _curves(scored: Scored, settings: Settings, notes: list[str]) -> dict[str, Any]:
    """ROC and significance of label 1, or of each class against the rest."""
    columns = {1: scored.outputs - 1} if scored.outputs <= 2 else {k: k for k in range(scored.outputs)}
    curves: dict[str, Any] = {}
    scans: dict[str, Any] = {}
    for label, column in columns.items():
        of_class = (scored.scores[:, column], scored.labels == label, scored.weights)
        curves[label_text(label)] = curve = roc.curve(*of_class)
        if curve is None:
            notes.append(f"no ROC curve of label {label}: it or the rest has no events, or weights that add up to <= 0")
        else:
            replicas = roc.auc_replicas(*of_class, settings.replicas, [settings.seed, label])
            curve["auc_interval"] = roc.interval(replicas, settings.seed)
        yields = (settings.signal_yield, settings.background_yield)
        scans[label_text(label)] = found = significance.scan(*of_class, *yields)
        if found is not None and None in found["best"].values():
            notes.append(
                f"no best cut for label {label}: none leaves {significance.LEAST_BACKGROUND} background events"
            )
    known = {label: curve for label, curve in curves.items() if curve is not None}
    result: dict[str, Any] = {"roc": curves if known else None, "significance": scans if any(scans.values()) else None}
    if not known:
        return result
    if scored.outputs <= 2:
        (curve,) = known.values()
        return {**result, "auc": curve["auc"], "auc_interval": curve["auc_interval"], "auc_weighted": curve["auc"]}
    if len(known) < scored.outputs:
        notes.append(f"the AUC is the mean over the {len(known)} classes that have a ROC curve")
    if settings.replicas:
        notes.append("no bootstrap interval of the mean AUC: those of its classes, in roc, are not independent")
    areas = np.array([curve["auc"] for curve in known.values()])
    totals = np.array([float(scored.weights[scored.labels == float(label)].sum()) for label in known])
    return {**result, "auc": float(areas.mean()), "auc_weighted": float(areas @ totals / totals.sum())}


def _overtraining(scored: Scored, train: Scored, notes: list[str]) -> dict[str, Any] | None:
    if not np.isfinite(train.scores).all():
        notes.append("no overtraining check: some scores of training events are not numbers")
        return None
    found = overtraining(scored, train)
    if any(of_label["p"] is None for of_label in found.values()):
        notes.append("no KS p-value of some labels: with negative weights, or a sum <= 0, the test has none")
    return found


def _regression(splits: Mapping[str, Scored], targets: Sequence[str], notes: list[str]) -> dict[str, Any]:
    scored = next(iter(splits.values()))
    count = scored.targets.shape[1]
    names = list(targets) or (["target"] if count == 1 else [f"target_{index}" for index in range(count)])
    found = residuals(splits, names)
    for name, numbers in found.items():
        if numbers["left_out"]:
            notes.append(f"{name}: {numbers['left_out']} events left out, their score or target is not a number")
        if numbers["bias"] is None:
            notes.append(f"{name}: no residual metrics, its weights add up to 0 or less")
        elif numbers["r2"] is None:
            notes.append(f"{name}: no R2, the true values do not vary")
        if numbers["median"] is None:
            notes.append(f"{name}: no quantiles with negative weights")
    return {"residuals": found}
