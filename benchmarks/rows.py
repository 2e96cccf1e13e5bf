"""The rows of the table: two figures each, ours and the peer's, with what they mean and why the peer is fair."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MLAAS4HEP_KHZ = 1.7
"""The upper end of the 1 to 1.7 kHz published for MLaaS4HEP with 1,200 to 1,800 attributes an event: V. Kuznetsov,
L. Giommi, D. Bonacorsi, "MLaaS4HEP: Machine Learning as a Service for HEP", Comput. Softw. Big Sci. 5, 17 (2021),
arXiv:2007.14781. The W of the workload, 1,170, is at the lower end of the attributes, so the faster figure applies. It
is not measured here: MLaaS4HEP is in no package registry, and its code needs uproot 3 and numpy before 1.24."""


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of ours against another: ``ratio`` = ours / peer.

    Attributes:
        name: Of the row.
        ours: Name of our figure, see ``measures.py``.
        peer: Name of the peer's; None where the goal is an absolute one.
        peer_name: What the peer is.
        unit: Of both figures.
        goal: Of the ratio.
        about: What is measured, and why the peer is fair.
        lower: Whether lower is better.
    """

    name: str
    ours: str
    peer: str | None
    peer_name: str
    unit: str
    goal: float
    about: str
    lower: bool = False

    @property
    def figures(self) -> frozenset[str]:
        """Names of the figures it needs."""
        return frozenset(name for name in (self.ours, self.peer) if name)

    def result(self, samples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
        """The row as results.json has it, from the medians of the samples of each figure."""
        ours, peer = median(samples[self.ours]), median(samples[self.peer]) if self.peer else 1.0
        ratio = ours / peer
        return {
            "name": self.name,
            "ours": ours,
            "peer": peer,
            "peer_name": self.peer_name,
            "unit": self.unit,
            "ratio": ratio,
            "goal": self.goal,
            "ok": ratio <= self.goal if self.lower else ratio >= self.goal,
            "better": "lower" if self.lower else "higher",
            "repeats": len(samples[self.ours]),
            "about": self.about,
        }


ROWS = (
    Row(
        "convert_one_core", "convert_one_core", "uproot_one_core", "uproot + pyarrow, one core", "kHz", 1.7,
        "ROOT to Parquet. Both in processes held to core 0, the JVM too, and warm; the peer with the newest uproot "
        "and pyarrow, lz4, no dictionaries, the same columns, and the step of entries that was fastest.",
    ),
    Row(
        "convert_all_cores", "convert", "uproot", "the same, all threads", "kHz", 1.15,
        "The same work on two cores: local[2] against two threads that decompress and interpret.",
    ),
    Row(
        "convert_spark_source", "convert_sample", "spark_source", "pyspark-root-datasource 0.1.0", "kHz", 6.0,
        "Both local[2] and warm, on the same files; the peer with its schema given, as its documentation advises, the "
        "same partitions, lz4, no dictionaries.",
    ),
    Row(
        "convert_cold_start", "first_convert", "second_convert", "the same job again", "s", 1.6,
        "The first conversion of a session against the second. The session has started, Python workers have not.",
        lower=True,
    ),
    Row(
        "specs_root", "specs", "uproot_read", "uproot reading, two processes", "s", 1.15,
        "Opening, reading and all statistics, against only opening and reading the same branches: two warm processes, "
        "each with half of the files, so that neither waits for Python's lock.",
        lower=True,
    ),
    Row(
        "specs_parquet", "specs_parquet", "pyarrow_read", "pyarrow reading, two threads", "s", 1.5,
        "Specs over a converted set, through Spark, against decoding all its columns in one process.",
        lower=True,
    ),
    Row(
        "kernel", "kernel", "memcpy", "memcpy of what is written", "GB/s", 0.4,
        "Pad, normalise and mask a row group in memory into a matrix and mask whose memory is used again, as the "
        "stream does it, against a copy to memory that is there; one thread each.",
    ),
    Row(
        "stream_reader", "reader", "decode", "pyarrow decoding, same threads", "kHz", 0.7,
        "petastorm's Reader with all that it does, to padded float32 batches in a fixed order, against decoding the "
        "same columns of the same row groups and no more.",
    ),
    Row(
        "stream_tf", "tensors", "reader", "the Reader", "kHz", 0.85,
        "The same batches taken out of tf.data.",
    ),
    Row(
        "fit_streamed", "fit_streamed", "fit_memory", "Keras fit from memory", "kHz", 1.0,
        "One epoch of a 128-64-1 network after the batch that compiles it. From memory: from_tensor_slices, batch, "
        "prefetch; the same model, seed, batches and order.",
    ),
    Row(
        "fit_workers", "two_workers", "one_process", "one process, both cores", "kHz", 1.0,
        "Two workers of Spark's barrier stage, a core each, on the same global batches of two shards: passes after the "
        "first of a network of three layers of 384, workers' start and compilation not counted.",
    ),
    Row(
        "chunks", "chunks", "convert", "our convert", "kHz", 0.8,
        "Chunks from ROOT, specs known, against conversion of the same files: two passes over the events against one.",
    ),
    Row(
        "features_udf", "features_udf", "copied", "mapInArrow that copies", "kHz", 0.5,
        "Matrix and mask of converted files by the pandas UDF, against a mapInArrow that gives back the same columns "
        "untouched; Spark reads the same Parquet and writes nothing (noop) in both.",
    ),
    Row(
        "predict", "predict", "predict_memory", "model.predict from memory", "kHz", 1.5,
        "A converted set to scores in Parquet by the verb, on local[2], against model.predict in one process with both "
        "cores on features that are in memory, in batches as large: the peer reads nothing and makes no features.",
    ),
    Row(
        "scaling", "convert", "convert_one_core", "our convert on one core", "kHz", 1.7,
        "local[2] against local[1] that has one core for its JVM too; both warm.",
    ),
    Row(
        "root_to_features", "whole_way", "mlaas4hep", "MLaaS4HEP, published", "kHz", 25.0,
        "ROOT to specs to chunks to every batch of the first epoch, validation and test events too. The peer is the "
        "one figure that is not measured here: see MLAAS4HEP_KHZ.",
    ),
    Row(
        "plan_10000", "plan", None, "one second", "s", 1.0,
        "10,000 ranges of 400 opened files, and the plan's digest.",
        lower=True,
    ),
    Row(
        "help", "help", None, "one second", "s", 1.0,
        "mlaas-spark --help, a process from start to end.",
        lower=True,
    ),
    Row(
        "train_overhead", "train_overhead", None, "one second", "s", 15.0,
        "mlaas-spark train of 1,000 events, a process from start to end, less the time of its fit: Spark, TensorFlow, "
        "specs, chunks, evaluation, export and report.",
        lower=True,
    ),
    Row(
        "memory_flat", "memory_large", "memory_small", "a quarter of the events", "MB", 1.2,
        "Peak resident memory of driver and workers on the whole way, sampled ten times a second, shared pages once.",
        lower=True,
    ),
    Row(
        "time_flat", "time_large", "time_small", "a quarter of the events", "us/event", 1.1,
        "Time an event on the whole way.",
        lower=True,
    ),
)  # fmt: skip


def chosen(only: str) -> list[Row]:
    """The rows of a comma list of names; of an empty one all.

    Raises:
        ValueError: A name is no row's.
    """
    names = only.split(",") if only else [row.name for row in ROWS]
    if unknown := set(names) - {row.name for row in ROWS}:
        msg = f"no row {', '.join(sorted(unknown))}; there are {', '.join(row.name for row in ROWS)}"
        raise ValueError(msg)
    return [row for row in ROWS if row.name in names]


def together(groups: Iterable[frozenset[str]]) -> list[frozenset[str]]:
    """Groups that share a name as one: what is compared, directly or not, is measured in turn."""
    joined: list[frozenset[str]] = []
    for group in groups:
        apart = [other for other in joined if not other & group]
        joined = [*apart, group.union(*(other for other in joined if other & group))]
    return joined
