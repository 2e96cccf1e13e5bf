"""What is measured beside its peer in one process: kernel, stream, tf.data, fit, pandas UDF and prediction."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import workload
from benchmarks.serve import timed
from mlaas_spark import pipeline, root_io
from mlaas_spark.config import ExportConfig, PredictConfig, TrainConfig
from mlaas_spark.errors import ModelContractError
from mlaas_spark.manifest import LABEL, WEIGHT, read
from mlaas_spark.memory import Buffers
from mlaas_spark.ml import fit, parallel
from mlaas_spark.ml.bundle import write_bundle
from mlaas_spark.ml.stream import Batch, ChunkStream
from mlaas_spark.runs import Journal
from mlaas_spark.spark import barrier
from mlaas_spark.spark.features import features
from mlaas_spark.usercode import UserFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pyspark.sql import DataFrame

    from benchmarks.ours import Ours
    from mlaas_spark.transform import Features, FeatureTransform

_CALLS = 20  # of a work of milliseconds
_KERNEL_EVENTS = 8_192  # a row group
_PASSES = 4
_MODEL = """
import keras

def model(idim):
    keras.utils.set_random_seed(1)
    layers = keras.layers
    hidden = [layers.Dense(384, "relu") for _ in range(3)]
    network = keras.Sequential([layers.Input((idim,)), *hidden, layers.Dense(1, "sigmoid")])
    network.compile("adam", "binary_crossentropy")
    return network
"""


class Training:
    """The rows from features to predictions; :meth:`prepare` makes what they share, before any clock starts."""

    def __init__(self, ours: Ours) -> None:
        self._ours = ours
        self._files: Sequence[str] = ()
        self._buffers = Buffers()

    def prepare(self, files: Sequence[str]) -> dict[str, int]:
        """Specs and chunks of the files, and how many events train."""
        self._files = files
        return {"train": self._stream.events("train"), "width": self._transform.width}

    def commands(self) -> dict[str, Callable[..., Any]]:
        """What can be asked for, after :meth:`prepare`."""
        names = (
            "prepare", "kernel", "memcpy", "reader", "decode", "tensors", "fit_streamed", "fit_memory", "features_udf",
            "copied", "predict", "predict_memory", "two_workers", "one_process",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    @cached_property
    def _transform(self) -> FeatureTransform:
        return self._ours.specs_of(self._ours.open(self._files))[1]

    @cached_property
    def _stream(self) -> ChunkStream:
        return self._ours.chunks_of(self._ours.open(self._files), self._transform, self._ours.fresh("prepared"))

    # --- kernel

    @cached_property
    def _events(self) -> pa.RecordBatch:
        header = root_io.read_header(self._files[0])
        schema, stop = header.schema.keep(self._transform.layout.branches), min(_KERNEL_EVENTS, header.entries)
        return next(root_io.read_ranges(self._files[0], workload.TREE, schema, [(0, stop)], 0))

    @cached_property
    def _made(self) -> Features:
        return self._transform.matrix(self._events, empty=self._buffers.empty)

    def kernel(self) -> float:
        """GB/s of matrix and mask of a row group that the transform makes on one thread, in memory used again."""
        return self._rate(lambda: self._transform.matrix(self._events, empty=self._buffers.empty))

    def memcpy(self) -> float:
        """GB/s of a copy of that matrix and mask to memory that is there, on one thread."""
        target = np.empty_like(self._made.matrix), np.empty_like(self._made.mask)

        def copy() -> None:
            np.copyto(target[0], self._made.matrix)
            np.copyto(target[1], self._made.mask)

        copy()
        return self._rate(copy)

    def _rate(self, work: Callable[[], Any]) -> float:
        written = self._made.matrix.nbytes + self._made.mask.nbytes
        return _CALLS * written / timed(lambda: [work() for _ in range(_CALLS)]) / 1e9

    # --- stream

    def reader(self) -> float:
        """Every training batch through petastorm's Reader: normalised, padded, masked."""
        return timed(lambda: _consume(self._stream.batches("train")))

    def decode(self) -> float:
        """The same columns of the same row groups decoded by pyarrow, a file on each thread; nothing else is done."""
        paths = [f"{self._stream.folder}/{file.path}" for file in read(self._stream.folder).of("train")]
        columns = [*self._transform.layout.branches, LABEL, WEIGHT]

        def one(path: str) -> None:
            file = pq.ParquetFile(path)
            for group in range(file.num_row_groups):
                file.read_row_group(group, columns=columns, use_threads=False)

        with ThreadPoolExecutor(self._ours.cores) as pool:
            return timed(lambda: _consume(pool.map(one, paths)))

    def tensors(self) -> float:
        """The same batches as TensorFlow gets them."""
        data = self._stream.dataset("train")
        return timed(lambda: _consume(data))

    # --- fit

    @cached_property
    def _whole(self) -> Batch:
        """All training events in memory."""
        return Batch.join(self._stream.batches("train"))

    @cached_property
    def _in_memory(self) -> Any:
        import tensorflow as tf

        tensors = self._whole.matrix, self._whole.label
        return tf.data.Dataset.from_tensor_slices(tensors).batch(self._stream.batch_size).prefetch(2)

    def fit_streamed(self) -> float:
        """One epoch of Keras on the stream."""
        return _fit(self._stream.dataset("train"), self._transform.width)

    def fit_memory(self) -> float:
        """One epoch of Keras on tensors in memory, cut into the same batches in the same order and prefetched."""
        return _fit(self._in_memory, self._transform.width)

    # --- workers

    def two_workers(self) -> float:
        """Seconds of a pass by two workers, a core each."""
        config = self._dealt(workers=2)
        path = self._ours.work / "network.py"
        path.write_text(_MODEL, encoding="utf-8")
        file = UserFile.read(path, ModelContractError)
        start = partial(barrier.together, self._ours.spark)
        return self._passes(lambda model, stream, told: parallel.fit(model, stream, config, file, start, progress=told))

    def one_process(self) -> float:
        """Seconds of a pass over the same batches by one process on both cores."""
        config = self._dealt(workers=1)
        return self._passes(lambda model, stream, told: fit.fit(model, stream, config, progress=told))

    def _dealt(self, workers: int) -> TrainConfig:
        return TrainConfig(epochs=_PASSES, batch_size=self._stream.batch_size, workers=workers, shards=2)

    def _passes(self, train: Callable[[Any, ChunkStream, Callable[..., None]], object]) -> float:
        """Mean seconds of the passes after the first, which compiles."""
        stream = ChunkStream.open(self._stream.folder, self._transform, self._stream.batch_size, self._ours.cores, 2)
        namespace: dict[str, Any] = {}
        exec(compile(_MODEL, "network.py", "exec"), namespace)  # noqa: S102 - our own text, as a user's file has it
        ends: list[float] = []
        train(namespace["model"](stream.width), stream, lambda *_: ends.append(time.perf_counter()))
        return (ends[-1] - ends[0]) / (len(ends) - 1)

    # --- pandas UDF

    def _frame(self, files: Sequence[str]) -> DataFrame:
        return self._ours.spark.read.parquet(*files).select(*self._transform.layout.branches)

    def features_udf(self, files: Sequence[str]) -> float:
        """All features of converted files by the pandas UDF, written nowhere."""
        frame = self._frame(files).select(features(self._transform))
        return timed(frame.write.format("noop").mode("overwrite").save)

    def copied(self, files: Sequence[str]) -> float:
        """The same columns to Python and back by a mapInArrow that does nothing, written nowhere."""
        frame = self._frame(files)
        frame = frame.mapInArrow(lambda batches: batches, frame.schema)
        return timed(frame.write.format("noop").mode("overwrite").save)

    # --- prediction

    @cached_property
    def _bundle(self) -> str:
        """A bundle of a network that has not learned, as its scores cost what another's do; workers have it loaded."""
        folder = self._ours.work / "bundles"
        made = write_bundle(_network(self._transform.width), self._stream, ExportConfig(), "", folder)
        pipeline.predict(self._ours.config(self._files), str(made.archive), self._ours.fresh("scores"), Journal())
        return str(made.archive)

    def predict(self, files: Sequence[str]) -> float:
        """Any files to scores on executors, as the verb does it, from opening model and files to the manifest."""
        config, bundle, folder = self._ours.config(files), self._bundle, self._ours.fresh("scores")
        return timed(lambda: pipeline.predict(config, bundle, folder, Journal()))

    def predict_memory(self) -> float:
        """The scores of features in memory, in batches as large."""
        model, matrix, size = _network(self._transform.width), self._whole.matrix, PredictConfig().batch_size
        model.predict(matrix[:size], batch_size=size, verbose=0)
        return timed(lambda: model.predict(matrix, batch_size=size, verbose=0))


def _network(width: int) -> Any:
    """A dense network, compiled; always the same."""
    import keras

    keras.utils.set_random_seed(1)
    layers = keras.layers
    network = [layers.Input((width,)), layers.Dense(128, "relu"), layers.Dense(64, "relu"), layers.Dense(1)]
    model = keras.Sequential(network)
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    return model


def _fit(data: Any, width: int) -> float:
    """Seconds of an epoch of a dense network, after a first batch that compiles it."""
    model = _network(width)
    model.fit(data.take(1), verbose=0, shuffle=False)
    return timed(lambda: model.fit(data, verbose=0, shuffle=False))


def _consume(batches: Iterable[Any]) -> None:
    for _ in batches:
        pass
