"""The tests of torch, in a process that has Debian's torch where there is no other."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import servers

pytestmark = pytest.mark.cluster

REPOSITORY = Path(__file__).parents[2]
TESTS = (
    "tests/ml/test_torch_learner.py",
    "tests/ml/test_parallel_torch.py",
    "tests/ml/test_models_doc.py::test_a_model_file_of_the_documents_is_trained[torch]",
)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed: its tests run as others")
def test_the_tests_of_torch_pass_with_debians() -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    ran = subprocess.run(  # noqa: S603 - our own interpreter and tests
        words,
        cwd=REPOSITORY,
        env={**os.environ, **servers.debian_torch()},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed is not None
    assert int(passed[1]) > 60
    assert "skipped" not in ran.stdout.splitlines()[-1]
