"""A Keras model in training on several workers at once: each has a part of every batch, all make the same step."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.errors import ModelContractError
from mlaas_spark.ml import gloo
from mlaas_spark.ml.keras_learner import KerasLearner, as_numbers
from mlaas_spark.ml.meter import FIT, HANDED, TOGETHER
from mlaas_spark.ml.torch_learner import TorchModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlaas_spark.ml.examples import Examples
    from mlaas_spark.ml.group import Group
    from mlaas_spark.ml.learner import Logs, State
    from mlaas_spark.ml.meter import Meter

_MEANS = {"sum_over_batch_size", "mean"}


class ParallelLearner(KerasLearner):
    """The learner of one worker of a group.

    The model's ``train_step``, its own or Keras', runs on the worker's part of a batch; what it hands to the optimizer
    is kept back. The gradient of the mean loss of the whole batch is the mean of those of the parts, weighted by their
    events: so with regularisation too. The optimizer, the same on each worker, then makes the step. Weights that
    are not trained (moving averages of batch normalisation) become the mean in the same way; what metrics count is
    added up. A worker without events in a batch takes part with a share of 0.

    Args:
        model: The compiled model, built.
        examples: What it learns from.
        group: The workers.
        start: The state that all of them begin with.
        callbacks: Keras callbacks.
        meter: Told what takes how long.
    """

    def __init__(
        self,
        model: Any,
        examples: Examples,
        group: Group,
        start: State,
        callbacks: Sequence[Any] = (),
        meter: Meter | None = None,
    ) -> None:
        super().__init__(model, examples, callbacks, meter=meter)
        self.group, self._start = group, start
        self._leave = False
        self._learns: Any = None
        self._applies: Any = None
        self._nothing: Any = None
        self._number: Any = None

    def begin(self, epochs: int) -> None:
        """As the base; from the state that all begin with."""
        super().begin(epochs)
        self.restore(self._start)
        self._make_step()

    def restore(self, state: State) -> None:
        """As the base; but workers draw random numbers of their own, for dropout, from the one state."""
        super().restore(state)
        from keras.src.random.seed_generator import global_seed_generator

        weights = {id(variable) for variable in self.model.weights}
        drawn = [variable for variable in self.model.variables if id(variable) not in weights]
        for variable in [*drawn, global_seed_generator().state]:
            value = np.asarray(variable)  # seed and how many were drawn
            if value.shape == (2,) and np.issubdtype(value.dtype, np.integer):
                variable.assign(value + np.array([self.group.rank, 0], value.dtype))

    def _make_step(self) -> None:
        """The two halves of a step, between which the workers add up what they have."""
        import tensorflow as tf

        model = self.model
        counted = list(model.metrics_variables)
        averaged = [v for v in model.non_trainable_weights if tf.as_dtype(v.dtype).is_floating]
        wide = any(v.dtype == "float64" for v in model.weights)
        number = tf.float64 if wide else tf.float32
        taught: list[Any] = []

        def flat(values: list[Any]) -> list[Any]:
            return [tf.reshape(tf.cast(tf.convert_to_tensor(value), number), [-1]) for value in values]

        def learns(data: Any, events: Any, leaves: Any) -> tuple[Any, list[Any]]:
            before = [tf.identity(variable.value) for variable in counted]
            for variable in counted:
                variable.assign(tf.zeros_like(variable.value))
            with _kept_back(model.optimizer) as kept:
                model.train_step(data)
            if len(kept) != 1:
                msg = (
                    f"its train_step calls the optimizer {len(kept)} times a batch: with train.workers above 1 it must "
                    "call it once, for gradients of the mean loss of the batch"
                )
                raise ModelContractError(msg)
            gradients, variables = kept[0]
            taught[:] = [v for g, v in zip(gradients, variables, strict=True) if g is not None]
            mean = flat([g for g in gradients if g is not None]) + flat([v.value for v in averaged])
            # 0 for a worker without events, whatever its model says of a batch that is none
            parts = [tf.math.multiply_no_nan(part, events) for part in mean]
            parts += [tf.math.multiply_no_nan(part, tf.minimum(events, 1)) for part in flat([v.value for v in counted])]
            return tf.concat([[events, leaves], *parts], 0), before

        def applies(total: Any, before: list[Any]) -> Any:
            sizes = [int(np.prod(v.shape)) for v in (*taught, *averaged, *counted)]
            *parts, end = tf.split(total[2:], [*sizes, 0])
            del end
            means, counts = parts[: len(taught) + len(averaged)], parts[len(taught) + len(averaged) :]
            values = [
                tf.cast(tf.reshape(part / total[0], v.shape), v.dtype)
                for part, v in zip(means, (*taught, *averaged), strict=True)
            ]
            model.optimizer.apply(values[: len(taught)], taught)
            for variable, value in zip(averaged, values[len(taught) :], strict=True):
                variable.assign(value)
            for variable, count, value in zip(counted, counts, before, strict=True):
                variable.assign(value + tf.cast(tf.reshape(count, variable.shape), variable.dtype))
            return model.get_metrics_result()

        spec = self._dataset.element_spec
        x, y, weight = self.examples.one()
        one = (x, y) if weight is None else (x, y, weight)
        self._nothing = tf.nest.map_structure(lambda like, value: tf.cast(value, like.dtype), spec, one)
        self._number = number.as_numpy_dtype
        self._learns = tf.function(learns, input_signature=[spec, *[tf.TensorSpec((), number)] * 2])
        self._applies = tf.function(applies)

    def _learned(self, iterator: Iterator[Any]) -> Logs:
        """As the base, of a step of all workers: who has no batch any more takes part."""
        import tensorflow as tf

        with self.meter.timed(HANDED):
            data = next(iterator, None)
        events = 0 if data is None else int(tf.nest.flatten(data)[0].shape[0])
        leaves = float(self.model.stop_training)
        shown = self._nothing if data is None else data
        with self._stepping():
            part, before = self._learns(shown, self._number(events), self._number(leaves))
            mine = part.numpy()
        with self.meter.timed(TOGETHER):
            total = self.group.total(mine)
        self._leave = bool(total[1])
        with self.meter.timed(FIT):
            return as_numbers(self._applies(tf.constant(total), before))

    def _leaves(self) -> bool:
        return self._leave  # all at once: who has asked for it has told the others in this step

    def _judged(self, logs: Logs) -> Logs:
        del logs
        counted = self.model.metrics_variables
        values = [np.asarray(variable) for variable in counted]
        parts = [value.astype(np.float64).reshape(-1) for value in values]
        total = self.group.total(np.concatenate([np.zeros(0), *parts]))
        edges = np.cumsum([part.size for part in parts])[:-1]
        for variable, value, part in zip(counted, values, np.split(total, edges), strict=True):
            variable.assign(part.reshape(value.shape).astype(value.dtype))
        return as_numbers(self.model.get_metrics_result())

    def end_epoch(self, epoch: int, row: dict[str, float]) -> None:
        """As the base; all workers stop if one is told to, and have equal weights."""
        super().end_epoch(epoch, row)
        self.model.stop_training = bool(self.group.total(np.array([float(self.stopped)]))[0])
        self.group.check_equal(self.model.weights, f"epoch {epoch}")

    def end(self) -> None:
        """As the base; the workers have equal weights."""
        super().end()
        self.group.check_equal(self.model.weights, "the training")


@contextmanager
def _kept_back(optimizer: Any) -> Iterator[list[tuple[list[Any], list[Any]]]]:
    """What an optimizer is asked to apply, which it does not: gradients and their variables, of each call."""
    kept: list[tuple[list[Any], list[Any]]] = []

    def keep(grads: Any, trainable_variables: Any = None) -> None:
        variables = optimizer._trainable_variables if trainable_variables is None else trainable_variables  # noqa: SLF001
        kept.append((list(grads), list(variables)))

    object.__setattr__(optimizer, "apply", keep)
    try:
        yield kept
    finally:
        object.__delattr__(optimizer, "apply")


def check_parallel(model: Any) -> None:
    """The model can be trained by several workers.

    Raises:
        ModelContractError: It is one of scikit-learn, or of a torch without gloo; it has a ``fit`` of its own, or a
            loss that is no mean over a batch.
    """
    from mlaas_spark.ml.model import is_keras
    from mlaas_spark.ml.own_fit import has_own_fit

    if isinstance(model, TorchModel):
        gloo.check_available()
        return
    if not is_keras(model):
        msg = (
            f"the model of {model.name} is one of {model.library}, workers train models of Keras and torch: set "
            "train.workers to 1"
        )
        raise ModelContractError(msg)
    if has_own_fit(model):
        msg = (
            f"{type(model).__name__} has a fit of its own, which trains as it likes: set train.workers to 1, or move "
            "what it does into train_step"
        )
        raise ModelContractError(msg)
    losses = model.loss if isinstance(model.loss, list | tuple) else [model.loss]
    for loss in model.loss.values() if isinstance(model.loss, dict) else losses:
        kind = getattr(loss, "reduction", "mean")
        if kind not in _MEANS:
            msg = (
                f"the loss {getattr(loss, 'name', loss)} has the reduction {kind!r}: with train.workers above 1 it "
                "must be 'sum_over_batch_size', the mean over the events of a batch"
            )
            raise ModelContractError(msg)
