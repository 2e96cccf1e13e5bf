"""A disk that is full where the run is written: a named error, nothing left behind, and with room the same command."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.end_to_end.conftest import Command

REPOSITORY = Path(__file__).parents[2]


def mounted(*arguments: str) -> None:
    subprocess.run(arguments, check=True, capture_output=True)  # noqa: S603 - mount and umount


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """``disk(size)``: a small file system of its own, or with another size the same one."""
    if os.geteuid():
        pytest.skip("only root can mount a file system")
    place = tmp_path / "disk"
    place.mkdir()

    def sized(size: str) -> Path:
        if place.is_mount():
            mounted("mount", "-o", f"remount,size={size}", str(place))
        else:
            mounted("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
        return place

    yield sized
    if place.is_mount():
        mounted("umount", str(place))


def arguments(sample: Path, runs: Path, **settings: object) -> list[str]:
    groups = [
        {"name": name, "files": [str(sample / f"{name}_*.root")], "label": label}
        for label, name in enumerate(("background", "signal"))
    ]
    values = {
        "input.groups": groups,
        "runs": str(runs),
        "chunks.folder": str(runs.parent.parent / "chunks"),
        "train.model": str(REPOSITORY / "conf" / "demo_model.py"),
        "train.epochs": 1,
        **settings,
    }
    given = [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    return ["train", "--config", str(REPOSITORY / "conf" / "demo.yaml"), *given]


def test_a_run_folder_on_a_full_disk_is_named_and_with_room_written(
    run: Command, disk: Callable[[str], Path], sample: Path
) -> None:
    checkpoints = {"train.checkpoint": {"steps": 1, "seconds": None}}
    for size, settings in (("40k", checkpoints), ("80k", {}), ("600k", {})):  # checkpoint, plots, export
        runs = disk(size) / "runs"
        outcome = run(*arguments(sample, runs, **settings))
        assert outcome.code in {2, 6}, outcome.err
        assert len(outcome.messages) == 1, outcome.err
        assert "No space left on device" in outcome.messages[0]
        assert str(runs) in outcome.messages[0]
        assert "Traceback" not in outcome.err
        assert "Logging error" not in outcome.err
        assert not list(runs.rglob(".unfinished*"))
        assert not list(runs.glob("demo/20*"))
        # a checkpoint that was written whole is there to go on from
        assert all(list(folder.glob("step-*")) for folder in runs.glob("demo/checkpoints/*"))
    runs = disk("64m") / "runs"
    outcome = run(*arguments(sample, runs))
    assert outcome.code == 0, outcome.err
    (folder,) = (runs / "demo").glob("20*")
    assert run("verify", str(folder)).code == 0
