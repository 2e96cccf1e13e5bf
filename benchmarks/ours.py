"""Our stages, in a process that answers requests: ``python -m benchmarks.ours --cores N --work FOLDER``.

Each command gives the seconds of the work itself, from opening the files to the last file that is written. The start
of Spark comes before, and so does removing what was written the last time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import workload
from benchmarks.serve import serve, timed
from benchmarks.training import Training
from mlaas_spark import config as configs
from mlaas_spark.filesets import fileset
from mlaas_spark.formats import Format
from mlaas_spark.ml.stream import ChunkStream
from mlaas_spark.plan import PlannedFile, make_plan
from mlaas_spark.schema import Branch, EventSchema
from mlaas_spark.spark import chunks, convert, specs
from mlaas_spark.spark.ingest import Events, open_events
from mlaas_spark.spark.session import session
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlaas_spark.config import Config

BATCH = 1024
_STEP = 25_000
_WARM = 1_000
_PLANNED_FILES, _PLANNED_CLUSTERS = 400, 25


class Ours:
    """A Spark session on so many cores, and the stages as the verbs run them."""

    def __init__(self, cores: int, work: Path, conf: dict[str, str]) -> None:
        self.cores, self.work, self._conf = cores, work.absolute(), conf
        self._transforms: dict[tuple[str, ...], FeatureTransform] = {}
        self.spark = session(self.config([]).spark, "benchmark")

    def config(self, files: Sequence[str], **given: Any) -> Config:
        """The first half of the files is labelled 1, the second 0."""
        half = -(-len(files) // 2)
        groups = [{"files": part, "label": label} for label, part in ((1, files[:half]), (0, files[half:])) if part]
        counters = [] if files and files[0].endswith(".parquet") else [workload.COUNTERS]  # a converted set lacks them
        return configs.resolve(
            {
                "input": {"groups": groups, "exclude": counters, **given},
                "train": {"batch_size": BATCH},
                "spark": {"master": f"local[{self.cores}]", "conf": self._conf},
            }
        )

    def open(self, files: Sequence[str], **given: Any) -> Events:
        """The events of files, planned."""
        config = self.config(files, **given)
        return open_events(self.spark, fileset(config.input), config.input, _STEP)

    def fresh(self, name: str) -> str:
        """A folder that is not there."""
        shutil.rmtree(self.work / name, ignore_errors=True)
        return str(self.work / name)

    def specs_of(self, events: Events) -> tuple[Events, FeatureTransform]:
        """Specs, and the transform that follows from them; the events with their ranges counted."""
        made, counted = specs.compute(events, events.plan.schema.names)
        return counted, FeatureTransform.of(made.specs, self.config([]).features)

    def chunks_of(self, events: Events, transform: FeatureTransform, folder: str) -> ChunkStream:
        """Chunks, and the stream of them."""
        request = chunks.ChunkRequest(self.config([]).chunks, transform, (), None, BATCH, "")
        chunks.build(events, request, folder)
        return ChunkStream.open(folder, transform, BATCH, self.cores)

    # --- commands

    def warm(self, files: Sequence[str]) -> None:
        """A thousand events all the way: every worker imports what it needs and reads what numba compiled earlier."""
        few = self.open(files, events=_WARM)
        convert.convert(few, self.fresh("warm-converted"))
        _drain(self.chunks_of(*self.specs_of(few), self.fresh("warm-chunks")))

    def convert(self, files: Sequence[str], branches: Sequence[str] = ()) -> float:
        """ROOT to Parquet."""
        folder = self.fresh("converted")
        return timed(lambda: convert.convert(self.open(files, branches=list(branches)), folder))

    def converted(self, files: Sequence[str]) -> list[str]:
        """Not timed: the Parquet files of a converted set that stays."""
        folder = self.fresh("stays")
        return [f"{folder}/{file.path}" for file in convert.convert(self.open(files), folder).files]

    def columns(self, files: Sequence[str], branches: Sequence[str] = ()) -> int:
        """Not timed: how many branches are read."""
        return len(self.open(files, branches=list(branches)).plan.schema.names)

    def specs(self, files: Sequence[str], branches: Sequence[str] = ()) -> float:
        """Specs of ROOT or Parquet."""
        return timed(lambda: self._learn(files, branches))

    def chunks(self, files: Sequence[str], branches: Sequence[str] = ()) -> float:
        """ROOT to chunks; the specs are known."""
        folder, key = self.fresh("chunks"), (*files, *branches)
        if key not in self._transforms:
            self._learn(files, branches)
        transform = self._transforms[key]
        return timed(lambda: self.chunks_of(self.open(files, branches=list(branches)), transform, folder))

    def _learn(self, files: Sequence[str], branches: Sequence[str]) -> None:
        _, self._transforms[*files, *branches] = self.specs_of(self.open(files, branches=list(branches)))

    def whole_way(self, files: Sequence[str]) -> float:
        """ROOT to specs to chunks to every batch of the first epoch: training, validation and test."""
        folder = self.fresh("whole")
        return timed(lambda: _drain(self.chunks_of(*self.specs_of(self.open(files)), folder)))

    def plan(self) -> float:
        """10,000 ranges of 400 opened files cut, in the plan's order, and the plan's digest, which names the work."""
        schema = EventSchema.of([Branch(f"b{i}", f"b{i}", "float32", jagged=i >= 32) for i in range(72)])
        edges = tuple(_STEP * number for number in range(_PLANNED_CLUSTERS + 1))
        files = [
            PlannedFile(f"/data/{i}.root", Format.ROOT, "Events", f"{i:032x}", edges[-1], 1.0, 1.0, "", edges)
            for i in range(_PLANNED_FILES)
        ]
        return timed(lambda: make_plan(files, schema, _STEP).digest())

    def shuffled(self) -> int:
        """Bytes that all stages so far wrote for a shuffle, as Spark's own REST interface says."""
        context = self.spark.sparkContext
        url = f"{context.uiWebUrl}/api/v1/applications/{context.applicationId}/stages"
        with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own session's
            return sum(stage["shuffleWriteBytes"] for stage in json.load(answer))


def _drain(stream: ChunkStream) -> None:
    """Every batch of an epoch: training, validation and test."""
    for split in ("train", "validation", "test"):
        for _ in stream.batches(split):
            pass


def commands(ours: Ours) -> dict[str, Callable[..., Any]]:
    """What can be asked for."""
    training = Training(ours)
    names = ("warm", "convert", "converted", "columns", "specs", "chunks", "whole_way", "plan", "shuffled")
    return {name: getattr(ours, name) for name in names} | training.commands()


def main() -> None:
    """Serve our stages on so many cores."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--conf", type=json.loads, default={}, help="Spark settings, as JSON")
    given = parser.parse_args()
    serve(commands(Ours(given.cores, given.work, given.conf)))


if __name__ == "__main__":
    main()
