"""The linter refuses what must not be in the tree: each rule is shown to fire on a line that breaks it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

UNSAFE = {"extractall", "unpack_archive", "unsafe_load", "full_load", "yaml.load", "marshal.loads", "torch.load"}
LOCKS = [
    "requirements.lock",
    "requirements-run.lock",
    "requirements-audit.lock",
    "requirements-fuzz.lock",
    "benchmarks/peers.lock",
]
ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "S202": "import tarfile\n\ntarfile.open('a').extractall('b')\n",
    "S506": "import yaml\n\nyaml.load('a')\n",
    "S301": "import pickle\n\npickle.loads(b'')\n",
    "S307": "eval('1')\n",
    "S102": "exec('1')\n",
    "S602": "import subprocess\n\nsubprocess.run('ls', shell=True, check=True)\n",
    "S701": "from jinja2 import Environment\n\nEnvironment()\n",
    "S501": "import requests\n\nrequests.get('https://a', verify=False, timeout=1)\n",
    "BLE001": "try:\n    a = 1\nexcept Exception:\n    a = 2\n",
    "TID251": "import shutil\n\nshutil.unpack_archive('a', 'b')\n",
}


def ruff(name: str, text: str) -> str:
    command = [str(Path(sys.executable).parent / "ruff"), "check", "--no-cache", "--stdin-filename", name, "-"]
    return subprocess.run(command, input=text, cwd=ROOT, capture_output=True, text=True, check=False).stdout  # noqa: S603 - our linter


@pytest.mark.parametrize("rule", FORBIDDEN)
def test_the_rule_fires(rule: str) -> None:
    assert re.search(rf"^{rule} ", ruff("mlaas_spark/planted.py", FORBIDDEN[rule]), re.MULTILINE)


def test_nothing_in_the_tree_unpacks_unseen_or_loads_yaml_unsafely() -> None:
    found = []
    for path in sorted((ROOT / "mlaas_spark").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in {
                "extractall",
                "unpack_archive",
                "unsafe_load",
                "full_load",
            }:
                found.append(f"{path}:{node.lineno}")
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {"yaml.load", "marshal.loads", "torch.load"}:
                found.append(f"{path}:{node.lineno}")
    assert found == []


def test_each_exception_from_the_rules_says_why() -> None:
    """What is pickled comes from our own executors, and what is run was named by the user."""
    lines = [
        (path.relative_to(ROOT).as_posix(), line)
        for path in sorted((ROOT / "mlaas_spark").rglob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(r"noqa: .*\b(S301|S307|S102|S202|S506|S602)\b", line)
    ]
    assert all(re.search(r"noqa: \S+ - \w+", line) for _, line in lines)
    assert {path for path, _ in lines} <= {"mlaas_spark/spark/session.py"}


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_of_a_lock_file_has_one_version_and_its_digests(name: str) -> None:
    wanted = re.split(r"\n(?=\S)", (ROOT / name).read_text().strip())
    packages = [part for part in wanted if not part.startswith(("#", "--"))]
    assert packages
    for part in packages:
        assert re.match(
            r"[\w.\-\[\]]+==[\w.+!]+(?: ;[^\\]+)? \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\\n|$))+$", part
        ), part


def test_the_environment_is_installed_by_these_digests() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    installs = [line for line in lines if re.search(r"\$\(PIP\) install .*\.lock", line)]
    assert len(installs) >= 3
    assert all("--require-hashes" in line and "--no-deps" in line for line in installs)
