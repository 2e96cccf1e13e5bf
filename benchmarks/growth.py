"""How time, memory, files and shuffle bytes grow with events, cores, branches and files: growth.json, docs/scaling.png.

Each point is a fresh process that first works on a thousand events. All data are generated, none are copies. Where
events grow a file has 25,000 of them, a range, so files and ranges grow alike; the other curves are of 100,000 events.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import workload
from benchmarks.measure import PeakMemory
from benchmarks.serve import Served

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZES = "50000,100000,200000,400000,800000,1600000,3200000"
_STAGES = ("convert", "specs", "chunks")
_PICTURE = Path("docs/scaling.png")
_FILE_EVENTS = 25_000
_CORES = len(os.sched_getaffinity(0))
_STANDARD = 100_000
_FILES = (16, 128)
_BRANCHES = (("Flat0[0-7]",), ("Flat*",), ("Flat*", "Group[01]_*"))
_UI = {"spark.ui.enabled": "true", "spark.ui.port": "0"}  # Spark's REST interface is a part of it


@dataclass(frozen=True, slots=True)
class Point:
    """So many files of so many events each, the branches that the globs name (() is all), on so many cores."""

    files: int
    events_a_file: int
    cores: int = _CORES
    branches: tuple[str, ...] = ()

    @property
    def events(self) -> int:
        """Of all files."""
        return self.files * self.events_a_file


def curves(sizes: Sequence[int]) -> dict[str, list[Point]]:
    """The points of each curve, which they may share; chunks want two labels, so two files at least."""
    standard = min(_STANDARD, max(sizes))
    files = max(2, standard // _FILE_EVENTS)
    middle = Point(files, standard // files)
    return {
        "events": [Point(max(2, size // _FILE_EVENTS), min(_FILE_EVENTS, size // 2)) for size in sizes],
        "cores": [replace(middle, cores=cores) for cores in range(1, _CORES + 1)],
        "branches": [*(replace(middle, branches=globs) for globs in _BRANCHES), middle],
        "files": [middle, *(Point(number, standard // number) for number in _FILES)],
    }


def measure(point: Point, out: Path) -> list[dict[str, Any]]:
    """Each stage of a point: seconds, peak memory of all and of the driver, files written, bytes shuffled."""
    files = workload.generate(out, point.files, point.events_a_file)
    work = out / "growth"
    work.mkdir(exist_ok=True)
    options = ["--cores", str(point.cores), "--work", str(work), "--conf", json.dumps(_UI)]
    found = []
    with Served([sys.executable, "-m", "benchmarks.ours", *options], out / "growth.log") as process:
        process.ask("warm", files=files)
        for stage in _STAGES:
            before = process.ask("shuffled")
            with PeakMemory(process.pid) as memory:
                seconds = process.ask(stage, files=files, branches=point.branches)
            written = {"convert": "converted", "chunks": "chunks"}.get(stage)
            found.append(
                {
                    **asdict(point),
                    "events": point.events,
                    "columns": process.ask("columns", files=files, branches=point.branches),
                    "stage": stage,
                    "seconds": seconds,
                    "khz": point.events / seconds / 1e3,
                    "memory_mb": memory.total / 1e6,
                    "driver_mb": memory.driver / 1e6,
                    "files_written": len(list((work / written).rglob("*.parquet"))) if written else 1,
                    "shuffle_bytes": process.ask("shuffled") - before,
                }
            )
    shutil.rmtree(work)
    return found


def main(out: Path, sizes: Sequence[int], told: Callable[[str], None]) -> None:
    """Measure all points, write growth.json, draw the picture."""
    planned = curves(sizes)
    found: dict[Point, list[dict[str, Any]]] = {}
    for point in itertools.chain(*planned.values()):
        if point not in found:
            found[point] = measure(point, out)
            for row in found[point]:
                told(_told(row))
    rows = {name: [row for point in points for row in found[point]] for name, points in planned.items()}
    (out / "growth.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    draw(rows, _PICTURE)


def _told(row: dict[str, Any]) -> str:
    what = f"{row['events']:,} events in {row['files']} files, {row['columns']} branches, {row['cores']} cores"
    figures = (
        f"{row['seconds']:.2f} s, {row['khz']:.1f} kHz, {row['memory_mb']:.0f} MB, driver {row['driver_mb']:.0f} MB"
    )
    return f"{what}: {row['stage']} {figures}, {row['files_written']} files, {row['shuffle_bytes']:,} bytes shuffled"


def draw(rows: dict[str, list[dict[str, Any]]], target: Path) -> None:
    """Time, memory, files and shuffle bytes against events; time against cores, branches and files."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    time, memory, counts, *others = figure.subplots(2, 3).flat
    growing = rows["events"]
    _curves(time, growing, "events", "seconds", "time in s")
    _curves(memory, growing, "events", "memory_mb", "peak memory in MB (dotted: driver)")
    _curves(memory, growing, "events", "driver_mb", memory.get_ylabel(), ":")
    memory.set_yscale("linear")
    memory.set_ylim(0)
    label = "files written (dotted: bytes shuffled)"
    _curves(counts, [row for row in growing if row["stage"] != "specs"], "events", "files_written", label)
    _curves(counts, [row for row in growing if row["shuffle_bytes"]], "events", "shuffle_bytes", label, ":")
    for panel, (curve, axis) in zip(
        others, (("cores", "cores"), ("branches", "columns"), ("files", "files")), strict=True
    ):
        _curves(panel, rows[curve], axis, "seconds", "time in s")
        panel.set_xlabel(f"{curve}, {rows[curve][0]['events']:,} events")
    figure.savefig(target, dpi=80)


def _curves(panel: Any, rows: Sequence[dict[str, Any]], x: str, y: str, label: str, style: str = "-") -> None:
    """A line for each stage that has rows, both axes logarithmic."""
    from matplotlib.ticker import EngFormatter

    if not rows:
        return
    for number, stage in enumerate(_STAGES):
        of_stage = [row for row in rows if row["stage"] == stage]
        if of_stage:
            line = {"color": f"C{number}", "linestyle": style, "marker": "o", "label": stage if style == "-" else None}
            panel.loglog([row[x] for row in of_stage], [row[y] for row in of_stage], **line)
    panel.set_xticks(sorted({row[x] for row in rows}))
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.set_xticks([], minor=True)
    panel.set_xlabel(x)
    panel.set_ylabel(label)
    panel.grid(alpha=0.3)
    panel.legend()
