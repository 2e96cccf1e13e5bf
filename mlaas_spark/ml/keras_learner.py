"""A Keras model in training: as ``Model.fit`` does it, but from any batch of an epoch on, with a state to save."""

from __future__ import annotations

import math
import random
import weakref
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.errors import MlaasSparkError, ModelContractError
from mlaas_spark.ml.called import callback_state, restore_callbacks
from mlaas_spark.ml.learner import match
from mlaas_spark.ml.meter import FIRST, FIT, HANDED, Meter
from mlaas_spark.ml.model import graph_reason, known_remarks
from mlaas_spark.ml.stream import PREFETCH, dataset_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from mlaas_spark.ml.examples import Examples
    from mlaas_spark.ml.learner import AfterBatch, Logs, State
    from mlaas_spark.ml.stream import Batch


class KerasLearner:
    """Implements :class:`mlaas_spark.ml.learner.Learner` for a Keras model, whose ``train_step`` may be its own.

    Args:
        model: The compiled model, built.
        examples: What it learns from.
        callbacks: Keras callbacks.
        verbose: As in ``Model.fit``.
        meter: Told what takes how long.
    """

    def __init__(
        self,
        model: Any,
        examples: Examples,
        callbacks: Sequence[Any] = (),
        verbose: int = 0,
        meter: Meter | None = None,
    ) -> None:
        self.model, self.examples = model, examples
        self.meter = meter or Meter()
        self._step_part = FIRST
        self.callbacks, self._verbose = list(callbacks), verbose
        self._called: Any = None
        self._step: Any = None
        self._source: Iterable[Batch] = ()
        self._failures: list[MlaasSparkError] = []
        self._dataset = dataset(examples, _source_of(weakref.ref(self)), self._failures)

    @property
    def stopped(self) -> bool:
        """Whether a callback has asked for no further epochs."""
        return bool(self.model.stop_training)

    # --- training

    def begin(self, epochs: int) -> None:
        """Compile the steps, build optimizer and metrics, tell the callbacks."""
        import keras

        model = self.model
        model.stop_training = False
        model.steps_per_execution = 1  # else checkpoints could not fall between any two batches
        with self._told("before the first batch"), known_remarks():
            model._symbolic_build(data_batch=self.examples.one())  # noqa: SLF001 - as fit does, so that there is a state to restore
            model.make_train_function(force=True)
            model.make_test_function()
            self._step = self._one_step()
        self._called = keras.callbacks.CallbackList(
            self.callbacks,
            add_history=True,
            add_progbar=self._verbose > 0,
            verbose=self._verbose,
            epochs=epochs,
            model=model,
        )
        self._call("on_train_begin", "the first pass")

    def learn(self, epoch: int, batches: Iterator[Batch], first: int, count: int, after: AfterBatch) -> Logs:
        """Learn from the batches ``first`` up to ``count``; see :class:`~mlaas_spark.ml.learner.Learner`."""
        model = self.model
        if not first:
            model.reset_metrics()
        self._call("on_epoch_begin", f"epoch {epoch}", epoch)
        logs: Logs = as_numbers(model.get_metrics_result()) if first else {}
        self._source = batches
        iterator = iter(self._dataset)
        for batch in range(first, count):
            self._call("on_train_batch_begin", f"epoch {epoch}, batch {batch}", batch)
            with self._told(f"epoch {epoch}, batch {batch}"), known_remarks():
                logs = self._learned(iterator)
            self._call("on_train_batch_end", f"epoch {epoch}, batch {batch}", batch, logs)
            after(batch, logs)
            if self._leaves():
                break
        return logs

    def _learned(self, iterator: Iterator[Any]) -> Logs:
        """The metrics of the pass so far, after a step on the next batch."""
        with self.meter.timed(HANDED):
            data = next(iterator)
        with self._stepping():
            return as_numbers(self._step(data))

    def _one_step(self) -> Callable[[Any], Any]:
        """Learning from one batch, traced for batches of any length.

        Traced for each length as it comes, it would round otherwise before the first short batch than after it, and a
        training that goes on would not end as one that was never killed.
        """
        import tensorflow as tf

        model = self.model

        def step(data: Any) -> Any:
            return model.train_function(iter([data]))

        return step if model.run_eagerly else tf.function(step, input_signature=[self._dataset.element_spec])

    @contextmanager
    def _stepping(self) -> Iterator[None]:
        """Time a step; the first is traced and compiled."""
        part, self._step_part = self._step_part, FIT
        with self.meter.timed(part):
            yield

    def _leaves(self) -> bool:
        """Whether a pass ends after this batch."""
        return self.stopped

    def judge(self, batches: Iterable[Batch]) -> Logs:
        """Loss and metrics of batches, as ``Model.evaluate``."""
        model = self.model
        model.reset_metrics()
        self._source = batches
        self._call("on_test_begin", "validation")
        logs: Logs = {}
        with self._told("validation"), known_remarks():
            for batch in self.meter.waiting(HANDED, self._dataset):
                with self.meter.timed(FIT):
                    logs = as_numbers(model.test_function(iter([batch])))
        logs = self._judged(logs)
        self._call("on_test_end", "validation", logs)
        return logs

    def _judged(self, logs: Logs) -> Logs:
        """The metrics of all batches that were judged, from those of the batches that were judged here."""
        return logs

    def end_epoch(self, epoch: int, row: dict[str, float]) -> None:
        """Tell the callbacks, which may add to the row: a learning rate."""
        self._call("on_epoch_end", f"epoch {epoch}", epoch, row)
        row.update({name: float(values[-1]) for name, values in self.model.history.history.items()})

    def end(self) -> None:
        """Take over averaged weights where the optimizer keeps some; tell the callbacks."""
        self.model.optimizer.finalize_variable_values(self.model.trainable_weights)
        self._call("on_train_end", "the last pass")

    def _call(self, hook: str, where: str, *given: Any) -> None:
        """Tell the user's callbacks, whose errors are theirs."""
        with self._told(where, "a callback"):
            getattr(self._called, hook)(*given)

    @contextmanager
    def _told(self, where: str, what: str = "the model") -> Iterator[None]:
        try:
            yield
        except MlaasSparkError:
            raise
        except Exception as error:  # whatever the user's own model raises
            if self._failures:
                raise self._failures[0] from None
            msg = f"{what} failed in {where}: {graph_reason(error)}"
            raise ModelContractError(msg) from error

    # --- state

    def _variables(self) -> dict[str, Any]:
        """By names that another process gives them too: Keras' own names count the layers of a process."""
        from keras.src.random.seed_generator import global_seed_generator

        model = self.model
        kinds = {"model": model.variables, "optimizer": model.optimizer.variables, "metrics": model.metrics_variables}
        variables = {f"{kind}/{number}": v for kind, of_kind in kinds.items() for number, v in enumerate(of_kind)}
        return {**variables, "random/keras": global_seed_generator().state}

    def state(self) -> State:
        """Weights, optimizer, metrics so far, random number generators, and what callbacks count."""
        arrays = {name: np.asarray(variable) for name, variable in self._variables().items()}
        kind, words, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - what set_random_seed seeds
        del kind
        arrays["random/numpy"] = np.concatenate([np.asarray(words, np.float64), [position, has_gauss, gauss]])
        _, numbers, gauss_next = random.getstate()
        arrays["random/python"] = np.array([*numbers, math.nan if gauss_next is None else gauss_next], np.float64)
        return {**arrays, **callback_state(self.callbacks)}

    def restore(self, state: State) -> None:
        """Go on from a state; :meth:`begin` comes before."""
        variables = self._variables()
        arrays = {name: match(state, name, np.asarray(variable)) for name, variable in variables.items()}
        if extra := [n for n in state if n.split("/")[0] in {"model", "optimizer", "metrics"} and n not in variables]:
            msg = f"the checkpoint is of another model: it has {extra[0]}, which the model lacks"
            raise ModelContractError(msg)
        for name, array in arrays.items():
            variables[name].assign(array)
        *words, position, has_gauss, gauss = state["random/numpy"].tolist()
        np.random.set_state(  # noqa: NPY002 - as above
            ("MT19937", np.array(words, np.uint32), int(position), int(has_gauss), gauss)
        )
        *numbers, gauss_next = state["random/python"].tolist()
        random.setstate((3, tuple(map(int, numbers)), None if np.isnan(gauss_next) else gauss_next))
        restore_callbacks(self.callbacks, state)


def _source_of(learner: weakref.ref[KerasLearner]) -> Callable[[], Iterable[Batch]]:
    """The batches that a learner goes over, of a function that does not keep it alive; see :func:`dataset`."""

    def source() -> Iterable[Batch]:
        found = learner()
        return iter(()) if found is None else found._source  # noqa: SLF001 - of this module

    return source


def dataset(examples: Examples, source: Callable[[], Iterable[Batch]], failures: list[MlaasSparkError]) -> Any:
    """A ``tf.data.Dataset`` of examples; each of its iterators goes over the batches that ``source`` then gives.

    TensorFlow never frees the graph of a data set, and with it the generator's function, that of one training after the
    other (https://github.com/tensorflow/tensorflow/issues/62854): the function must hold nothing that is large. The
    examples know the model, so who made them keeps them alive.

    Args:
        examples: How batches become examples.
        source: Called for each iterator; what it gives is closed at the end.
        failures: Errors of the batches are put here: TensorFlow passes on their text alone.
    """
    import tensorflow as tf

    _, encoded, _ = examples.one()
    layout, weighted, kept = examples.inputs, examples.weighted, weakref.ref(examples)
    width, with_mask = layout.width, layout.kind != "matrix"
    signature = [
        tf.TensorSpec((None, width), tf.float32),
        *([tf.TensorSpec((None, width), tf.uint8)] if with_mask else []),
        tf.TensorSpec((None, *encoded.shape[1:]), tf.as_dtype(encoded.dtype)),
        *([tf.TensorSpec((None,), tf.float32)] if weighted else []),
    ]

    def arrays() -> Generator[tuple[Any, ...], None, None]:
        batches: Any = source()
        examples = kept()
        if examples is None:
            return
        try:
            with closing(batches):
                for batch in batches:
                    made = [batch.matrix, *([batch.mask] if with_mask else []), examples.encode(batch.label)]
                    yield (*made, *([examples.weights(batch)] if weighted else []))
        except MlaasSparkError as error:
            failures.append(error)
            raise

    made = dataset_of(arrays, signature)
    if with_mask:

        def inputs(matrix: Any, mask: Any, *rest: Any) -> tuple[Any, ...]:
            return (layout.tensors(matrix, tf.cast(mask, tf.float32)), *rest)

        made = made.map(inputs)
    return made.prefetch(PREFETCH)


def as_numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as plain numbers."""
    return {name: float(np.asarray(value)) for name, value in logs.items()}
