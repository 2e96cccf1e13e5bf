"""How time, memory, files and shuffle bytes grow with events, cores, branches and files: growth.json, docs/scaling.png.

Each point is a fresh process that first works on a thousand events. All data are generated, none are copies. Where
events grow a file has 25,000 of them, a range, so files and ranges grow alike; the other curves are of 100,000 events.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
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
_FILES = (2, 16, 128)
_BRANCHES = (("Flat0[0-7]",), ("Flat*",), ("Flat*", "Group[01]_*"), ())
_UI = {"spark.ui.enabled": "true", "spark.ui.port": "0"}  # Spark's REST interface is a part of it


@dataclass(frozen=True, slots=True)
class Point:
    """So many files of so many events each, the branches that the globs name (() is all), on so many cores."""

    curve: str
    files: int
    events_a_file: int
    cores: int = _CORES
    branches: tuple[str, ...] = ()

    @property
    def events(self) -> int:
        """Of all files."""
        return self.files * self.events_a_file


def points(sizes: Sequence[int]) -> list[Point]:
    """The points of all curves; chunks want two labels, so two files at least."""
    standard = min(_STANDARD, max(sizes))
    files = max(2, standard // _FILE_EVENTS)
    events = standard // files
    return [
        *(Point("events", max(2, size // _FILE_EVENTS), min(_FILE_EVENTS, size // 2)) for size in sizes),
        *(Point("cores", files, events, cores) for cores in range(1, _CORES + 1)),
        *(Point("branches", files, events, branches=globs) for globs in _BRANCHES),
        *(Point("files", number, standard // number) for number in _FILES),
    ]


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
    found = []
    for point in points(sizes):
        for row in measure(point, out):
            found.append(row)
            what = f"{row['curve']}: {row['files']} files, {row['events']:,} events, {row['columns']} branches, "
            figures = f"{row['seconds']:.2f} s, {row['khz']:.1f} kHz, {row['memory_mb']:.0f} MB, "
            driver = f"driver {row['driver_mb']:.0f} MB, {row['files_written']} files, "
            told(
                f"{what}{row['cores']} cores, {row['stage']}: {figures}{driver}{row['shuffle_bytes']:,} bytes shuffled"
            )
        (out / "growth.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    draw(found, _PICTURE)


def draw(rows: Sequence[dict[str, Any]], target: Path) -> None:
    """Time, memory, files and shuffle bytes against events; time against cores, branches and files."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    panels = figure.subplots(2, 3).flat
    growing = [row for row in rows if row["curve"] == "events"]
    _curves(next(panels), growing, "events", "seconds", "time in s")
    memory = next(panels)
    _curves(memory, growing, "events", "memory_mb", "peak memory in MB: all, and of the driver (dotted)")
    _curves(memory, growing, "events", "driver_mb", memory.get_ylabel(), ":")
    counts = next(panels)
    label = "files written, and bytes shuffled (dotted)"
    _curves(counts, [row for row in growing if row["stage"] != "specs"], "events", "files_written", label)
    _curves(counts, [row for row in growing if row["shuffle_bytes"]], "events", "shuffle_bytes", label, ":")
    for axis, name in (("cores", "cores"), ("columns", "branches"), ("files", "files")):
        panel, of_curve = next(panels), [row for row in rows if row["curve"] == name]
        _curves(panel, of_curve, axis, "seconds", "time in s")
        panel.set_xlabel(f"{name}, {of_curve[0]['events']:,} events")
    figure.savefig(target, dpi=80)


def _curves(panel: Any, rows: Sequence[dict[str, Any]], x: str, y: str, label: str, style: str = "-") -> None:
    """A line for each stage, both axes logarithmic."""
    for number, stage in enumerate(_STAGES):
        of_stage = [row for row in rows if row["stage"] == stage]
        if of_stage:
            line = {"color": f"C{number}", "linestyle": style, "marker": "o", "label": stage if style == "-" else None}
            panel.loglog([row[x] for row in of_stage], [row[y] for row in of_stage], **line)
    panel.set_xlabel(x)
    panel.set_ylabel(label)
    panel.grid(which="both", alpha=0.3)
    panel.legend()
