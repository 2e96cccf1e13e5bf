"""Damaged files on the command line: named, skipped within the limit, told of, mended and read again."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import uproot

from mlaas_spark import manifest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import Command

SKIP = ("--set", "input.bad_files=skip", "--set", "input.skip_limit=0.9")


@pytest.fixture
def damaged(sample: Path, tmp_path: Path) -> tuple[Path, bytes]:
    """Copies of two files, a basket of the first one zeroed and the second one cut; the first one as it was."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("background_0", "signal_0", "signal_1"):
        shutil.copy(sample / f"{name}.root", folder)
    path = folder / "background_0.root"
    whole = path.read_bytes()
    with uproot.open(path) as file:
        start = int(np.asarray(file["Events"]["MET_pt"].member("fBasketSeek"))[0])
    path.write_bytes(whole[:start] + bytes(200) + whole[start + 200 :])
    cut = folder / "signal_1.root"
    cut.write_bytes(cut.read_bytes()[:300])
    return folder, whole


@pytest.mark.parametrize("verb", ["convert", "specs"])
def test_what_is_damaged_is_skipped_told_of_and_read_when_it_is_mended(
    run: Command, sample: Path, damaged: tuple[Path, bytes], tmp_path: Path, verb: str
) -> None:
    folder, whole = damaged
    out = tmp_path / ("out" if verb == "convert" else "specs.json")
    command = (verb, str(folder), "--out", str(out), "--set", "spark.events_per_task=100")

    refused = run(*command)
    assert (refused.code, len(refused.messages)) == (3, 1)
    assert not out.exists()

    beyond = run(*command, "--set", "input.bad_files=skip")
    assert (beyond.code, len(beyond.messages)) == (3, 1)
    assert "of the entries would be skipped, and at most 1.00% may be" in beyond.err
    assert not out.exists()

    first = run(*command, *SKIP)
    assert first.code == 0, first.err
    # all ranges of the damaged basket as one
    assert "skipped: 600 entries in 1 range of 1 file and 1 file that could not be opened" in first.err
    assert "entries [0, 600): it is damaged or cut short" in first.err
    told = json.loads((out / "skipped.json").read_text()) if verb == "convert" else json.loads(out.read_text())
    skipped = told["files"] if verb == "convert" else told["mlaas_spark"]["skipped"]
    assert {item["path"] for item in skipped} == {str(folder / n) for n in ("background_0.root", "signal_1.root")}

    (folder / "background_0.root").write_bytes(whole)
    shutil.copy(sample / "signal_1.root", folder)
    if verb == "convert":  # specs know nothing of a file of which all is damaged, and read it again
        untried = run(*command, *SKIP)
        assert untried.code == 0
        assert "skipped: 600 entries in 1 range" in untried.err

    again = run(*command, *SKIP, "--retry-skipped")
    assert again.code == 0, again.err
    assert "skipped:" not in again.err
    if verb == "convert":
        assert manifest.read(str(out)).ledger["events"] == 1_800
        assert json.loads((out / "skipped.json").read_text()) == {"files": []}
    else:
        made = json.loads(out.read_text())
        assert made["events"]["total"] == 1_800
        assert "skipped" not in made["mlaas_spark"]
