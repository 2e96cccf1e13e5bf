"""What all tests share: the real data, the one Spark session, and hypothesis without clock or chance."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

# the same examples in every run, however slow the machine is
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=40)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    # pyspark leaves the socket of each result it has read to the garbage collector, whatever test that is in
    # (pyspark.serializers, pyspark.util._create_local_socket); for all tests, and for sockets to this machine alone
    config.addinivalue_line(
        "filterwarnings", r"ignore:unclosed <socket\.socket .*raddr=\('127\.0\.0\.1':ResourceWarning"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" not in config.getoption("-m"):  # another -m takes the place of that of pyproject.toml
        soaking = [item for item in items if item.get_closest_marker("soak")]
        items[:] = [item for item in items if not item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=soaking)


class FolderScheduling(LoadScopeScheduling):  # type: ignore[misc] # it has no type information
    """With ``-n`` the tests of a folder share a process, where they share a Spark session and servers.

    The names of groups that pytest-xdist 3.8 gives to tests (``--dist loadgroup``) are not seen by pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0].rpartition("/")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FolderScheduling:
    return FolderScheduling(config, log)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real ROOT files; without it the test is skipped."""
    places = [os.environ.get("MLAAS_TEST_DATA"), Path(__file__).parents[2] / "shared" / "data"]
    for place in places:
        if place and Path(place).is_dir():
            return Path(place)
    pytest.skip("no real data: set MLAAS_TEST_DATA to the folder of uproot-HZZ.root")


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """The one session of all Spark tests; commands find it as the active one."""
    from mlaas_spark.config import SparkConfig  # unit tests go without Spark
    from mlaas_spark.spark.session import session

    conf = {
        "spark.sql.shuffle.partitions": "3",
        # jobs of a second: what the JVM's second compiler and its threads cost does not pay
        "spark.driver.defaultJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    }
    started = session(SparkConfig(master="local[2]", conf=conf), "tests")
    yield started
    started.stop()
