"""Many files: their headers are opened on executors, and what the driver keeps of a file does not grow with it."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import uproot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlaas_spark.spark.ingest import Events

FILES = 2_000


def test_two_thousand_files_are_planned(opened: Callable[..., Events], tmp_path: Path) -> None:
    first = tmp_path / "first.root"
    with uproot.recreate(first) as file:
        file.mktree("Events", {"x": "f8"})
        file["Events"].extend({"x": np.arange(10.0)})
        own = file.file.uuid.bytes
    content = first.read_bytes()
    first.unlink()
    for number in range(FILES):
        (tmp_path / f"{number:04}.root").write_bytes(content.replace(own, uuid.UUID(int=number).bytes))
    plan = opened([str(tmp_path)], 25_000).plan
    assert [file.uuid for file in plan.files] == [f"{number:032x}" for number in range(FILES)]
    assert [(r.file, r.start, r.stop) for r in plan.ranges] == [(number, 0, 10) for number in range(FILES)]


def test_what_is_kept_of_a_file_does_not_grow_with_its_clusters(opened: Callable[..., Events], tmp_path: Path) -> None:
    sizes = []
    for clusters in (10, 1_000):
        path = tmp_path / f"{clusters:04}.root"
        with uproot.recreate(path) as file:
            file.mktree("Events", {"x": "f8"})
            for _ in range(clusters):
                file["Events"].extend({"x": np.arange(10_000 / clusters)})
        plan = opened([str(path)], 10_000).plan
        assert [(r.start, r.stop) for r in plan.ranges] == [(0, 10_000)]
        assert plan.files[0].clusters == clusters
        sizes.append(len(json.dumps(asdict(plan.files[0]))))
    assert sizes[1] < sizes[0] + 20
