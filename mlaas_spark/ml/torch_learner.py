"""A torch module in training: a loop of our own, seeded, with a state to save; torch is an extra, ``[torch]``."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mlaas_spark.errors import ModelContractError, hint, reason
from mlaas_spark.ml import packed
from mlaas_spark.ml.called import callback_state, restore_callbacks, write_npz
from mlaas_spark.ml.learner import LoopLearner, Tally, match

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    import numpy.typing as npt

    from mlaas_spark.config import TrainConfig
    from mlaas_spark.ml.examples import Examples
    from mlaas_spark.ml.inputs import InputLayout
    from mlaas_spark.ml.learner import State
    from mlaas_spark.ml.meter import Meter
    from mlaas_spark.ml.stream import Batch

_SCORED = 4096  # events at a time
Losses = Callable[[Any, Any], Any]

# what makes scores out of the outputs that a loss takes, and the name of such a loss in Keras
_FINISH = {
    "BCEWithLogitsLoss": ("sigmoid", "binary_crossentropy"),
    "binary_cross_entropy_with_logits": ("sigmoid", "binary_crossentropy"),
    "CrossEntropyLoss": ("softmax", "sparse_categorical_crossentropy"),
    "cross_entropy": ("softmax", "sparse_categorical_crossentropy"),
    "NLLLoss": ("exponential", "sparse_categorical_crossentropy"),
    "nll_loss": ("exponential", "sparse_categorical_crossentropy"),
    "BCELoss": ("", "binary_crossentropy"),
    "binary_cross_entropy": ("", "binary_crossentropy"),
    "MSELoss": ("", "mean_squared_error"),
    "mse_loss": ("", "mean_squared_error"),
    "L1Loss": ("", "mean_absolute_error"),
    "l1_loss": ("", "mean_absolute_error"),
    "SmoothL1Loss": ("", "mean_squared_error"),
    "HuberLoss": ("", "mean_squared_error"),
}
LOSSES = tuple(name for name in _FINISH if name.endswith("Loss"))
"""Losses that ``train.loss`` may name."""


@dataclass(frozen=True)
class TorchModel:
    """A module of torch with its loss and optimizer.

    Attributes:
        module: It learns in place.
        losses: Of scores, shape (n, K), and targets: a number for each event, or one for all.
        optimizer: Of the parameters.
        finish: What makes scores out of its outputs: "" (they are the scores), ``sigmoid``, ``softmax`` or
            ``exponential``.
        loss: The name in Keras of a loss that takes the scores; "" where the loss is the user's own.
        name: Of the user's file.
    """

    module: Any
    losses: Losses
    optimizer: Any
    finish: str
    loss: str
    name: str

    library: ClassVar[str] = "torch"

    @classmethod
    def of(cls, module: Any, namespace: Mapping[str, Any], config: TrainConfig, name: str) -> TorchModel:
        """The module with what the config, or else the file, names as loss and optimizer.

        Args:
            module: What ``model`` returned.
            namespace: Names of the user's file: ``loss`` and ``optimizer`` may be there.
            config: ``loss`` and ``optimizer`` of it come before those of the file.
            name: Of the file.

        Raises:
            ModelContractError: There is none, or torch has none of that name, or not with those settings.
        """
        if not any(parameter.requires_grad for parameter in module.parameters()):
            msg = f"the model of {name} has no weights to train"
            raise ModelContractError(msg)
        losses, kind = _losses(namespace.get("loss"), config.loss, name)
        finish, keras_name = _FINISH.get(kind, ("", ""))
        optimizer = _optimizer(module, namespace.get("optimizer"), config.optimizer, name)
        _set_learning_rate(optimizer, config.learning_rate)
        return cls(module, losses, optimizer, finish, keras_name, name)

    def output_width(self, inputs: InputLayout) -> int:
        """K, the number of outputs.

        Raises:
            ModelContractError: It does not take the inputs, or does not give (n, K).
        """
        nothing = np.zeros((2, inputs.width), np.float32), np.zeros((2, inputs.width), np.uint8)
        try:
            outputs = self.outputs(inputs.arrays(*nothing))
        except Exception as error:  # whatever the user's module raises
            msg = f"the model of {self.name} does not take events of W = {inputs.width} columns: {reason(error)}"
            raise ModelContractError(msg) from error
        if outputs.ndim != 2 or len(outputs) != 2:
            msg = f"the model of {self.name} gives {outputs.shape} for 2 events, it must give (2, K): K scores an event"
            raise ModelContractError(msg)
        return int(outputs.shape[1])

    def outputs(self, arrays: Any) -> npt.NDArray[np.float32]:
        """What the module gives for inputs, without learning."""
        import torch

        training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                return np.asarray(self.module(tensors(arrays)).numpy())
        finally:
            self.module.train(training)

    def scores(self, arrays: Any) -> npt.NDArray[np.float64]:
        """Scores of events, shape (n, K)."""
        return finished(self.outputs(arrays), self.finish)

    def arrays(self) -> State:
        """The module's ``state_dict``."""
        return {name: np.asarray(value.detach().numpy()) for name, value in self.module.state_dict().items()}


def finished(outputs: npt.NDArray[Any], finish: str) -> npt.NDArray[np.float64]:
    """Scores out of what a module gives."""
    found = outputs.astype(np.float64)
    if finish == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh(found / 2)))
    if finish == "softmax":
        exponential = np.exp(found - found.max(axis=1, keepdims=True))
        return np.asarray(exponential / exponential.sum(axis=1, keepdims=True))
    return np.asarray(np.exp(found)) if finish == "exponential" else found


def tensors(arrays: Any) -> Any:
    """Tensors of an array, a tuple of them or a dict of them; they share its memory where they can."""
    import torch

    if isinstance(arrays, dict):
        return {name: tensors(array) for name, array in arrays.items()}
    if isinstance(arrays, tuple):
        return tuple(map(tensors, arrays))
    array = np.ascontiguousarray(arrays)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _losses(own: Any, wanted: Mapping[str, Mapping[str, Any]] | None, name: str) -> tuple[Losses, str]:
    """The loss, for each event where it can be, and its name in torch."""
    import torch

    if wanted:
        ((kind, settings),) = wanted.items()
        if kind not in LOSSES:
            msg = f"train.loss: {kind} is no loss of torch for events with scores{hint(kind, LOSSES)}"
            raise ModelContractError(msg)
        try:
            return getattr(torch.nn, kind)(**_as_tensors(settings), reduction="none"), kind
        except (TypeError, ValueError) as error:
            msg = f"train.loss: {kind} of torch does not take {dict(settings)}: {reason(error)}"
            raise ModelContractError(msg) from error
    if own is None:
        msg = (
            f"the model of {name} is one of torch, and there is no loss: write train.loss: BCEWithLogitsLoss (one "
            "output without sigmoid), CrossEntropyLoss (an output for each class) or MSELoss (numbers) in the config, "
            "or loss(scores, targets) in the file"
        )
        raise ModelContractError(msg)
    if isinstance(own, type):
        own = own()
    if isinstance(own, torch.nn.Module):
        if hasattr(own, "reduction"):
            own = copy.copy(own)
            own.reduction = "none"
        return own, type(own).__name__
    if not callable(own):
        msg = f"loss of {name} is a {type(own).__name__}: make it loss(scores, targets), or a loss of torch.nn"
        raise ModelContractError(msg)
    if "reduction" in inspect.signature(own).parameters:
        return lambda scores, targets: own(scores, targets, reduction="none"), getattr(own, "__name__", "")
    return own, ""


def _as_tensors(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a loss; lists of numbers are tensors there (``weight``, ``pos_weight``)."""
    import torch

    return {
        name: torch.tensor(value, dtype=torch.float32)
        if isinstance(value, list) or name in {"weight", "pos_weight"}
        else value
        for name, value in settings.items()
    }


def _optimizer(module: Any, own: Any, wanted: Mapping[str, Mapping[str, Any]] | None, name: str) -> Any:
    import torch

    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    kinds = {
        kind: of
        for kind, of in vars(torch.optim).items()
        if isinstance(of, type) and issubclass(of, torch.optim.Optimizer) and of is not torch.optim.Optimizer
    }
    try:
        if wanted:
            ((kind, settings),) = wanted.items()
            if kind not in kinds:
                msg = f"train.optimizer: torch.optim has no {kind}{hint(kind, kinds)}"
                raise ModelContractError(msg)
            where = f"train.optimizer: {kind} of torch with {dict(settings)}"
            # the betas of Adam are a tuple, which YAML has not
            return kinds[kind](
                parameters, **{key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}
            )
        where = f"optimizer of {name}"
        made = own(parameters) if own is not None else None
    except (TypeError, ValueError) as error:
        msg = f"{where} failed: {reason(error)}"
        raise ModelContractError(msg) from error
    if not isinstance(made, torch.optim.Optimizer):
        found = "there is no optimizer" if own is None else f"its optimizer gives a {type(made).__name__}"
        msg = (
            f"the model of {name} is one of torch, and {found}: write train.optimizer: {{Adam: {{lr: 0.001}}}} in the "
            "config, or optimizer(parameters) in the file, which returns one of torch.optim"
        )
        raise ModelContractError(msg)
    return made


def _set_learning_rate(optimizer: Any, rate: float | Mapping[str, Any] | None) -> None:
    if isinstance(rate, Mapping):
        msg = f"train.learning_rate: {next(iter(rate))} is a schedule of Keras, a torch model takes a number"
        raise ModelContractError(msg)
    for group in optimizer.param_groups if rate is not None else ():
        group["lr"] = rate


class TorchLearner(LoopLearner):
    """Implements :class:`mlaas_spark.ml.learner.Learner` for a torch module.

    The loss is the mean of the events' losses, each times its weight, as in Keras.

    Args:
        model: The module, its loss and optimizer.
        examples: What it learns from.
        classes: Whether it learns classes, whose accuracy is reported.
        callbacks: Keras callbacks.
        meter: Told what takes how long.
    """

    def __init__(
        self,
        model: TorchModel,
        examples: Examples,
        *,
        classes: bool,
        callbacks: Sequence[Any] = (),
        meter: Meter | None = None,
    ) -> None:
        super().__init__(callbacks, meter)
        self.model, self.examples = model, examples
        self._classes = classes

    def _batches(self, source: Iterator[Batch], first: int, count: int) -> Iterator[tuple[int, Any]]:
        self.model.module.train()
        return super()._batches(source, first, count)

    def _step(self, epoch: int, number: int, batch: Batch) -> None:
        del epoch, number
        x, y, weights = self._example(batch)
        optimizer = self.model.optimizer

        def loss() -> Any:
            optimizer.zero_grad()
            mean, _, _ = self._losses(self.model.module(x), y, weights)
            mean.backward()
            return mean

        optimizer.zero_grad()
        mean, losses, right = self._losses(self.model.module(x), y, weights)
        mean.backward()
        self._tally.add(losses, right, None if weights is None else weights.numpy())
        step(optimizer, loss)

    def _count(self, tally: Tally, batch: Batch) -> None:
        x, y, weights = self._example(batch)
        _, losses, right = self._losses(self.model.module(x), y, weights)
        tally.add(losses, right, None if weights is None else weights.numpy())

    @contextmanager
    def _without_learning(self) -> Generator[None, None, None]:
        import torch

        self.model.module.eval()
        with torch.no_grad():
            yield

    def end(self) -> None:
        """As the base; of use without learning from here on."""
        super().end()
        self.model.module.eval()

    # --- for callbacks

    def get_weights(self) -> list[npt.NDArray[Any]]:
        """Copies of parameters and buffers."""
        return [tensor.detach().numpy().copy() for tensor in self._tensors().values()]

    def set_weights(self, weights: Sequence[npt.NDArray[Any]]) -> None:
        """Go back to what :meth:`get_weights` gave."""
        import torch

        with torch.no_grad():
            for tensor, array in zip(self._tensors().values(), weights, strict=True):
                tensor.copy_(torch.from_numpy(array.copy()))

    def save_weights(self, filepath: str, *, overwrite: bool) -> None:
        """Write the ``state_dict``; see ``ml.callbacks``."""
        del overwrite
        write_npz(filepath, self.model.arrays())

    @property
    def learning_rate(self) -> float:
        """Of the optimizer's first group."""
        return float(self.model.optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        before = self.learning_rate
        for group in self.model.optimizer.param_groups:  # those with a rate of their own keep their ratio
            group["lr"] = group["lr"] * rate / before

    # --- examples and losses

    def _example(self, batch: Batch) -> tuple[Any, Any, Any]:
        """Inputs, targets and weights as tensors; targets of one output have shape (n, 1), as the scores."""
        x, y, *weights = self.examples.of(batch)
        y = y.astype(np.int64) if np.issubdtype(y.dtype, np.integer) else y.astype(np.float32).reshape(len(y), -1)
        return tensors(x), tensors(y), tensors(weights[0]) if weights else None

    def _losses(self, outputs: Any, y: Any, weights: Any) -> tuple[Any, npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
        """The loss to go down, and of each event its loss and whether its class is right, from what the module gave."""
        losses = self.model.losses(outputs, y)
        if losses.ndim == 0:
            if weights is not None:
                msg = (
                    f"the loss of {self.model.name} is one number for all events, and they have weights: give it the "
                    "parameter reduction, as torch's own have, or return the losses of the events, shape (n,)"
                )
                raise ModelContractError(msg)
            losses = losses.expand(len(y))
        losses = losses.reshape(len(y), -1).mean(dim=1)
        mean = (losses if weights is None else losses * weights).mean()
        right = None
        if self._classes:
            scores = finished(outputs.detach().numpy(), self.model.finish)
            labels = y.numpy()
            if labels.ndim == 2:  # of one output, or one-hot
                labels = labels[:, 0] > 0.5 if labels.shape[1] == 1 else labels.argmax(axis=1)
            right = (scores[:, 0] > 0.5 if scores.shape[1] == 1 else scores.argmax(axis=1)) == labels
        return mean, losses.detach().numpy(), right

    # --- state

    def _tensors(self) -> dict[str, Any]:
        module = self.model.module
        named = {f"model/{name}": parameter for name, parameter in module.named_parameters()}
        return {**named, **{f"model/{name}": buffer for name, buffer in module.named_buffers()}}

    def state(self) -> State:
        """Parameters, buffers, optimizer, the metrics so far, random generators of torch, numpy and Python."""
        import torch

        return {
            **{name: tensor.detach().numpy().copy() for name, tensor in self._tensors().items()},
            **packed.pack(self.model.optimizer.state_dict(), "optimizer"),
            **packed.generators(),
            **self._tally.state(),
            **callback_state(self.callbacks),
            "random/torch": torch.get_rng_state().numpy().copy(),
        }

    def restore(self, state: State) -> None:
        """Go on from a state."""
        import torch

        named = self._tensors()
        arrays = {name: match(state, name, tensor.detach().numpy()) for name, tensor in named.items()}
        if extra := [name for name in state if name.startswith("model/") and name not in named]:
            msg = f"the checkpoint is of another model: it has {extra[0]}, which the model lacks"
            raise ModelContractError(msg)
        optimizer = packed.unpack(state, "optimizer", None)
        self._tally = Tally.of(state)
        with torch.no_grad():
            for name, array in arrays.items():
                named[name].copy_(torch.from_numpy(array.copy()))
        with self._told("restoring the optimizer"):
            self.model.optimizer.load_state_dict(optimizer)
        packed.restore_generators(state)
        restore_callbacks(self.callbacks, state)
        torch.set_rng_state(torch.from_numpy(match(state, "random/torch", torch.get_rng_state().numpy()).copy()))


def step(optimizer: Any, loss: Callable[[], Any]) -> None:
    """Let an optimizer make its step; one as LBFGS asks for the loss, and new gradients, again."""
    parameter = inspect.signature(type(optimizer).step).parameters.get("closure")
    if parameter is not None and parameter.default is inspect.Parameter.empty:
        optimizer.step(loss)
    else:
        optimizer.step()
