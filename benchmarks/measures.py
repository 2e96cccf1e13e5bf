"""How each figure is measured: which process is asked for what; and the alternation of what is compared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from benchmarks import workload
from benchmarks.measure import PeakMemory
from benchmarks.rows import MLAAS4HEP_KHZ, together
from benchmarks.serve import Served, timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.rows import Row

CORES = 2
PEERS = Path("benchmarks/.venv/bin/python")
_ONE_CORE = ("taskset", "--cpu-list", "0")
_OURS_ALONE = ("PYTHONPATH", "PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON", "SPARK_HOME", "SPARK_CONF_DIR")
_TRAINED = 1_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        files: Files of the workload.
        events: Events of each.
        sample: Files of the rows whose peer, or our own UDF, is slow.
        more: How many times as many files memory_flat and time_flat compare with.
        repeats: Alternations.
        fresh: Alternations of what needs processes of its own.
        shared: Whether both sizes of memory_flat and time_flat run in one process, the small one first.
    """

    files: int
    events: int
    sample: int
    more: int
    repeats: int
    fresh: int
    shared: bool

    @property
    def total(self) -> int:
        """Events of the workload."""
        return self.files * self.events

    def reduced(self) -> list[str]:
        """What a reader of the table must know of the samples."""
        flat = f"memory_flat and time_flat compare {self.more * self.total:,} with {self.total:,} events"
        return [
            f"{self.files} files x {self.events:,} events, W about 1,170; {self.repeats} alternations",
            f"convert_spark_source and features_udf on {self.sample * self.events:,} events",
            f"{flat}, {'in one process, the fewer first' if self.shared else 'each in a fresh process'}",
            f"convert_cold_start, train_overhead, memory_flat, time_flat: {self.fresh} alternation(s)",
        ]


FULL = Sizes(files=4, events=50_000, sample=4, more=4, repeats=3, fresh=3, shared=False)
QUICK = Sizes(files=4, events=2_500, sample=1, more=4, repeats=3, fresh=1, shared=True)


@dataclass(frozen=True, slots=True)
class Measure:
    """Figures that one run gives together.

    Attributes:
        figures: Their names.
        run: Gives them.
        uses: Names of the processes that must be warm before.
        fresh: Whether it starts processes of its own.
    """

    figures: tuple[str, ...]
    run: Callable[[], tuple[float, ...]]
    uses: tuple[str, ...] = ()
    fresh: bool = False


class Bench:
    """The workload, and the processes that are asked, started when first needed."""

    def __init__(self, sizes: Sizes, out: Path) -> None:
        self._sizes, self._out, self._work = sizes, out, out / "work"
        self._work.mkdir(parents=True, exist_ok=True)
        self._files = workload.generate(out, sizes.files, sizes.events)
        self._stack = ExitStack()
        self._processes: dict[str, Served] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        shutil.rmtree(self._work)

    # --- processes

    def _ours(self, cores: int, name: str, *prefix: str) -> Served:
        work = self._work / name
        work.mkdir(exist_ok=True)
        command = [*prefix, sys.executable, "-m", "benchmarks.ours", "--cores", str(cores), "--work", str(work)]
        return Served(command, self._out / f"{name}.log")

    def _peers(self, kind: str, cores: int, name: str, *prefix: str) -> Served:
        environment = {key: value for key, value in os.environ.items() if key not in _OURS_ALONE}
        environment["PYSPARK_PYTHON"] = str(PEERS.absolute())
        options = ["--cores", str(cores), "--work", str(self._work.absolute())]
        command = [*prefix, str(PEERS), "-m", "benchmarks.peers", kind, *options]
        return Served(command, self._out / f"{name}.log", environment)

    def _start(self, name: str) -> Served:
        match name:
            case "ours":
                return self._ours(CORES, name)
            case "ours_one_core":
                return self._ours(1, name, *_ONE_CORE)
            case "peers":
                return self._peers("uproot", CORES, name)
            case "peers_one_core":
                return self._peers("uproot", 1, name, *_ONE_CORE)
            case _:
                return self._peers("spark_source", CORES, name)

    def warm(self, names: set[str]) -> None:
        """Start the named processes, side by side, and have each work on a thousand events."""
        new = {name: self._stack.enter_context(self._start(name)) for name in sorted(names - self._processes.keys())}
        for process in new.values():
            process.send("warm", files=self._files)
        for process in new.values():
            process.receive()
        self._processes |= new

    # --- figures

    @property
    def _sample(self) -> list[str]:
        return self._files[: self._sizes.sample]

    def _seconds(self, process: str, do: str, **arguments: Any) -> float:
        return float(self._processes[process].ask(do, **arguments))

    def _khz(self, process: str, do: str, files: Sequence[str]) -> float:
        return len(files) * self._sizes.events / self._seconds(process, do, files=files) / 1e3

    def _of_files(self, figure: str, process: str, do: str, files: Sequence[str]) -> Measure:
        """A rate, in kHz, of all events of the files."""
        return Measure((figure,), lambda: (self._khz(process, do, files),), (process,))

    def measures(self) -> list[Measure]:
        """Every figure's."""
        return [
            self._of_files("convert_one_core", "ours_one_core", "convert", self._files),
            self._of_files("uproot_one_core", "peers_one_core", "convert", self._files),
            self._of_files("convert", "ours", "convert", self._files),
            self._of_files("uproot", "peers", "convert", self._files),
            self._of_files("chunks", "ours", "chunks", self._files),
            self._of_files("convert_sample", "ours", "convert", self._sample),
            self._of_files("spark_source", "spark_source", "convert", self._sample),
            Measure(("predict",), self._predicted, ("ours",)),
            self._of_files("whole_way", "ours", "whole_way", self._files),
            Measure(("mlaas4hep",), lambda: (MLAAS4HEP_KHZ,)),
            Measure(("specs",), lambda: (self._seconds("ours", "specs", files=self._files),), ("ours",)),
            Measure(("uproot_read",), lambda: (self._seconds("peers", "read", files=self._files),), ("peers",)),
            Measure(("specs_parquet",), lambda: (self._seconds("ours", "specs", files=self._converted),), ("ours",)),
            Measure(
                ("pyarrow_read",),
                lambda: (self._seconds("peers", "read_parquet", files=self._converted),),
                ("peers", "ours"),
            ),
            *(Measure((name,), self._rate(name), ("ours",)) for name in ("kernel", "memcpy")),
            *(
                Measure((name,), self._of_training(name), ("ours",))
                for name in ("reader", "decode", "tensors", "fit_streamed", "fit_memory", "predict_memory")
            ),
            *(Measure((name,), self._of_training(name), ("ours",)) for name in ("two_workers", "one_process")),
            *(Measure((name,), self._of_converted(name), ("ours",)) for name in ("features_udf", "copied")),
            Measure(("plan",), lambda: (self._seconds("ours", "plan"),), ("ours",)),
            Measure(("help",), lambda: (timed(lambda: _run("--help")),)),
            Measure(("train_overhead",), self._train_overhead, fresh=True),
            *self._growing(),
        ]

    @cached_property
    def _converted(self) -> list[str]:
        """The Parquet files of a converted set."""
        made: list[str] = self._processes["ours"].ask("converted", files=self._files)
        return made

    @cached_property
    def _converted_sample(self) -> list[str]:
        """Those of the sample's files: each file has as many."""
        return self._converted[: len(self._converted) * self._sizes.sample // self._sizes.files]

    @cached_property
    def _prepared(self) -> tuple[Served, int]:
        """Our process after it has made specs and chunks, and how many events train."""
        process = self._processes["ours"]
        return process, process.ask("prepare", files=self._files)["train"]

    def _rate(self, do: str) -> Callable[[], tuple[float]]:
        """What gives a rate itself."""
        return lambda: (self._prepared[0].ask(do),)

    def _of_training(self, do: str) -> Callable[[], tuple[float]]:
        """A rate, in kHz, of the training events."""
        return lambda: (self._prepared[1] / self._prepared[0].ask(do) / 1e3,)

    def _of_converted(self, do: str) -> Callable[[], tuple[float]]:
        """A rate, in kHz, of the sample, converted."""
        events = self._sizes.sample * self._sizes.events
        return lambda: (events / self._prepared[0].ask(do, files=self._converted_sample) / 1e3,)

    def _predicted(self) -> tuple[float]:
        """The rate, in kHz, of batch prediction."""
        return (self._sizes.total / self._prepared[0].ask("predict", files=self._converted) / 1e3,)

    def _train_overhead(self) -> tuple[float]:
        runs = self._work / "runs"
        shutil.rmtree(runs, ignore_errors=True)
        groups = [{"files": self._files[:2], "label": 1}, {"files": self._files[2:], "label": 0}]
        config = {
            "runs": str(runs),
            "input": {"groups": groups, "exclude": [workload.COUNTERS], "events": _TRAINED},
            "train": {"model": "conf/demo_model.py"},
            "spark": {"master": f"local[{CORES}]"},
        }
        path = self._work / "train.yaml"
        path.write_text(json.dumps(config), encoding="utf-8")  # which is YAML
        whole = timed(lambda: _run("train", "--config", str(path)))
        (run,) = runs.glob("run/*/run.json")
        stages = json.loads(run.read_text(encoding="utf-8"))["stages"]
        return (whole - sum(stage["seconds"] for stage in stages if stage["name"] == "train"),)

    # --- cold start and growth: a process just started converts twice, then goes the whole way

    def _growing(self) -> list[Measure]:
        small = ("first_convert", "second_convert", "memory_small", "time_small")
        large = ("memory_large", "time_large")
        if self._sizes.shared:
            return [Measure((*small, *large), lambda: self._fresh(1, self._sizes.more), fresh=True)]
        return [
            Measure(small, lambda: self._fresh(1), fresh=True),
            Measure(large, lambda: self._fresh(self._sizes.more)[2:], fresh=True),
        ]

    def _fresh(self, *multiples: int) -> tuple[float, ...]:
        """Seconds of a first and a second conversion; then, for each size, peak MB and microseconds an event."""
        files = workload.generate(self._out, self._sizes.files * max(multiples), self._sizes.events)
        with self._started() as process:
            figures = [float(process.ask("convert", files=self._files)) for _ in range(2)]
            for multiple in multiples:
                events = multiple * self._sizes.total
                with PeakMemory(process.pid) as memory:
                    seconds = process.ask("whole_way", files=files[: multiple * self._sizes.files])
                figures += [memory.total / 1e6, seconds / events * 1e6]
        return tuple(figures)

    @contextmanager
    def _started(self) -> Iterator[Served]:
        """A process of ours that has done nothing; where sizes share one it then serves the other rows, warm."""
        process = self._ours(CORES, "ours" if self._sizes.shared else "fresh")
        if self._sizes.shared:
            self._processes["ours"] = self._stack.enter_context(process)
            yield process
        else:
            with process:
                yield process


def _run(*arguments: str) -> None:
    """The command line, from start to end."""
    command = [str(Path(sys.executable).with_name("mlaas-spark")), *arguments]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own


def sample(bench: Bench, rows: Sequence[Row], sizes: Sizes, told: Callable[[str], None]) -> dict[str, list[float]]:
    """All runs of all figures that the rows need: what is compared runs in turn.

    What starts processes of its own comes first, while no others are there.
    """
    measures = [m for m in bench.measures() if set(m.figures) & set().union(*(row.figures for row in rows))]
    compared = together([*(frozenset(m.figures) for m in measures), *(row.figures for row in rows)])
    groups = [(figures, [m for m in measures if set(m.figures) <= figures]) for figures in compared]
    samples: dict[str, list[float]] = {}
    for figures, group in sorted(groups, key=lambda item: not any(m.fresh for m in item[1])):
        if not any(m.fresh for m in group):
            bench.warm({name for m in measures for name in m.uses})
        for turn in range(sizes.repeats):
            for measure in group:
                if turn < (sizes.fresh if measure.fresh else sizes.repeats):
                    for figure, value in zip(measure.figures, measure.run(), strict=True):
                        samples.setdefault(figure, []).append(value)
        told(", ".join(sorted(row.name for row in rows if row.figures <= figures)))
    return samples
