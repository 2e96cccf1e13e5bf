"""``python -m benchmarks.explain [--only wide,flat,narrow] [--repeats N]``: what plan --explain says, and what comes.

For three workloads of unlike shape: plan --explain in a process of its own, then the verbs in theirs; predicted and
actual times, bytes and memory side by side. ``ratio`` is predicted / actual; ``ok`` is within a factor of 2. The least
of each time over the repeats counts, on both sides: what else a machine does only ever adds to it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import uproot
from rich.console import Console
from rich.table import Table

from benchmarks import workload
from mlaas_spark.branch_specs import SpecsFile
from mlaas_spark.config import FeatureConfig
from mlaas_spark.manifest import read
from mlaas_spark.ml.stream import ChunkStream
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from collections.abc import Iterator

OUT = Path("benchmarks/out")
CORES = 2
BATCH = 256
_console = Console(width=120, highlight=False)
_LOOK_S = 0.2  # how often memory of the processes is looked at
_COMMAND = [sys.executable, "-c", "import sys; from mlaas_spark.cli import main; sys.exit(main(sys.argv[1:]))"]


@dataclass(frozen=True)
class Comparison:
    """A figure of plan --explain beside what came."""

    workload: str
    what: str
    predicted: float
    actual: float
    unit: str

    @property
    def ratio(self) -> float:
        """Predicted / actual."""
        return self.predicted / self.actual

    @property
    def ok(self) -> bool:
        """Whether they are within a factor of 2."""
        return 0.5 <= self.ratio <= 2.0


def wide() -> tuple[list[Path], list[str]]:
    """The benchmark's own: 4 files of 10,000 events, 32 flat and 40 jagged branches."""
    return [Path(path) for path in workload.generate(OUT, 4, 10_000)], ["--exclude", "n*"]


def flat() -> tuple[list[Path], list[str]]:
    """60 flat branches in 120 small files of 1,500 events."""
    return _flat(OUT / "data-flat", files=120, events=1_500, branches=60, cluster=1_500), []


def narrow() -> tuple[list[Path], list[str]]:
    """4 flat branches, 2 files of a million events in clusters of 50,000."""
    return _flat(OUT / "data-narrow", files=2, events=1_000_000, branches=4, cluster=50_000), []


WORKLOADS = {"wide": wide, "flat": flat, "narrow": narrow}


def _flat(folder: Path, files: int, events: int, branches: int, cluster: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:03d}.root" for index in range(files)]
    for index, path in enumerate(paths):
        if not path.exists():
            random, unfinished = np.random.default_rng([11, index]), path.with_suffix(".tmp.root")
            with uproot.recreate(unfinished, compression=uproot.ZLIB(1)) as file:
                tree: Any = file.mktree("Events", {f"Flat{i:02d}": np.float32 for i in range(branches)})
                for start in range(0, events, cluster):
                    n = min(cluster, events - start)
                    tree.extend({f"Flat{i:02d}": random.normal(size=n).astype(np.float32) for i in range(branches)})
            unfinished.rename(path)
    return paths


@dataclass(frozen=True)
class Ran:
    """A command that ended: its output, seconds by stage, seconds in all, and peak bytes of JVM and Python workers."""

    out: str
    stages: dict[str, float]
    seconds: float
    jvm: int
    workers: tuple[int, ...]


def run(*arguments: str) -> Ran:
    """A command line of mlaas-spark in a process of its own."""
    began = time.perf_counter()
    process = subprocess.Popen([*_COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own
    with _watched(process.pid) as peaks:
        out, err = process.communicate()
    if process.returncode:
        raise SystemExit(err)
    stages = {}
    for line in err.splitlines():
        name, done, rest = line.partition(" done in ")
        if done:
            stages[name] = float(rest.split()[0])
    of = {kind: [peak for name, peak in peaks.values() if name == kind] for kind in ("jvm", "worker")}
    return Ran(out, stages, time.perf_counter() - began, max(of["jvm"]), tuple(sorted(of["worker"], reverse=True)))


@contextmanager
def _watched(root: int) -> Iterator[dict[int, tuple[str, int]]]:
    """Peak bytes of the JVM and the Python workers below a process, by pid, while it runs."""
    peaks: dict[int, tuple[str, int]] = {}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_S):
            for pid in _below(root):
                try:
                    command = Path(f"/proc/{pid}/cmdline").read_bytes()
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue  # it has ended
                kind = "jvm" if b"SparkSubmit" in command else "worker" if b"spark.daemon" in command else ""
                if kind and "VmHWM" in status:
                    peak = int(status.partition("VmHWM:")[2].split()[0]) << 10
                    peaks[pid] = (kind, max(peak, peaks.get(pid, ("", 0))[1]))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def _below(root: int) -> list[int]:
    """All descendants of a process."""
    parents: dict[int, list[int]] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                stat = (place / "stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(place.name))
    found, waiting = [], [root]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def compare(name: str, repeats: int) -> list[Comparison]:
    """Explain a workload and run the verbs on it, in turn."""
    paths, options = WORKLOADS[name]()
    work = OUT / "explain"
    half = len(paths) // 2
    groups = [{"files": [str(p) for p in some], "label": i} for i, some in enumerate((paths[:half], paths[half:]))]
    common = ["--set", f"spark.master=local[{CORES}]", "--set", f"input.groups={json.dumps(groups)}"]
    common += ["--set", f"train.batch_size={BATCH}", *options]
    said: list[dict[str, float]] = []
    seen: list[dict[str, float]] = []
    for _ in range(repeats):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        explained = run("plan", *common, "--explain", "--out", str(work), "--json")
        figures = {key: figure["value"] for key, figure in json.loads(explained.out)["figures"].items()}
        said.append({**figures, "probe": explained.seconds})
        seen.append(_actual(work, common))
    _console.print(f"{name}: plan --explain took {min(s['probe'] for s in said):.1f} s in all")
    return [
        Comparison(
            name,
            what,
            min(s[what] for s in said),
            min(s[what] for s in seen),
            "s" if what.endswith("seconds") else "B",
        )
        for what in seen[0]
    ]


def _actual(work: Path, common: list[str]) -> dict[str, float]:
    """What the verbs took, by the names of the figures that foretell it."""
    converted = run("convert", *common, "--out", str(work / "parquet"))
    tallied = run("specs", *common, "--out", str(work / "specs.json"))
    compact = run("chunks", *common, "--out", str(work / "compact"))
    run("chunks", *common, "--out", str(work / "dense"), "--set", "chunks.layout=dense")
    sizes = {what: sum(f.bytes for f in read(str(work / what)).files) for what in ("parquet", "compact", "dense")}
    made = SpecsFile.loads((work / "specs.json").read_bytes())
    transform = FeatureTransform.of(made.specs, FeatureConfig())
    stream = ChunkStream.open(str((work / "compact").absolute()), transform, BATCH)
    began = time.perf_counter()
    for split in ("train", "validation"):
        for _ in stream.batches(split, seed=1):
            pass
    streamed = time.perf_counter() - began
    return {
        "convert.bytes": sizes["parquet"],
        "compact.bytes": sizes["compact"],
        "dense.bytes": sizes["dense"],
        "convert.task.memory": max(*converted.workers, *tallied.workers),
        "chunks.task.memory": max(compact.workers),
        "executor.memory": max(ran.jvm + sum(ran.workers[:CORES]) for ran in (converted, tallied, compact)),
        "start.seconds": converted.stages["start Spark"],
        "open.seconds": converted.stages["open files"],
        "convert.seconds": converted.stages["convert"],
        "specs.seconds": tallied.stages["specs"],
        "chunks.seconds": compact.stages["chunks"],
        "stream.seconds": streamed,
        "job.convert.seconds": converted.seconds,
        "job.specs.seconds": tallied.seconds,
        "job.chunks.seconds": compact.seconds,
    }


def main() -> None:
    """Compare, show, write benchmarks/out/explain.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(WORKLOADS), help="workloads, comma separated")
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    table = Table("workload", "what", "predicted", "actual", "ratio", "ok", box=None)
    rows = [row for name in given.only.split(",") for row in compare(name, given.repeats)]
    for row in rows:
        scale, unit = (1.0, "s") if row.unit == "s" else (1e6, "MB")
        told = (f"{value / scale:,.2f} {unit}" for value in (row.predicted, row.actual))
        table.add_row(row.workload, row.what, *told, f"{row.ratio:.2f}", "yes" if row.ok else "NO")
    _console.print(table)
    _console.print(f"{sum(row.ok for row in rows)} of {len(rows)} within a factor of 2; load {os.getloadavg()[0]:.1f}")
    results = [{**asdict(row), "ratio": row.ratio, "ok": row.ok} for row in rows]
    (OUT / "explain.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
