"""The model card of a bundle: Markdown that says what the model is, what it was trained on and how it is asked. Pure.

Its questions are those of Mitchell et al., Model Cards for Model Reporting, 2019 (doi:10.1145/3287560.3287596), as far
as a training can answer them; the intended use is left to whoever publishes the model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlaas_spark.raw import shortest
from mlaas_spark.shown import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from mlaas_spark.drift import Ranges
    from mlaas_spark.manifest import Input
    from mlaas_spark.transform import FeatureTransform

_LISTED = 50  # inputs; all are in the manifest of the chunks
_TODO = "_To be filled in by whoever publishes the model._"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from.

    Attributes:
        ranges: Values of the branches in training.
        trained: When, ISO 8601.
        config: Digest of the config.
        metrics: Those of metrics.json; what is no number is left out of the card.
        versions: Of the libraries.
    """

    ranges: Ranges = field(default_factory=dict)
    trained: str = ""
    config: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card is made of.

    Attributes:
        name: Served name.
        description: The user's.
        inputs: ``raw`` or ``features``.
        missing: What is sent for a missing value.
        mask: Whether the model looks at the mask.
        labels: A name for each output.
        transform: Of the model.
        types: Type of each branch.
        events: Of each split and label, {} by split where events have no labels.
        totals: Of each split.
        targets: Of a regression, the expression of each.
        files: That the model was trained on.
        digests: SHA-256 by name.
        origin: Of the model.
        row: An event as the model takes it, (W,).
        scores: That the model gives it, (K,).
    """

    name: str
    description: str
    inputs: str
    missing: float
    mask: bool
    labels: Sequence[str]
    transform: FeatureTransform
    types: Mapping[str, str]
    events: Mapping[str, Mapping[str, int]]
    totals: Mapping[str, int]
    targets: Sequence[str]
    files: Sequence[Input]
    digests: Mapping[str, str]
    origin: Origin
    row: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]


def card(facts: Facts) -> str:
    """MODEL_CARD.md."""
    parts = [
        f"# {facts.name}",
        facts.description or "_No description: export.description of the config._",
        "## Intended use",
        f"{_TODO} For what the model is meant, for whom, and for what it is not.",
        "## How to ask it",
        *_asked(facts),
        "## What it was trained on",
        *_trained(facts),
        "## How good it is",
        *_metrics(facts.origin.metrics),
        "## Limits",
        f"{_TODO} What is known to fail; who is to be asked.",
        "## Branches",
        *_branches(facts),
        "## What it was made with",
        *_made(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _asked(facts: Facts) -> list[str]:
    width, missing = facts.transform.width, json.dumps(facts.missing)
    if facts.inputs == "raw":
        how = (
            f"An event is one row of W = {width} numbers: the values as they are in the file, in the order of the "
            "table below. A flat branch has one value; a jagged one has as many as the table says, cut or padded at "
            "the end. "
            f"JSON has no NaN: what is missing, NaN, infinite or padding is sent as `{missing}`, and everything at or "
            "below it is taken as missing. The model normalises, pads and masks by itself."
        )
    else:
        how = (
            f"An event is one row of W = {width} features, already normalised as layout.json says, in the order of the "
            f"table below; what is missing, NaN, infinite or padding is sent as `{missing}`."
        )
    outputs = "the probability of" if len(facts.labels) == 1 else "one number for each of"
    answer = ", ".join(facts.labels)
    if facts.targets:
        outputs, answer = "an estimate of", ", ".join(map(_code, facts.targets))
    row = {"keys": facts.transform.columns, "values": shortest(facts.row), "model": facts.name}
    return [
        how,
        f"The answer is {outputs}: {answer}.",
        "An event of the check, and what the model gave it (POST to `/json` of the server):",
        f"```json\n{json.dumps(row)}\n```",
        f"```json\n{json.dumps(shortest(facts.scores))}\n```",
    ]


def _trained(facts: Facts) -> list[str]:
    labels = sorted({label for of_split in facts.events.values() for label in of_split}, key=_as_number)
    rows = [
        (split, *(f"{of_split.get(label, 0):,}" for label in labels), f"{facts.totals[split]:,}")
        for split, of_split in sorted(facts.events.items(), key=lambda item: _SPLITS.get(item[0], 9))
    ]
    files = [(_code(i.path), _code(i.tree) if i.tree else "-", f"{i.events:,}", _code(i.uuid)) for i in facts.files]
    more = [f"and {len(files) - _LISTED} files more"] if len(files) > _LISTED else []
    return [
        "Events by split and label:",
        _table(("split", *(f"label {label}" for label in labels), "all"), rows),
        "Files (events are those that passed the selection; the identity stands for the content):",
        _table(("file", "tree", "events", "identity"), files[:_LISTED]),
        *more,
    ]


_SPLITS = {"train": 0, "validation": 1, "test": 2}


def _as_number(label: str) -> tuple[float, str]:
    try:
        return float(label), label
    except ValueError:
        return float("inf"), label


def _metrics(metrics: Mapping[str, Any]) -> list[str]:
    numbers = [
        (key, f"{value:,}" if isinstance(value, int) else f"{value:.6g}")
        for key, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return [_table(("metric", "value"), numbers)] if numbers else ["_Not known._"]


def _branches(facts: Facts) -> list[str]:
    rows, start = [], 0
    for (name, dim), jagged in zip(facts.transform.layout.dims, facts.transform.jagged, strict=True):
        low, high = facts.origin.ranges.get(name, (None, None))
        span = "-" if low is None or high is None else f"{low:.6g} to {high:.6g}"
        columns = "-" if not dim else str(start) if dim == 1 else f"{start} to {start + dim - 1}"
        kind = "jagged" if jagged else "flat"
        rows.append((_code(name), facts.types.get(name, kind), columns, str(dim), span))
        start += dim
    return [_table(("branch", "type", "columns", "values", "in training"), rows)]


def _made(facts: Facts) -> list[str]:
    origin = facts.origin
    rows = [("trained", origin.trained)] if origin.trained else []
    rows += [(f"digest of {name}", f"`{digest}`") for name, digest in facts.digests.items() if digest]
    rows += [(name, version) for name, version in origin.versions.items()]
    return [_table(("", ""), rows)]


def _code(name: str) -> str:
    """A name from a file as code: what Markdown or a browser would take for more is none of it."""
    return "`" + one_line(name).replace("`", "'") + "`"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *map(list, rows)]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )
