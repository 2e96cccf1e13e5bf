"""The contract of TFaaS as constants and pure checks: names, ops, params.json. Opens nothing.

Source: the server's code, tried against a running one (design.md, section 4). The server feeds and fetches by op
name, whatever params.json says, and keeps a model for good once it has served it: names are never used twice.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from mlaas_spark.errors import ServingError

if TYPE_CHECKING:
    from collections.abc import Mapping

INPUT_OP = "serving_default_inputs_input"
OUTPUT_OP = "StatefulPartitionedCall"
SIGNATURE = "serving_default"
ARGUMENT = "inputs_input"
TAG = "serve"

GRAPH = "saved_model.pb"
VARIABLES = "variables"
ASSETS = "assets"
PARAMS = "params.json"
LABELS = "labels.txt"
OURS = "mlaas_spark"
"""Key of params.json that the server passes over: what clients need to know of the bundle, see docs/bundle.md."""

_NAME = re.compile(r"[a-zA-Z0-9_]+")
_DIGEST_DIGITS = 12


def served_name(name: str, digest: str) -> str:
    """``<name>_<12 hex>``: one name for one content.

    Raises:
        ServingError: The server could not address a model of this name.
    """
    served = f"{name}_{digest[:_DIGEST_DIGITS]}"
    check_name(served)
    return served


def check_name(name: str) -> None:
    """The server's paths take this name; ServingError if not."""
    if not _NAME.fullmatch(name):
        msg = f"{name!r} is no name for a served model: TFaaS takes letters, digits and _ only"
        raise ServingError(msg)


@dataclass(frozen=True, slots=True)
class Params:
    """Content of params.json.

    Attributes:
        name: Served name, also the folder's.
        description: For people.
        model: File of the graph.
        labels: File with the name of each output, one a line.
        options: Tags of the SavedModel.
        input_name: Argument of the signature.
        output_name: Op that is fetched.
        input_node: Op that is fed.
        output_node: Op that is fetched.
        ours: What stands under :data:`OURS`, {} if nothing does.
    """

    name: str
    description: str = ""
    model: str = GRAPH
    labels: str = LABELS
    options: tuple[str, ...] = (TAG,)
    input_name: str = ARGUMENT
    output_name: str = OUTPUT_OP
    input_node: str = INPUT_OP
    output_node: str = OUTPUT_OP
    ours: Mapping[str, Any] = field(default_factory=dict)

    def dumps(self) -> str:
        """As JSON; :meth:`loads` reads it back."""
        content = asdict(self)
        if ours := content.pop("ours"):
            content[OURS] = ours
        return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def loads(cls, text: str | bytes, source: str = PARAMS) -> Self:
        """The params of a JSON text.

        Raises:
            ServingError: Not JSON, a key missing or of a wrong type, or a value that the server does not work with.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            msg = f"{source} is not JSON: {error}; without it the server cannot list any model"
            raise ServingError(msg) from error
        if not isinstance(content, dict):
            msg = f"{source} is a {type(content).__name__}, not a mapping"
            raise ServingError(msg)
        fixed = asdict(cls(""))
        del fixed["ours"]
        if missing := sorted(set(fixed) - set(content)):
            msg = f"{source} lacks {', '.join(missing)}"
            raise ServingError(msg)
        for key in ("name", "description"):
            if not isinstance(content[key], str):
                msg = f"{source}: {key} is not text"
                raise ServingError(msg)
        check_name(content["name"])
        for key, value in fixed.items():
            if key not in {"name", "description"} and content[key] != _plain(value):
                msg = f"{source}: {key} is {content[key]!r}, the server works with {_plain(value)!r}"
                raise ServingError(msg)
        if not isinstance(ours := content.get(OURS, {}), dict):
            msg = f"{source}: {OURS} is a {type(ours).__name__}, not a mapping"
            raise ServingError(msg)
        return cls(content["name"], content["description"], ours=ours)


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value
