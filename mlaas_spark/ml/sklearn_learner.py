"""A scikit-learn estimator in training: ``partial_fit`` batch by batch, with a state to save and scores to compare."""

from __future__ import annotations

import inspect
import warnings
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mlaas_spark.errors import MlaasSparkError, ModelContractError, reason
from mlaas_spark.ml import packed
from mlaas_spark.ml.learner import Tally, match

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from mlaas_spark.ml.examples import Examples
    from mlaas_spark.ml.inputs import InputLayout
    from mlaas_spark.ml.learner import AfterBatch, Logs, State
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


class SklearnLearner:
    """Implements :class:`mlaas_spark.ml.learner.Learner` for an estimator with ``partial_fit``.

    The loss of a batch is that before the estimator learned from it, as Keras says it; of the very first, before which
    an estimator has no weights, that after it. It is the log loss where there are probabilities, the hinge loss of
    other classifiers, the squared error of regressors.

    Args:
        model: The estimator.
        examples: What it learns from.
        classes: All classes of the labels, in order; () for a regressor.
    """

    def __init__(self, model: SklearnModel, examples: Examples, classes: Sequence[int]) -> None:
        self.model, self.examples = model, examples
        self._classes = np.array(classes, np.int64)
        self._tally = Tally()
        self._began = hasattr(model.estimator, "n_features_in_")

    @property
    def stopped(self) -> bool:
        """Never: scikit-learn's own early stopping is not for ``partial_fit``."""
        return False

    def begin(self, epochs: int) -> None:
        """There is nothing to make ready."""

    def learn(self, epoch: int, batches: Iterator[Batch], first: int, count: int, after: AfterBatch) -> Logs:
        """Learn from the batches ``first`` up to ``count``; see :class:`~mlaas_spark.ml.learner.Learner`."""
        if not first:
            self._tally = Tally()
        source: Any = batches
        with closing(source):
            for number, batch in zip(range(first, count), source, strict=False):
                x, y, weights = self._example(batch)
                with self._told(f"epoch {epoch}, batch {number}"):
                    if self._began:
                        self._add(self._tally, x, y, weights)
                    learned = self._partial_fit(x, y, weights)
                    if learned and not self._began:
                        self._add(self._tally, x, y, weights)
                self._began = self._began or learned
                after(number, self._tally.logs)
        return self._tally.logs

    def judge(self, batches: Iterable[Batch]) -> Logs:
        """Loss and accuracy of batches that it does not learn from."""
        tally = Tally()
        source: Any = batches
        with closing(source), self._told("validation"):
            for batch in source:
                self._add(tally, *self._example(batch))
        return tally.logs

    def end_epoch(self, epoch: int, row: dict[str, float]) -> None:
        """Nobody is told."""

    def end(self) -> None:
        """Nobody is told."""

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
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", _KNOWN_REMARK, UserWarning)
                yield
        except MlaasSparkError:
            raise
        except Exception as error:  # whatever an estimator raises, the user's own too
            msg = f"the model failed in {where}: {reason(error)}"
            raise ModelContractError(msg) from error

    # --- state

    def state(self) -> State:
        """All numbers of the estimator and its parts, the metrics so far, the random generators."""
        learned = packed.pack(self.model.estimator, "model", _is_part) if self._began else {}
        return {**learned, **self._tally.state(), **packed.generators(), "began": np.array(self._began)}

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
