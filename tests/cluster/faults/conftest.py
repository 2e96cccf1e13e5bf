"""What the tests of faults share: a server of short-lived processes, and the count of faults that fired."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.faults import tally

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.faults)


class Processes:
    """A small process that forks one for each order: what these do, and die of, is nothing to pytest."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def begin(self, *orders: dict[str, Any]) -> None:
        """Start all of the orders at once."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(orders) + "\n")
        self._server.stdin.flush()

    def ended(self) -> list[int]:
        """Their exit statuses, the negative number of a signal for one that died of it."""
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, "the server of processes has ended"
        statuses: list[int] = json.loads(line)
        return statuses

    def run(self, *orders: dict[str, Any]) -> list[int]:
        """Start the orders and wait for their ends."""
        self.begin(*orders)
        return self.ended()


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    """The server."""
    command = [sys.executable, "-m", "tests.cluster.faults.steps"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(  # noqa: S603 - our own interpreter and script
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
        start_new_session=True,
    ) as server:
        try:
            yield Processes(server)
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # those too that a failed test has left stopped


@pytest.fixture
def quick() -> Iterator[Path]:
    """A new folder, in memory where there is such a file system: a thousand commits wait for no disk."""
    with TemporaryDirectory(prefix="faults-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:  # noqa: S108
        yield Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _told(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print what fired when all is done."""
    yield
    text = tally.table()
    if text and (place := os.environ.get("MLAAS_FAULTS_TABLE")):
        Path(place).write_text(text)
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if text and reporter is not None:
        reporter.write_line("")
        reporter.write(text)
