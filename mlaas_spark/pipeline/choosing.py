"""Which branches are features, identifiers and answers, by the config and the schema of what was opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlaas_spark.errors import SpecsError
from mlaas_spark.selection import Expression

if TYPE_CHECKING:
    from mlaas_spark.config import Config
    from mlaas_spark.schema import EventSchema


def keys(config: Config, schema: EventSchema) -> tuple[str, ...]:
    """The identifier branches that the schema has and that are whole numbers."""
    return tuple(
        name
        for name in config.input.identifiers
        if name in schema and not schema[name].jagged and "int" in schema[name].dtype
    )


def answers(config: Config) -> list[Expression]:
    """Label, targets and weight of events, as far as they are expressions."""
    texts = (config.input.label, *config.input.targets, config.input.weight)
    return [Expression.parse(text) for text in texts if text]


def candidates(config: Config, schema: EventSchema) -> list[str]:
    """Branches that become features: no identifiers, nothing of the answers, nothing that only the selection reads."""
    read = {branch for expression in answers(config) for branch in expression.branches}
    chosen = schema.select(config.input.branches, config.input.exclude)
    wanted = {*chosen.names, *config.input.derive} - read - {*config.input.identifiers}
    return [name for name in schema.names if name in wanted]


def features(config: Config, schema: EventSchema) -> list[str]:
    """:func:`candidates`, at least one of them."""
    names = candidates(config, schema)
    if not names:
        msg = "no branch is left that could be a feature: see mlaas-spark inspect for what there is"
        raise SpecsError(msg)
    return names


def quantiles(config: Config, schema: EventSchema) -> list[str]:
    """Branches that are normalised by quantiles."""
    chosen = config.features
    return [name for name in features(config, schema) if chosen.overrides.get(name, chosen.normalise) == "robust"]
