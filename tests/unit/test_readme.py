"""Words that must stay true: commands of the README, the map of the house, every key of the config."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel

from mlaas_spark.cli import app
from mlaas_spark.config import Config, GroupConfig, read, resolve

REPOSITORY = Path(__file__).parents[2]
TEXTS = ["README.md", "CONTRIBUTING.md", "conf/local.yaml", "conf/demo.yaml", "docs/serving.md"]
TEXTS += sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "mlaas_spark" / "cli").glob("*.py"))


def commands() -> list[str]:
    found = []
    for name in TEXTS:
        text = (REPOSITORY / name).read_text()
        found += [
            line.split("#")[0].split("&& mlaas-spark")[0].strip()
            for line in re.findall(r"mlaas-spark +([a-z][a-z-]+ [^`\n]*)", text)
        ]
    return [command for command in found if command.split()[0] in typer.main.get_command(app).commands]  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_command_in_the_documents_exists_with_its_options(command: str) -> None:
    verb, *words = shlex.split(command.replace("...", "").rstrip(".,;: "))
    known: Any = typer.main.get_command(app)
    known = known.commands[verb]
    while words and words[0] in getattr(known, "commands", {}):  # of a group
        known = known.commands[words.pop(0)]
    options = {option for parameter in known.params for option in parameter.opts} | {"--help"}
    used = {word.split("=")[0] for word in words if word.startswith("--")}
    assert used <= options


def test_documents_name_several_verbs() -> None:
    assert {command.split()[0] for command in commands()} >= {"inspect", "specs", "convert", "train", "serve-check"}


def test_map_of_the_house_has_every_module_and_no_other() -> None:
    mapped = set(re.findall(r"\| `(mlaas_spark/[\w/]+\.py)` \|", (REPOSITORY / "CONTRIBUTING.md").read_text()))
    package = REPOSITORY / "mlaas_spark"
    there = {str(path.relative_to(REPOSITORY)) for path in package.rglob("*.py") if path.name != "__init__.py"}
    assert mapped == there


def test_local_yaml_shows_every_key_with_its_default() -> None:
    content = read(REPOSITORY / "conf" / "local.yaml")
    assert resolve(content) == Config()
    assert keys(content) == keys(Config().model_dump(mode="json"))


def keys(content: Any, above: str = "") -> set[str]:
    if not isinstance(content, dict):
        return {above}
    return {key for name, value in content.items() for key in keys(value, f"{above}.{name}")} or {above}


def test_keys_of_a_group_are_shown_in_a_comment() -> None:
    text = (REPOSITORY / "conf" / "local.yaml").read_text()
    commented = "\n".join(line.replace("#", "", 1) for line in text.splitlines() if line.startswith("  #"))
    shown = yaml.safe_load(commented)[0]
    assert set(shown) == set(GroupConfig.model_fields)
    assert issubclass(GroupConfig, BaseModel)


@pytest.mark.parametrize("name", ["demo.yaml", "cluster.yaml"])
def test_example_configs_resolve(name: str) -> None:
    assert resolve(read(REPOSITORY / "conf" / name)).input.groups
