"""ROOT files on a real XRootD server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mlaas_spark.errors import UnreadableInputError
from mlaas_spark.spark import inspection
from mlaas_spark.spark.convert import convert
from tests.cluster import servers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlaas_spark.manifest import Manifest
    from mlaas_spark.spark.ingest import Events

pytestmark = pytest.mark.cluster


def test_specs_of_files_named_by_url_are_those_of_local_ones(
    specs_of: Callable[..., Any], xrootd: str, local: Path
) -> None:
    names = sorted(path.name for path in (local / "root").iterdir())
    expected = specs_of(*(str(local / "root" / name) for name in names))
    assert specs_of(*(f"{xrootd}/{name}" for name in names)) == expected


@pytest.mark.parametrize("pattern", ["", "/*.root"], ids=["folder", "glob"])
def test_folder_and_glob_are_expanded_on_the_server(opened: Callable[..., Events], xrootd: str, pattern: str) -> None:
    found = [file.path for file in opened(f"{xrootd}{pattern}").plan.files]
    assert found == [f"{xrootd}/background_0.root", f"{xrootd}/signal_0.root"]


def test_inspect_shows_there_what_it_shows_of_local_files(
    opened: Callable[..., Events], xrootd: str, local: Path
) -> None:
    there, here = opened(xrootd, events=500), opened(str(local / "root"), events=500)
    assert inspection.on_disk(there) == inspection.on_disk(here)
    assert inspection.read(there)[0] == inspection.read(here)[0]


def test_conversion_has_the_digest_of_one_from_local_files(
    opened: Callable[..., Events], xrootd: str, converted: Manifest, tmp_path: Path
) -> None:
    assert convert(opened(xrootd), str(tmp_path / "out")).content_digest == converted.content_digest


def test_file_that_the_server_has_not_is_named(opened: Callable[..., Events], xrootd: str) -> None:
    with pytest.raises(UnreadableInputError) as caught:
        opened(f"{xrootd}/signal_9.root")
    assert str(caught.value) == f"cannot read {xrootd}/signal_9.root: no such file"


def test_server_that_is_down_is_named(opened: Callable[..., Events]) -> None:
    url = f"root://localhost:{servers.free_port()}//store/x.root"
    with pytest.raises(UnreadableInputError, match=r"cannot read root://localhost:\d+//store/x.root: its server does"):
        opened(url)


def test_host_that_does_not_resolve_is_named(opened: Callable[..., Events]) -> None:
    with pytest.raises(UnreadableInputError, match=r"no-such-host.invalid.*its server does not answer"):
        opened("root://no-such-host.invalid//store/x.root")
