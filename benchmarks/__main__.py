"""``python -m benchmarks [--events N] [--quick] [--only a,b]``: measure, show, write benchmarks/out/results.json.

Each row runs ours and the peer in turn, at least three times, and takes medians. ``ratio`` is ours against the peer,
higher is better: a rate over a rate. Nothing here is a fixed figure.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks import workload
from mlaas_spark import config as configs
from mlaas_spark import root_io
from mlaas_spark.fileset import fileset
from mlaas_spark.manifest import read
from mlaas_spark.ml.stream import Batch, ChunkStream
from mlaas_spark.spark import chunks, convert, specs
from mlaas_spark.spark.ingest import open_events
from mlaas_spark.spark.session import session
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

OUT = Path("benchmarks/out")
CORES = 2
BATCH = 1024
_CALLS = 20  # of a work of milliseconds


@dataclass(frozen=True)
class Row:
    """A measurement beside its peer; ``ours`` and ``peer`` in ``unit``, ``ratio`` = ours / peer."""

    name: str
    ours: float
    peer: float
    peer_name: str
    unit: str
    goal: float

    @property
    def ratio(self) -> float:
        """Ours against the peer, higher is better."""
        return self.ours / self.peer

    def to_json(self) -> dict[str, Any]:
        """As results.json has it."""
        return {**asdict(self), "ratio": self.ratio, "ok": self.ratio >= self.goal}


class Bench:
    """The workload, a warm Spark session, and a row for each stage."""

    def __init__(self, events: int, repeats: int) -> None:
        self.events, self.repeats = events, repeats
        self.paths = [str(path) for path in workload.generate(OUT / f"data-{events}", events)]
        groups = [{"files": self.paths[:2], "label": 1}, {"files": self.paths[2:], "label": 0}]
        self.config = configs.resolve(
            {
                "input": {"groups": groups, "tree": workload.TREE, "exclude": ["n*"]},
                "train": {"batch_size": BATCH},
                "spark": {"master": f"local[{CORES}]"},
            }
        )
        self.spark = session(self.config.spark, "benchmark")
        self.folder = OUT / "work"

    def khz(self, seconds: float) -> float:
        """Rate of the whole workload."""
        return self.events / seconds / 1e3

    def row(
        self, name: str, ours: Callable[[], float], peer: Callable[[], float], peer_name: str, goal: float = 1.0
    ) -> Row:
        """Run both in turn; each gives the rate it reached, in kHz."""
        pairs = [(ours(), peer()) for _ in range(self.repeats)]
        return Row(name, median(a for a, _ in pairs), median(b for _, b in pairs), peer_name, "kHz", goal)

    def timed(self, work: Callable[[], Any]) -> float:
        """Rate in kHz of work over all events."""
        began = time.perf_counter()
        work()
        return self.khz(time.perf_counter() - began)

    def peer(self, name: str) -> float:
        """Rate in kHz of a peer, in a process of its own."""
        command = [sys.executable, "-m", "benchmarks.peers", name, *self.paths]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own
        return self.khz(json.loads(printed))

    # --- ours

    def open(self) -> Any:
        """The events of the workload."""
        return open_events(self.spark, fileset(self.config.input), self.config.input, 25_000)

    def specs(self) -> tuple[Any, FeatureTransform]:
        """Specs over Spark, and what follows from them."""
        events = self.open()
        made, counted = specs.compute(events, events.plan.schema.names)
        return counted, FeatureTransform.of(made.specs, self.config.features)

    def convert(self) -> None:
        """Conversion to Parquet over Spark."""
        shutil.rmtree(self.folder / "converted", ignore_errors=True)
        convert.convert(self.open(), str(self.folder.absolute() / "converted"))

    def chunks(self, events: Any, transform: FeatureTransform) -> ChunkStream:
        """Chunks over Spark, and the stream of them."""
        folder = str(self.folder.absolute() / "chunks")
        shutil.rmtree(folder, ignore_errors=True)
        request = chunks.ChunkRequest(self.config.chunks, transform, (), None, BATCH, "")
        chunks.build(events, request, folder)
        return ChunkStream.open(folder, transform, BATCH, CORES)

    def whole_way(self) -> None:
        """ROOT to specs to chunks to every batch of one epoch."""
        stream = self.chunks(*self.specs())
        for split in ("train", "validation", "test"):
            _consume(stream.batches(split))

    # --- rows

    def rows(self) -> dict[str, Callable[[], Row]]:
        """Every row by name."""
        return {
            "cold_start": self.cold_start,
            "convert": lambda: self.row(
                "convert", lambda: self.timed(self.convert), lambda: self.peer("convert"), "uproot + pyarrow"
            ),
            "specs": lambda: self.row(
                "specs", lambda: self.timed(self.specs), lambda: self.peer("specs"), "uproot + awkward"
            ),
            "chunks": self.chunk_row,
            "kernel": self.kernel,
            "stream": self.stream,
            "fit_streamed": self.fit,
            "root_to_features": lambda: self.row(
                "root_to_features",
                lambda: self.timed(self.whole_way),
                lambda: self.peer("features"),
                "uproot + awkward, two passes",
            ),
        }

    def cold_start(self) -> Row:
        """The first conversion of the session against a warm one; says what a short job pays."""
        cold = self.timed(self.convert)
        return Row("cold_start", cold, self.timed(self.convert), "the same, warm", "kHz", 0.0)

    def chunk_row(self) -> Row:
        """Building chunks against a process that reads and writes the same events once."""
        events, transform = self.specs()
        return self.row(
            "chunks",
            lambda: self.timed(lambda: self.chunks(events, transform)),
            lambda: self.peer("convert"),
            "uproot + pyarrow, convert",
        )

    def kernel(self) -> Row:
        """The transform of a row group in memory against a copy of the matrix and mask it makes, one thread."""
        _, transform = self.specs()
        schema = root_io.read_header(self.paths[0]).schema.keep(transform.layout.branches)
        n = chunks.row_group_events(BATCH)
        batch = next(root_io.read_ranges(self.paths[0], workload.TREE, schema, [(0, n)], 0))
        made = transform.matrix(batch)
        target = np.empty_like(made.matrix), np.empty_like(made.mask)

        def copy() -> None:
            np.copyto(target[0], made.matrix)
            np.copyto(target[1], made.mask)

        def rate(work: Callable[[], Any]) -> float:
            began = time.perf_counter()
            for _ in range(_CALLS):
                work()
            return _CALLS * n / (time.perf_counter() - began) / 1e3

        return self.row(
            "kernel",
            lambda: rate(lambda: transform.matrix(batch)),
            lambda: rate(copy),
            "memcpy of matrix and mask",
            goal=0.1,
        )

    def stream(self) -> Row:
        """Petastorm Reader with the transform against decoding the same row groups with pyarrow, same threads."""
        stream = self.chunks(*self.specs())
        files = [Path(stream.folder) / file.path for file in read(stream.folder).of("train")]
        events = stream.events("train")
        pa.set_cpu_count(CORES)

        def rate(work: Callable[[], Any]) -> float:
            began = time.perf_counter()
            work()
            return events / (time.perf_counter() - began) / 1e3

        def decode() -> None:
            for path in files:
                file = pq.ParquetFile(path)
                for group in range(file.num_row_groups):
                    file.read_row_group(group, use_threads=True)

        return self.row(
            "stream", lambda: rate(lambda: _consume(stream.batches("train"))), lambda: rate(decode), "pyarrow", goal=0.3
        )

    def fit(self) -> Row:
        """Keras fed by the stream against Keras fed from memory: same model, same batches."""
        import keras
        import tensorflow as tf

        stream = self.chunks(*self.specs())
        events, width = stream.events("train"), stream.transform.width
        whole = Batch.join(stream.batches("train"))
        in_memory = tf.data.Dataset.from_tensor_slices((whole.matrix, whole.label)).batch(BATCH).prefetch(2)

        def rate(data: Any) -> float:
            keras.utils.set_random_seed(1)
            layers = keras.layers
            network = [layers.Input((width,)), layers.Dense(128, "relu"), layers.Dense(64, "relu"), layers.Dense(1)]
            model = keras.Sequential(network)
            model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
            model.fit(data.take(1), verbose=0, shuffle=False)  # compiles
            began = time.perf_counter()
            model.fit(data, verbose=0, shuffle=False)
            return events / (time.perf_counter() - began) / 1e3

        return self.row(
            "fit_streamed",
            lambda: rate(stream.dataset("train", seed=1)),
            lambda: rate(in_memory),
            "from memory",
            goal=0.7,
        )


def _consume(batches: Iterable[Any]) -> None:
    for _ in batches:
        pass


def main() -> None:
    """Parse, measure, show, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--events", type=int, default=200_000, help="events in all files")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="40,000 events")
    parser.add_argument("--only", default="", help="rows, comma separated")
    given = parser.parse_args()
    bench = Bench(40_000 if given.quick else given.events, given.repeats)
    rows = bench.rows()
    wanted = [name for name in rows if not given.only or name in given.only.split(",")]
    console = Console(width=110)
    console.print(f"{bench.events:,} events, {os.cpu_count()} cores, Spark local[{CORES}], medians of {bench.repeats}")
    results = []
    for name in wanted:
        results.append(rows[name]())
        console.print(f"  {name} measured")
    table = Table("row", "ours", "peer", "unit", "ratio", "goal", "ok", "peer's name")
    for row in results:
        ok = "yes" if row.ratio >= row.goal else "no"
        figures = (f"{row.ours:.1f}", f"{row.peer:.1f}", row.unit, f"{row.ratio:.2f}", f"{row.goal:g}")
        table.add_row(row.name, *figures, ok, row.peer_name)
    console.print(table)
    (OUT / "results.json").write_text(json.dumps([row.to_json() for row in results], indent=1), encoding="utf-8")
    bench.spark.stop()


if __name__ == "__main__":
    main()
