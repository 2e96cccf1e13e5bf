"""The documentation's site: what is generated says everything, what is drawn or tabled is what the program does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from pydantic import BaseModel

from docs.hooks import pictures, reference
from docs.hooks.reference import MissingWordsError
from mlaas_spark import mlaas4hep
from mlaas_spark.config import Config, GroupConfig, resolve
from mlaas_spark.errors import MlaasSparkError, all_kinds

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
LOCAL_YAML = (REPOSITORY / "conf" / "local.yaml").read_text()


def leaves(model: type[BaseModel], above: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{above}{name}.")
        else:
            yield above + name


# Keys of the config


@pytest.fixture(scope="module")
def config_page() -> str:
    return reference.config_page(LOCAL_YAML)


@pytest.mark.parametrize("key", [*leaves(Config), *leaves(GroupConfig, "input.groups[].")])
def test_every_key_of_the_config_is_a_row_with_a_description(key: str, config_page: str) -> None:
    (row,) = (line for line in config_page.splitlines() if f"</a>`{key}`<br>" in line)
    cells = row.strip("|").split(" | ")
    assert len(cells) == 3
    assert len(cells[2].strip()) >= 4


def test_a_key_without_a_comment_is_named() -> None:
    silent = LOCAL_YAML.replace("  epochs: 5 ", "  epochs: 5 \n#")
    with pytest.raises(MissingWordsError, match=r"conf/local\.yaml says nothing of train\.epochs: put a comment"):
        reference.keys(silent)


def test_keys_have_type_default_and_what_is_allowed_from_the_model() -> None:
    by_name = {key.name: key for key in reference.keys(LOCAL_YAML)}
    compression = by_name["convert.compression"]
    assert (compression.kind, compression.default) == ("choice", '"lz4"')
    assert compression.allowed == "`lz4`, `zstd`, `snappy`, `gzip`, `none`"
    assert (by_name["input.format"].kind, by_name["input.format"].allowed) == (
        "choice or null",
        "`root`, `parquet`, `arrow`, `json`, `csv`",
    )
    assert by_name["chunks.size"].kind == "whole number or `all`"
    assert by_name["train.threads"].allowed == "≥ 1, ≤ 64"
    assert by_name["input.branches"].kind == "list of text"
    assert by_name["input.categories"].kind == "map of text to map of text to whole number or number"
    assert by_name["input.identifiers"].default == '["run", "luminosityBlock", "event"]'
    assert by_name["input.groups[].files"].default == ""


def test_defaults_of_the_page_are_those_of_the_program() -> None:
    content: dict[str, Any] = {}
    for key in reference.keys(LOCAL_YAML):
        if "[]" not in key.name:
            *sections, leaf = key.name.split(".")
            target = content
            for section in sections:
                target = target.setdefault(section, {})
            target[leaf] = json.loads(key.default)
    assert resolve(content) == Config()


def test_comments_behind_a_key_and_below_it_are_its_description() -> None:
    text = "a: 1   # one\n       # and more\n# of nobody\nb:     # a section\n  c: 'x # y'  # its # own\n  d: [1, 2]\n"
    assert reference.comments(text) == {"a": "one and more", "b": "a section", "b.c": "its # own"}


# Verbs


@pytest.fixture(scope="module")
def verbs_page() -> str:
    return reference.verbs_page()


@pytest.mark.parametrize("verb", sorted(reference.verbs()))
def test_every_verb_has_a_section_with_an_example_and_all_its_options(verb: str, verbs_page: str) -> None:
    section = re.split(r"^## ", verbs_page, flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith(f"{verb}\n"))
    assert f"```bash\nmlaas-spark {verb} " in text
    assert text.count("```bash") >= 2  # usage and an example
    options = [option for parameter in reference.verbs()[verb].params for option in parameter.opts if "--" in option]
    assert all(f"{option}" in text for option in options)


# Errors


@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: str(kind.__name__))
def test_every_error_class_has_exit_code_cause_and_cure(kind: type[MlaasSparkError]) -> None:
    (section,) = (
        part
        for part in re.split(r"^## ", reference.errors_page(), flags=re.MULTILINE)
        if part.startswith(f"{kind.__name__}\n")
    )
    assert f"Exit code {kind.exit_code}." in section
    cause, cure = (re.search(rf"\*\*{label}:\*\* (.+)", section) for label in ("Cause", "Cure"))
    assert cause is not None
    assert cure is not None
    assert min(len(cause[1]), len(cure[1])) > 20


def test_an_error_class_without_a_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_kinds()[-1], "__doc__", "What it is.\n\nCause: Nobody said.")
    with pytest.raises(MissingWordsError, match=rf"errors\.{all_kinds()[-1].__name__}: .*'Cure: \.\.\.'"):
        reference.failures()


def test_exit_codes_of_the_page_are_those_of_the_classes() -> None:
    rows = set(re.findall(r"^\| (\d) \|", reference.errors_page(), re.MULTILINE))
    assert rows == {str(kind.exit_code) for kind in all_kinds()} | {"0", "7"}


# Pictures


@pytest.mark.parametrize("name", sorted(pictures.PICTURES))
def test_pictures_are_as_they_are_drawn(name: str) -> None:
    there = (DOCS / "explanation" / f"{name}.svg").read_text()
    assert there == pictures.PICTURES[name](), "python docs/hooks/pictures.py draws them anew"


def test_the_row_in_the_picture_is_the_padded_normalised_event() -> None:
    matrix, mask = pictures.features(pictures.EVENT)
    # by hand: MET 41 of 0 to 100; jets 88, 52, 31 of 10 to 110 and one missing; muon 35 of 5 to 105 and one missing
    np.testing.assert_allclose(matrix, [0.41, 0.78, 0.42, 0.21, 0, 0.30, 0], atol=1e-6)
    assert mask == [1, 1, 1, 1, 0, 1, 0]


def test_chunks_in_the_picture_have_the_files_in_proportion_and_every_event_once() -> None:
    chunks = pictures.mixed()
    assert [[sum(file == which for file, _ in chunk) for which in range(3)] for chunk in chunks] == [[6, 3, 1]] * 4


# Migration


def table(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading of docs/migration.md."""
    text = (DOCS / "migration.md").read_text().partition(f"## {heading}\n")[2]
    found = []
    for line in text.strip().splitlines():
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip().strip("|").split("|")])
    return found[2:]


def test_migration_has_each_option_of_mlaas4hep() -> None:
    options = [row[0] for row in table("Options")]
    assert options == [f"`--{field.name}`" for field in fields(mlaas4hep.Options)]


def test_migration_has_each_key_of_params_json() -> None:
    keys = [row[0].strip("`") for row in table("Keys of params.json")]
    assert sorted(keys) == sorted([*mlaas4hep._UNDERSTOOD, *mlaas4hep._NO_EFFECT])  # noqa: SLF001 - the truth
    without = {row[0].strip("`") for row in table("Keys of params.json") if "no effect" in row[3]}
    assert without == set(mlaas4hep._NO_EFFECT)  # noqa: SLF001


def test_keys_of_the_config_that_migration_names_are_there() -> None:
    known = {*leaves(Config), *leaves(GroupConfig, "input.groups[]."), "chunks.split"}
    named = [cell for heading in ("Options", "Keys of params.json") for row in table(heading) for cell in row[1:3]]
    keys = {
        key for cell in named for key in re.findall(r"`([a-z]+\.[a-z_.\[\]]+)`", cell) if not key.startswith("model.")
    }
    assert keys - known == set()
    assert len(keys) > 15


@pytest.mark.parametrize("row", table("Keys of params.json")[:-3], ids=lambda row: str(row[0]))
def test_migration_tells_what_counts_where_params_json_is_silent(row: list[str]) -> None:
    content = mlaas4hep.translate(mlaas4hep.Options(files="a.root", labels="1")).content
    value: Any = resolve(content).model_dump(mode="json")
    for part in row[1].strip("`").split("."):
        value = value[part]
    assert value == yaml.safe_load(row[2].strip("`"))


# Site


def built(folder: Path, *, config: Path = REPOSITORY / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    # without --quiet, which keeps warnings from being counted
    build = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        str(config),
        "--site-dir",
        str(folder),
    ]
    return subprocess.run(build, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=600)  # noqa: S603


def test_the_site_builds_strictly_without_anything_from_elsewhere(tmp_path: Path) -> None:
    ended = built(tmp_path / "site")
    assert ended.returncode == 0, ended.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert {"index.html", "tutorial.html", "reference/config.html", "reference/errors.html", "glossary.html"} <= {
        str(page.relative_to(tmp_path / "site")) for page in pages
    }
    loaded = {
        found
        for page in pages
        for found in re.findall(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"?(\w+:)?//", page.read_text())
    }
    assert loaded == set()
    # pictures lie in their pages, where the palette reaches them
    assert 'class="picture"' in (tmp_path / "site" / "explanation" / "event.html").read_text()
    index = json.loads((tmp_path / "site" / "search" / "search_index.json").read_text())
    assert any("chunks.seed" in entry["text"] for entry in index["docs"])
    assert not list((tmp_path / "site").rglob("*.py"))


def test_every_page_is_in_the_navigation_with_no_other() -> None:
    content = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())
    generated = {"reference/config.md", "reference/verbs.md", "reference/errors.md"}
    there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if path.parent.name != "decisions"}
    assert sorted(pages(content["nav"])) == sorted(there | generated)


def pages(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for entry in nav if isinstance(nav, list) else []:
        for of_section in entry.values():
            yield from pages(of_section)
