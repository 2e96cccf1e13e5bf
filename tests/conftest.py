"""What all tests share: the real data, and hypothesis without clock or chance."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# the same examples in every run, however slow the machine is
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=40)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real ROOT files; without it the test is skipped."""
    places = [os.environ.get("MLAAS_TEST_DATA"), Path(__file__).parents[2] / "shared" / "data"]
    for place in places:
        if place and Path(place).is_dir():
            return Path(place)
    pytest.skip("no real data: set MLAAS_TEST_DATA to the folder of uproot-HZZ.root")
