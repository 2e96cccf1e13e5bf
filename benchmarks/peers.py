"""The peers: what a physicist writes today, tuned. ``python -m benchmarks.peers``, in an environment of its own.

Each function gives the seconds of the work itself; imports, the start of Spark and of processes, and a warm-up on the
first thousand events come before. Steps of 12,500 entries, a cluster, were the fastest of 12,500, 25,000 and 50,000:
62, 55 and 55 kHz of one core. uproot decompresses by Python's zlib, as it comes; with isal, behind a private switch of
its, the conversion was 1.14 times as fast.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import awkward as ak
import pyarrow as pa
import pyarrow.parquet as pq
import uproot

from benchmarks.serve import serve, timed
from benchmarks.workload import COUNTERS, TREE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_STEP = 12_500
_PARTITION = 25_000
_WARM = 1_000

Commands = dict[str, "Callable[..., Any]"]


def _branches(tree: Any) -> list[str]:
    """All but the counters."""
    return [name for name in tree.keys() if not fnmatch(name, COUNTERS)]  # noqa: SIM118 - a tree is no dict


def _batches(paths: Sequence[str], limit: int | None, **executors: Any) -> Iterator[dict[str, ak.Array]]:
    """Every branch but the counters, a step at a time."""
    for path in paths:
        with uproot.open(path) as file:
            tree = file[TREE]
            names = _branches(tree)
            stop = limit or tree.num_entries
            for start in range(0, stop, _STEP):
                yield tree.arrays(names, entry_start=start, entry_stop=min(start + _STEP, stop), how=dict, **executors)


def _convert(folder: Path, executors: dict[str, Any], paths: Sequence[str], limit: int | None = None) -> None:
    """uproot, ak.to_arrow, pyarrow: a file a step, lz4, no dictionaries."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, arrays in enumerate(_batches(paths, limit, **executors)):
        columns = {
            name: ak.to_arrow(array, list_to32=True, extensionarray=False, count_nulls=False)
            for name, array in arrays.items()
        }
        pq.write_table(pa.table(columns), folder / f"{number}.parquet", compression="lz4", use_dictionary=False)


def _read(paths: Sequence[str], limit: int | None = None) -> None:
    """Uproot alone: every branch as an array."""
    for _ in _batches(paths, limit):
        pass


def _read_parquet(paths: Sequence[str]) -> None:
    """Pyarrow alone: every column, decoded by all its threads."""
    for path in paths:
        pq.ParquetFile(path, memory_map=True).read(use_threads=True)


def _uproot(work: Path, cores: int) -> Commands:
    """Uproot and pyarrow with so many threads."""
    pa.set_cpu_count(cores)
    executors: dict[str, Any] = {}
    if cores > 1:
        pool = ThreadPoolExecutor(cores)
        executors = {"decompression_executor": pool, "interpretation_executor": pool}
    processes = multiprocessing.Pool(cores)
    convert = partial(_convert, work / f"peer-{cores}", executors)

    def read(files: Sequence[str]) -> float:
        return timed(lambda: processes.map(_read, [files[core::cores] for core in range(cores)]))

    def warm(files: Sequence[str]) -> None:
        processes.starmap(_read, [(files[:1], _WARM)] * cores)
        convert(files[:1], _WARM)

    return {
        "warm": warm,
        "convert": lambda files: timed(lambda: convert(files)),
        "read": read,
        "read_parquet": lambda files: timed(lambda: _read_parquet(files)),
    }


def _spark_source(work: Path, cores: int) -> Commands:
    """pyspark-root-datasource: its options as its own documentation advises, partitions as our ranges, a schema."""
    from pyspark import SparkConf
    from pyspark.sql import SparkSession
    from pyspark_root_datasource import register  # type: ignore[import-not-found] # in the peers' environment alone

    quiet = {f"spark.{key}": "127.0.0.1" for key in ("driver.bindAddress", "driver.host")}
    quiet |= {f"spark.ui.{key}": "false" for key in ("enabled", "showConsoleProgress")}
    settings = SparkConf().setAll([*quiet.items(), ("spark.hadoop.parquet.enable.dictionary", "false")])
    spark = SparkSession.builder.master(f"local[{cores}]").config(conf=settings).getOrCreate()
    register(spark)
    target = str(work / "peer-spark")

    @cache
    def schema(path: str) -> Any:
        with uproot.open(path) as file:
            names = ",".join(_branches(file[TREE]))
        return spark.read.format("root").options(path=path, tree=TREE, columns=names).load().schema

    def convert(files: Sequence[str], **options: Any) -> None:
        reader = spark.read.format("root").schema(schema(files[0]))
        rows = reader.options(path=",".join(files), tree=TREE, step_size=_PARTITION, **options).load()
        rows.write.mode("overwrite").option("compression", "lz4_raw").parquet(target)

    return {
        "warm": lambda files: convert(files, entry_stop=_WARM // len(files)),
        "convert": lambda files: timed(lambda: convert(files)),
    }


def main() -> None:
    """Serve the peers of one kind."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["uproot", "spark_source"])
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    serve({"uproot": _uproot, "spark_source": _spark_source}[given.kind](given.work, given.cores))


if __name__ == "__main__":
    main()
