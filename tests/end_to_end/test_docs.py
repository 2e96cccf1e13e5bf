"""Every command in README.md and docs/ is run, or parsed, or marked with what it needs.

- A block that shows a prompt (``$ mlaas-spark ...``) shows what came of it too: it is run, page by page, in an empty
  folder with the demo's files made small, and each line that is shown must come, whatever its numbers are.
- A block without a prompt has commands with the reader's own names in them (``my.yaml``): the command line's own parser
  takes them, up to the point where the verb would begin. So it does with ``spark-submit jobs/VERB.py``; targets of
  ``make`` and Python files must be there.
- ``<!-- needs: cluster -->`` above a block says why it is not run here: a cluster, a server, the network, minutes, or a
  run of one's own. Its commands of ours are parsed all the same.

A block that is none of these fails.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
import yaml

from mlaas_spark.cli import app

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Command

REPOSITORY = Path(__file__).parents[2]
NEEDS = {"cluster", "server", "network", "minutes", "run"}
SHELLS = {"bash", "sh", "shell", "console"}
OURS = {"mlaas-spark", "spark-submit", "make", "python"}
OTHERS = {"hdfs", "docker", "curl", "pip", "kinit", "voms-proxy-init", "yarn", "git", ".", "source", "cd"}
FOREIGN = {"workflow"}  # MLaaS4HEP's own, shown beside ours
CLUSTERS = ("yarn", "k8s:", "spark:")
RUN_FOLDER = re.compile(r"runs/(\w+)/\d{8}T\d{6}Z-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Block:
    """Commands that stand together.

    Attributes:
        page: File they are in.
        line: Its line, from 1.
        needs: Why they are not run, "" without a mark.
        commands: Each with the lines that are shown below it.
        prompted: Whether they have a prompt.
    """

    page: str
    line: int
    needs: str
    commands: tuple[tuple[str, tuple[str, ...]], ...]
    prompted: bool

    @property
    def runs(self) -> bool:
        return self.prompted and not self.needs and all(text.startswith("mlaas-spark ") for text, _ in self.commands)


def blocks(page: str, text: str) -> list[Block]:
    """The blocks of commands in a page of Markdown, fenced or indented."""
    found = []
    lines = text.splitlines()
    mark, number = "", 0
    while number < len(lines):
        line = lines[number]
        number += 1
        start = number
        if opened := re.fullmatch(r" *```(\w*).*", line):
            body = []
            while number < len(lines) and lines[number].strip() != "```":
                body.append(lines[number].removeprefix(" " * (len(line) - len(line.lstrip()))))
                number += 1
            number += 1
            commands, prompted = commands_of(body, opened[1])
        elif line.startswith("    mlaas-spark "):
            commands, prompted = ((line.strip(), ()),), False
        else:
            if line.strip():
                stated = re.fullmatch(r" *<!-- needs: (\w+) -->", line)
                mark = stated[1] if stated else ""
            continue
        if commands:
            found.append(Block(page, start, mark, commands, prompted))
        mark = ""
    return found


def commands_of(body: list[str], language: str) -> tuple[tuple[tuple[str, tuple[str, ...]], ...], bool]:
    """Commands with what is shown of each, and whether they have a prompt; () for a block of something else."""
    prompted = any(line.startswith("$ ") for line in body)
    first = next((line for line in body if line.strip()), "").split()
    known = bool(first) and Path(first[0]).name in OURS | OTHERS | FOREIGN  # a block that does not say what it is
    if language not in SHELLS | {""} or not (prompted or known or language in SHELLS):
        return (), False
    commands: list[tuple[str, list[str]]] = []
    goes_on = False
    for line in body:
        if goes_on:
            commands[-1] = (commands[-1][0] + " " + line.strip().removesuffix("\\").strip(), [])
        elif not prompted and line.strip() and not line.startswith("#"):
            commands.append((line.strip().removesuffix("\\").strip(), []))
        elif line.startswith("$ "):
            commands.append((line.removeprefix("$ ").removesuffix("\\").strip(), []))
        elif commands and line.strip():
            commands[-1][1].append(line)
        goes_on = line.endswith("\\") and (goes_on or not prompted or line.startswith("$ "))
    return tuple((text, tuple(shown)) for text, shown in commands), prompted


PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
BLOCKS = [
    block for page in PAGES for block in blocks(str(page.relative_to(REPOSITORY)), page.read_text(encoding="utf-8"))
]


def named(block: Block) -> str:
    return f"{block.page}:{block.line}"


def simple_commands(text: str) -> list[list[str]]:
    """The words of each command of a line, without what the shell does with them."""
    without_comment = re.sub(r"\s#.*", "", text)
    lexer = shlex.shlex(re.sub(r"<(\w+)>", r"\1", without_comment), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""  # archive.tar.gz#name has none
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|&;"):
            commands.append([])
        elif set(word) <= set("<>"):
            next(lexer)
        elif commands[-1] or not re.fullmatch(r"\w+=\S*", word):  # A=b before a command
            commands[-1].append(word)
    return [words for words in commands if words]


def fault(words: list[str], needs: str) -> str:
    """What is wrong with a command, "" if nothing is."""
    program, *arguments = words
    name = Path(program).name
    if name == "mlaas-spark":
        return fault_of_verb([word for word in arguments if word != "--debug"])
    if name == "spark-submit":
        return fault_of_job(arguments, needs)
    if name == "make":
        targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        unknown = [word for word in arguments if "=" not in word and word not in targets]
        return f"no target {unknown[0]} in the Makefile" if unknown else ""
    if name.startswith("python"):
        return fault_of_python(arguments)
    if name in FOREIGN or needs:
        return ""
    return f"{program}: nobody runs or parses it: mark the block with <!-- needs: {'|'.join(sorted(NEEDS))} -->"


def fault_of_verb(arguments: list[str]) -> str:
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    verb, *rest = arguments or [""]
    if verb == "--help":
        return ""
    if verb not in verbs:
        return f"no verb {verb}"
    if "--help" in rest:
        return ""
    try:
        verbs[verb].make_context(verb, rest)
    except typer.exceptions.TyperException as error:
        return f"{verb}: {error.format_message()}"
    return ""


def fault_of_job(arguments: list[str], needs: str) -> str:
    master = next((after for word, after in itertools.pairwise(arguments) if word == "--master"), "")
    if master.startswith(CLUSTERS) and needs != "cluster":
        return f"--master {master}: mark the block with <!-- needs: cluster -->"
    for place, word in enumerate(arguments):
        if job := re.search(r"jobs/(\w+)\.py$", word):
            if not (REPOSITORY / job[0]).is_file():
                return f"no {job[0]}"
            return fault_of_verb([job[1], *arguments[place + 1 :]])
    return "spark-submit without a file of jobs/"


def fault_of_python(arguments: list[str]) -> str:
    if arguments[0] == "-m":
        where = arguments[1].replace(".", "/")
        paths = [word for word in arguments[2:] if word.startswith("tests/")] if arguments[1] == "pytest" else [where]
        there = all((REPOSITORY / path).exists() or (REPOSITORY / f"{path}.py").is_file() for path in paths)
        return "" if there else f"no module or file {', '.join(paths)}"
    return "" if (REPOSITORY / arguments[0]).is_file() else f"no file {arguments[0]}"


@pytest.mark.parametrize("block", BLOCKS, ids=named)
def test_commands_of_the_documents_are_there_with_their_options(block: Block) -> None:
    assert block.needs in NEEDS | {""}
    faults = [fault(words, block.needs) for text, _ in block.commands for words in simple_commands(text)]
    assert [found for found in faults if found] == []
    # what is shown below a prompt is what came: it is run below, or somebody says why not
    assert not block.prompted or block.runs or block.needs or block.commands[0][0].startswith("make ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mlaas-spark specs a.root --uot x", "No such option"),
        ("mlaas-spark spec a.root", "no verb spec"),
        ("make dmeo", "no target dmeo"),
        ("spark-submit --master yarn jobs/train.py --config my.yaml", "needs: cluster"),
        ("spark-submit jobs/trian.py --config my.yaml", "no jobs/trian.py"),
        ("python -m benchmark", "no module"),
        ("hdfs dfs -ls /", "nobody runs or parses it"),
        ("A=b mlaas-spark models --url http://h < in | mlaas-spark modles", "no verb modles"),
    ],
)
def test_a_wrong_command_is_found(text: str, expected: str) -> None:
    (block,) = blocks("page.md", f"Words\n\n```bash\n{text}\n```\n")
    assert expected in "".join(fault(words, block.needs) for words in simple_commands(block.commands[0][0]))


def test_blocks_are_found_with_their_marks_prompts_and_output() -> None:
    text = (
        "Words\n\n<!-- needs: server -->\n```console\n$ mlaas-spark models \\\n    --url u\nName\n$ curl x\n```\n"
        "1. More\n\n    ```bash\n    make demo   # why\n    ```\n\n"
        "```python\nmake = 1\n```\n\n    mlaas-spark evaluate RUN\n"
    )
    marked, listed, indented = blocks("page.md", text)
    assert (marked.needs, marked.prompted, marked.runs) == ("server", True, False)
    assert marked.commands == (("mlaas-spark models --url u", ("Name",)), ("curl x", ()))
    assert (listed.needs, listed.commands[0][0], listed.prompted) == ("", "make demo   # why", False)
    assert indented.commands == (("mlaas-spark evaluate RUN", ()),)


# What is run


TOUR = sorted({block.page for block in BLOCKS if block.runs})


def test_the_tour_is_the_tutorial_and_pages_that_show_output() -> None:
    assert set(TOUR) >= {"README.md", "docs/tutorial.md", "docs/how-to/convert.md", "docs/how-to/specs.md"}


@pytest.mark.parametrize("page", TOUR)
def test_page_does_what_it_shows(
    page: str, run: Command, sample: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    of_page = [block for block in BLOCKS if block.page == page and block.runs]
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf")
    if not any("mlaas-spark demo" in text for block in of_page for text, _ in block.commands):
        shutil.copytree(sample, tmp_path / "data" / "demo")
    if any("uproot-HZZ.root" in text for block in of_page for text, _ in block.commands):
        shutil.copy(request.getfixturevalue("data_folder") / "uproot-HZZ.root", tmp_path)
    for block in of_page:
        for text, shown in block.commands:
            outcome = run(*arguments(text, tmp_path))
            assert outcome.code == 0, f"{named(block)}: {text}\n{outcome.err}"
            came = {skeleton(line) for line in (outcome.out + outcome.err).splitlines()}
            missing = [line for line in shown if line.strip() != "..." and skeleton(line) not in came]
            assert missing == [], f"{named(block)}: {text}\n{outcome.out}{outcome.err}"


def arguments(text: str, folder: Path) -> list[str]:
    """A command as it is run: the demo's files small, globs expanded, the run of today for the one that is shown."""
    text = RUN_FOLDER.sub(lambda found: str(newest(folder, found[1]).relative_to(folder)), text)
    if served := re.search(r"runs/(\w+)/\S+/bundle/\S+\.tar\.gz", text):
        bundle = Path(json.loads((newest(folder, served[1]) / "run.json").read_text())["bundle"]).name
        text = re.sub(r"/bundle/\S+\.tar\.gz", f"/bundle/{bundle}", text)
    (words,) = simple_commands(text)
    if words[1] == "demo":
        words += ["--events", "2400"]
    expanded = ((sorted(map(str, folder.glob(word))) or [word]) if "*" in word else [word] for word in words[1:])
    return [
        str(Path(word).relative_to(folder)) if word.startswith(str(folder)) else word
        for several in expanded
        for word in several
    ]


def newest(folder: Path, name: str) -> Path:
    return max(path.parent for path in folder.glob(f"runs/{name}/*/run.json"))


def skeleton(line: str) -> str:
    """A line without its numbers, digests and folders, which differ from one day to the next."""
    line = re.sub(r"(?<!\S)/\S*/(?=(runs|data|friends)/)", "", line)
    line = re.sub(r"(?<!\S)/\S*/", "", line)
    line = re.sub(r"(are those of) (all|a sample,) .*", r"\1", line)  # small files are read whole
    line = re.sub(r"\b(?=\w*\d)[0-9a-f]{12,}\b|\d{8}T\d{6}Z", "#", line)
    line = re.sub(r"(?<![\w#])-?\d[\d.,]*(e[+-]\d+)?(?![a-z])|_[0-9a-f]{12}\b", "#", line)
    return " ".join(line.split())


def test_lines_are_compared_by_their_words() -> None:
    assert skeleton("Jet_pt  jagged  17  616.134   0.0 %") == skeleton("Jet_pt jagged 9 -1.5e-05 12.5 %")
    assert skeleton("run folder /tmp/x/runs/demo/20261125T223715Z-8c5abe778886") == skeleton(
        "run folder  runs/demo/20251125T223715Z-0c5abe778886"
    )
    assert skeleton("/elsewhere/a/x.root:events  friends/x.root") == skeleton("/home/me/x.root:events friends/x.root")
    assert skeleton("4 files, 6.4 MB") != skeleton("4 files, 6.4 GB")


# What the tutorial quotes


def test_the_tutorial_quotes_the_demo_as_it_is() -> None:
    text = (REPOSITORY / "docs" / "tutorial.md").read_text()
    quoted = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    whole = yaml.safe_load((REPOSITORY / "conf" / "demo.yaml").read_text())
    for section, content in quoted.items():
        assert content == whole[section] or content.items() <= whole[section].items()
    (model,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    file = (REPOSITORY / "conf" / "demo_model.py").read_text()
    body = model.partition("def model(idim):\n")[2]
    assert len(body.splitlines()) > 5
    assert body.strip() in file
