"""``python -m benchmarks.soak``: convert, train, predict in a loop, in one process; does anything grow?

Each turn is measured when it is over: memory, open files and threads of the driver, the JVM and Python's workers, and
the temporary space that is in use. After a warm-up each series gets a Theil-Sen slope, which outliers do not move; what
has grown by more than its tolerance over the rest, with 95 % confidence, fails. Every turn must make the same events,
chunks and scores. Writes build/soak/soak.json and soak.png.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from scipy.stats import theilslopes

from mlaas_spark import config as configs
from mlaas_spark import demo, pipeline
from mlaas_spark.runs import Journal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlaas_spark.config import Config

REPOSITORY = Path(__file__).parents[1]
OUT = REPOSITORY / "build" / "soak"
MINUTES, EVENTS, FEWEST = 30.0, 4_000, 8
_WARM = 0.4  # share of the turns: TensorFlow, the JVM's compiler and the pools of allocators settle in it

Turn = dict[str, float]


@dataclass(frozen=True)
class Tolerance:
    """By how much a series may grow after the warm-up: so much, or such a share of what it is, and so much a turn."""

    much: float
    share: float = 0.0
    a_turn: float = 0.0


TOLERANCES: Mapping[str, Tolerance] = {
    # of each training TensorFlow keeps the graphs for as long as the process lives, with Keras alone
    # too: https://github.com/tensorflow/tensorflow/issues/62854
    "driver MB": Tolerance(30, 0.05, a_turn=8),
    "JVM MB": Tolerance(50, 0.10),
    "JVM heap MB": Tolerance(10, 0.05),
    "workers MB": Tolerance(30, 0.10),
    "driver files": Tolerance(3),
    "JVM files": Tolerance(8),
    "workers files": Tolerance(3),
    "driver threads": Tolerance(3),
    "JVM threads": Tolerance(8),
    "workers": Tolerance(1),
    "temporary MB": Tolerance(1),
}


@dataclass(frozen=True)
class Verdict:
    """What became of a series after the warm-up.

    Attributes:
        slope: Of a turn.
        growth: Over all turns after the warm-up.
        allowed: How much it may be.
        grows: Whether it is more, with confidence.
    """

    slope: float
    growth: float
    allowed: float
    grows: bool


def verdict(values: Sequence[float], tolerance: Tolerance) -> Verdict:
    """Judge a series of one value a turn."""
    kept = np.asarray(values[int(_WARM * len(values)) :], float)
    slope, _, low, _ = theilslopes(kept, np.arange(len(kept)))
    steps = len(kept) - 1
    growth = slope * steps
    allowed = max(tolerance.much, tolerance.share * float(np.median(kept))) + steps * tolerance.a_turn
    return Verdict(float(slope), float(growth), allowed, bool(growth > allowed and low > 0))


def main() -> int:
    """Parse, go round, judge, draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("MLAAS_SOAK_MINUTES", MINUTES)))
    parser.add_argument("--events", type=int, default=EVENTS, help="events in all files")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)  # else TensorFlow does it, and has all said that is no warning
    console = Console(width=150, highlight=False, soft_wrap=True)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    turns: list[Turn] = []
    with tempfile.TemporaryDirectory(prefix="mlaas_soak_") as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
        end = time.monotonic() + 60 * given.minutes
        for turn in loop(folder, given.events):
            turns.append(turn)
            console.print(f"turn {len(turns)}: " + ", ".join(f"{name} {value:.4g}" for name, value in turn.items()))
            if time.monotonic() > end and len(turns) >= FEWEST:
                break
    judged = {name: verdict([turn[name] for turn in turns], allowed) for name, allowed in TOLERANCES.items()}
    grown = [name for name, found in judged.items() if found.grows]
    content = {"turns": turns, "verdicts": {name: vars(found) for name, found in judged.items()}, "grown": grown}
    (OUT / "soak.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    draw(turns, judged, OUT / "soak.png")
    for name, found in judged.items():
        told = "GROWS" if found.grows else "flat"
        console.print(f"{told:5}  {name:15} {found.growth:+8.2f} in all, {found.allowed:.1f} allowed")
    console.print(f"{len(turns)} turns; {OUT / 'soak.json'}, {OUT / 'soak.png'}")
    return int(bool(grown))


def loop(folder: Path, events: int) -> Iterator[Turn]:
    """Turn after turn; what each has left open and in memory.

    Raises:
        RuntimeError: A turn has not made what the first one has.
    """
    demo.generate(folder / "data", events, files=4, seed=1)
    config = _config(folder)
    first: dict[str, str] = {}
    began = time.monotonic()
    while True:
        start = time.monotonic()
        digests = one_turn(config, folder)
        first = first or digests
        if digests != first:
            msg = f"this turn has made {digests}, the first one {first}"
            raise RuntimeError(msg)
        for name in ("converted", "scores", "runs"):
            shutil.rmtree(folder / name)
        yield {"seconds": time.monotonic() - start, "minutes": (time.monotonic() - began) / 60, **measured(folder)}


def _config(folder: Path) -> Config:
    groups = [
        {"name": name, "files": [str(folder / "data" / f"{name}_*.root")], "label": label}
        for label, name in enumerate(("background", "signal"))
    ]
    return configs.resolve(
        {
            "name": "soak",
            "input": {"groups": groups},
            "runs": str(folder / "runs"),
            "train": {"model": str(REPOSITORY / "conf" / "demo_model.py"), "epochs": 1, "batch_size": 256},
            # once of each is enough: it is turns that show what grows
            "evaluate": {"bootstrap": 10, "importance_events": 200, "importance_repeats": 1},
            "spark": {
                "master": "local[2]",
                "events_per_task": 500,
                # a heap that is soon full, so that what grows in it shows; and collected as it would be in a job
                "conf": {"spark.driver.memory": "768m", "spark.local.dir": str(folder / "tmp")},
            },
        }
    )


def one_turn(config: Config, folder: Path) -> dict[str, str]:
    """Convert, train, predict; digests of what was made."""
    journal = Journal()
    converted = pipeline.convert(config, str(folder / "converted"), journal)
    trained = pipeline.train(config, journal)
    scored = pipeline.predict(config, trained.folder, str(folder / "scores"), journal)
    told = json.loads((Path(trained.folder) / "run.json").read_text(encoding="utf-8"))
    digests = {"converted": converted.content_digest, "chunks": told["digests"]["content"]}
    return {**digests, "scored": str(scored.ledger["rows"])}


# --- what is in use


def measured(folder: Path) -> Turn:
    """Memory, files, threads and temporary space, now."""
    from pyspark.sql import SparkSession

    spark = SparkSession.getActiveSession()
    if spark is None:
        msg = "there is no session: nothing was done"
        raise RuntimeError(msg)
    gc.collect()
    jvm: Any = spark._jvm  # noqa: SLF001 - pyspark has no name for it
    jvm.System.gc()
    runtime = jvm.Runtime.getRuntime()
    heap = (runtime.totalMemory() - runtime.freeMemory()) / 1e6
    here, children = os.getpid(), list(below(os.getpid()))
    java = [pid for pid in children if _name(pid) == "java"]
    workers = [pid for pid in children if _name(pid) != "java"]
    return {
        "driver MB": _memory(here),
        "JVM MB": sum(map(_memory, java)),
        "JVM heap MB": heap,
        "workers MB": sum(map(_memory, workers)),
        "driver files": _count(here, "fd"),
        "JVM files": sum(_count(pid, "fd") for pid in java),
        "workers files": max((_count(pid, "fd") for pid in workers), default=0),
        "driver threads": _count(here, "task"),
        "JVM threads": sum(_count(pid, "task") for pid in java),
        "workers": len(workers),
        "temporary MB": sum(path.lstat().st_size for path in (folder / "tmp").rglob("*") if path.is_file()) / 1e6,
    }


def below(process: int) -> Iterator[int]:
    """All that a process has started, and what these have."""
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # it ends while we look
            continue
        for child in children:
            yield int(child)
            yield from below(int(child))


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _memory(pid: int) -> float:
    """MB that a process has of its own, with its part of what it shares (Pss)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3


def _count(pid: int, what: str) -> int:
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/{what}").iterdir())
    except OSError:
        return 0


def draw(turns: Sequence[Turn], judged: Mapping[str, Verdict], path: Path) -> None:
    """The series in panels of two columns, the warm-up in grey, the line of the slope over the rest."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = -(-len(judged) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(10, 1.6 * rows), sharex=True, layout="constrained")
    minutes = [turn["minutes"] for turn in turns]
    first = min(int(_WARM * len(turns)), len(turns) - 1)
    for (name, found), axis in zip(judged.items(), axes.flat, strict=False):
        values = np.array([turn[name] for turn in turns])
        colour = "tab:red" if found.grows else "tab:blue"
        middle = float(np.median(values[first:])) - found.growth / 2
        axis.axvspan(0, minutes[first], color="0.92")
        axis.plot(minutes, values, color=colour, marker=".", markersize=4, linewidth=1)
        axis.plot([minutes[first], minutes[-1]], [middle, middle + found.growth], color="black", linewidth=1)
        axis.set_ylim(0, 1.2 * max(1.0, values.max()))
        axis.set_xlim(0, minutes[-1])
        told = f"{name}: {found.growth:+.1f} after the warm-up, {found.allowed:.0f} allowed"
        axis.set_title(told, fontsize=9, loc="left", color=colour if found.grows else "black")
        axis.tick_params(labelsize=8)
    for axis in axes.flat[len(judged) :]:
        axis.remove()
    for axis in axes[-1, : len(judged) - 2 * (rows - 1)]:
        axis.set_xlabel("minutes", fontsize=9)
    figure.suptitle(f"convert, train, predict: {len(turns)} turns in one process", fontsize=11)
    figure.savefig(path, dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
