"""A scikit-learn estimator in training: ``partial_fit`` batch by batch, with a state to save and scores to compare."""

from __future__ import annotations

import inspect
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mlaas_spark.errors import ModelContractError
from mlaas_spark.ml import packed
from mlaas_spark.ml.called import callback_state, restore_callbacks, write_npz
from mlaas_spark.ml.learner import LoopLearner, Tally, match

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy.typing as npt

    from mlaas_spark.ml.examples import Examples
    from mlaas_spark.ml.inputs import InputLayout
    from mlaas_spark.ml.learner import State
    from mlaas_spark.ml.meter import Meter
    from mlaas_spark.ml.stream import Batch

_TINY = 1e-7  # the nearest to 0 and 1 that a probability counts as, as in Keras
# an MLPClassifier with a batch_size of its own, at a last batch that is smaller
_KNOWN_REMARK = "Got `batch_size` less than 1 or larger than sample size"


@dataclass(frozen=True)
class SklearnModel:
    """An estimator of scikit-learn that has ``partial_fit``, as the user's ``model(idim)`` gives it.

    Attributes:
        estimator: It learns in place.
        name: Of the user's file.
    """

    estimator: Any
    name: str

    library: ClassVar[str] = "scikit-learn"

    @classmethod
    def of(cls, estimator: Any, inputs: InputLayout, name: str) -> SklearnModel:
        """The estimator, checked.

        Raises:
            ModelContractError: It cannot learn batch by batch, or cannot take these inputs.
        """
        from sklearn.base import is_classifier, is_regressor

        kind = type(estimator).__name__
        if hasattr(estimator, "steps"):
            msg = (
                f"the model of {name} is a Pipeline, which has no partial_fit: return its last step alone, the events "
                "are normalised already, see features.normalise"
            )
            raise ModelContractError(msg)
        if not hasattr(estimator, "partial_fit") or not (is_classifier(estimator) or is_regressor(estimator)):
            msg = (
                f"the model of {name} is a {kind}, which does not learn to answer batch by batch: return a classifier "
                "or regressor with partial_fit, such as SGDClassifier, SGDRegressor, MLPClassifier or MLPRegressor"
            )
            raise ModelContractError(msg)
        if inputs.kind != "matrix":
            msg = f"the model of {name} is a {kind}, which takes the matrix alone: set train.inputs to matrix"
            raise ModelContractError(msg)
        return cls(estimator, name)

    @property
    def is_classifier(self) -> bool:
        """Whether it gives classes, not numbers."""
        from sklearn.base import is_classifier

        return bool(is_classifier(self.estimator))

    @property
    def takes_weights(self) -> bool:
        """Whether its ``partial_fit`` takes a weight for each event."""
        return "sample_weight" in inspect.signature(self.estimator.partial_fit).parameters

    @property
    def eta0(self) -> float:
        """The learning rate that the next batch begins with.

        Raises:
            ModelContractError: It has none that could be changed on the way.
        """
        schedule = getattr(self.estimator, "learning_rate", None)
        rate = getattr(self.estimator, "eta0", None)
        if isinstance(rate, int | float) and schedule in {None, "constant", "invscaling"}:
            return float(rate)
        kind = type(self.estimator).__name__
        msg = (
            f"{kind} of {self.name} has no learning rate that a callback can lower: SGDClassifier and SGDRegressor "
            'with learning_rate="constant" or "invscaling" and Perceptron have, by eta0'
        )
        raise ModelContractError(msg)

    def scores(self, matrix: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Scores of events, shape (n, K), of an estimator that has learned.

        A classifier's probabilities, of two classes that of label 1, where it has ``predict_proba``. Else, of the
        decision function, of two classes its sigmoid, which is 0.5 where it changes sign, of several its softmax: both
        order as it does. A regressor's predictions.
        """
        matrix = matrix.astype(np.float64)  # else large weights of float32 say it to a few digits only
        if not self.is_classifier:
            predicted = np.asarray(self.estimator.predict(matrix), np.float64)
            return predicted.reshape(len(matrix), -1)
        if hasattr(self.estimator, "predict_proba"):
            probabilities = np.asarray(self.estimator.predict_proba(matrix), np.float64)
            return probabilities[:, 1:] if probabilities.shape[1] == 2 else probabilities
        decision = np.asarray(self.estimator.decision_function(matrix), np.float64)
        if decision.ndim == 1:
            return np.asarray(0.5 * (1 + np.tanh(decision[:, np.newaxis] / 2)))  # the sigmoid, without overflow
        exponential = np.exp(decision - decision.max(axis=1, keepdims=True))
        return np.asarray(exponential / exponential.sum(axis=1, keepdims=True))

    def arrays(self) -> State:
        """What it has learned, by scikit-learn's names: ``coef_``, ``coefs_0`` and so on."""
        found: State = {}
        for name, value in vars(self.estimator).items():
            if not name.endswith("_") or name.startswith("_"):
                continue
            many = isinstance(value, list) and all(isinstance(item, np.ndarray) for item in value)
            for key, array in [(f"{name}{i}", item) for i, item in enumerate(value)] if many else [(name, value)]:
                if isinstance(array, np.ndarray | np.generic | int | float) and np.asarray(array).dtype != object:
                    found[key] = np.asarray(array)
        return found


class SklearnLearner(LoopLearner):
    """Implements :class:`mlaas_spark.ml.learner.Learner` for an estimator with ``partial_fit``.

    The loss of a batch is that before the estimator learned from it, as Keras says it; of the very first, before which
    an estimator has no weights, that after it. It is the log loss where there are probabilities, the hinge loss of
    other classifiers, the squared error of regressors.

    Args:
        model: The estimator.
        examples: What it learns from.
        classes: All classes of the labels, in order; () for a regressor.
        callbacks: Keras callbacks.
        meter: Told what takes how long.
    """

    def __init__(
        self,
        model: SklearnModel,
        examples: Examples,
        classes: Sequence[int],
        callbacks: Sequence[Any] = (),
        meter: Meter | None = None,
    ) -> None:
        super().__init__(callbacks, meter)
        self.model, self.examples = model, examples
        self._classes = np.array(classes, np.int64)
        self._began = hasattr(model.estimator, "n_features_in_")

    def _step(self, epoch: int, number: int, batch: Batch) -> None:
        del epoch, number
        x, y, weights = self._example(batch)
        if self._began:
            self._add(self._tally, x, y, weights)
        learned = self._partial_fit(x, y, weights)
        if learned and not self._began:
            self._add(self._tally, x, y, weights)
        self._began = self._began or learned

    def _count(self, tally: Tally, batch: Batch) -> None:
        self._add(tally, *self._example(batch))

    # --- for callbacks

    def get_weights(self) -> list[npt.NDArray[Any]]:
        """All of the estimator, which is what it is at a batch, as arrays."""
        state = self._packed()
        return [state[name] for name in sorted(state)]

    def set_weights(self, weights: Sequence[npt.NDArray[Any]]) -> None:
        """Go back to what :meth:`get_weights` gave."""
        packed.unpack(dict(zip(sorted(self._packed()), weights, strict=True)), "model", self.model.estimator)

    def save_weights(self, filepath: str, *, overwrite: bool) -> None:
        """Write what it has learned by scikit-learn's names; see ``ml.callbacks``."""
        del overwrite
        write_npz(filepath, self.model.arrays())

    @property
    def learning_rate(self) -> float:
        """``eta0``; ModelContractError of an estimator that has none."""
        return float(self.model.eta0)

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self.model.estimator.eta0 = rate

    # --- examples and losses

    def _example(self, batch: Batch) -> tuple[Any, Any, Any]:
        x, y, *weights = self.examples.of(batch)
        return x, y, weights[0] if weights else None

    def _partial_fit(self, x: Any, y: Any, weights: Any) -> bool:
        """Learn; whether there was something to learn."""
        arguments = {}
        if self.model.is_classifier:
            arguments["classes"] = self._classes
        if weights is not None:
            if not weights.any():
                return False  # scikit-learn refuses events of which none counts
            arguments["sample_weight"] = weights.astype(np.float64)
        self.model.estimator.partial_fit(x, y, **arguments)
        return True

    def _add(self, tally: Tally, x: Any, y: Any, weights: Any) -> None:
        losses, right = losses_of(self.model, x, y)
        tally.add(losses, right, weights)

    @contextmanager
    def _told(self, where: str) -> Generator[None, None, None]:
        with super()._told(where), warnings.catch_warnings():
            warnings.filterwarnings("ignore", _KNOWN_REMARK, UserWarning)
            yield

    # --- state

    def state(self) -> State:
        """All numbers of the estimator and its parts, the metrics so far, the random generators."""
        learned = self._packed() if self._began else {}
        counted = {**self._tally.state(), **callback_state(self.callbacks)}
        return {**learned, **counted, **packed.generators(), "began": np.array(self._began)}

    def _packed(self) -> State:
        return packed.pack(self.model.estimator, "model", _is_part)

    def restore(self, state: State) -> None:
        """Go on from a state."""
        if began := bool(match(state, "began", np.array(False))):  # noqa: FBT003 - an array of it
            self._make_parts()
            packed.unpack(state, "model", self.model.estimator)
            width = self.examples.inputs.width
            if (found := self.model.estimator.n_features_in_) != width:
                msg = f"the checkpoint is of another model: it takes {found} columns, the events have {width}"
                raise ModelContractError(msg)
        self._began = began
        self._tally = Tally.of(state)
        packed.restore_generators(state)
        restore_callbacks(self.callbacks, state)

    def _make_parts(self) -> None:
        """Let the estimator make the objects that a state does not hold: losses, optimizers."""
        if self._began:
            return
        targets = self.examples.targets
        y = self._classes if len(self._classes) else np.zeros((1, targets) if targets > 1 else 1)
        x = np.zeros((len(y), self.examples.inputs.width), np.float32)
        with self._told("restore"):
            self._partial_fit(x, y, None)


def losses_of(model: SklearnModel, x: Any, y: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_] | None]:
    """Loss of each event, shape (n,), and whether its class is right, None of a regressor."""
    estimator, places = model.estimator, np.arange(len(y))
    if not model.is_classifier:
        residual = np.asarray(estimator.predict(x), np.float64).reshape(len(y), -1) - np.reshape(y, (len(y), -1))
        return np.square(residual).mean(axis=1), None
    if hasattr(estimator, "predict_proba"):
        probabilities = np.asarray(estimator.predict_proba(x), np.float64)
        losses = -np.log(np.clip(probabilities[places, y], _TINY, 1 - _TINY))
        return losses, np.asarray(estimator.predict(x)) == y  # not of the largest: several can be as near to 1
    decision = np.asarray(estimator.decision_function(x), np.float64)
    if decision.ndim == 1:
        margin = np.where(y == 1, decision, -decision)
        return np.maximum(0, 1 - margin), (decision > 0) == (y == 1)
    of_class = decision[places, y]
    others = decision.copy()
    others[places, y] = -np.inf
    return np.maximum(0, 1 - (of_class - others.max(axis=1))), decision.argmax(axis=1) == y


def _is_part(value: Any) -> bool:
    """Whether an object belongs to the estimator's state: other estimators, optimizers; not a compiled loss."""
    from sklearn.base import BaseEstimator

    ours = isinstance(value, BaseEstimator) or type(value).__module__.partition(".")[0] == "sklearn"
    return ours and hasattr(value, "__dict__") and not isinstance(value, type)
