"""The soak, of ``make soak``: nothing grows while convert, train and predict go round. MLAAS_SOAK_MINUTES is 30."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.soak
def test_nothing_grows() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.soak"], cwd=REPOSITORY, check=False)
    told = json.loads((REPOSITORY / "build" / "soak" / "soak.json").read_text())
    assert (done.returncode, told["grown"]) == (0, []), told["verdicts"]
