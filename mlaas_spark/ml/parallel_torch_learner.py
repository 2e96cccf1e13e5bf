"""A torch module in training on several workers at once, by torch's DistributedDataParallel over gloo."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.ml import gloo
from mlaas_spark.ml.learner import Tally
from mlaas_spark.ml.stream import Batch
from mlaas_spark.ml.torch_learner import TorchLearner, step

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    import numpy.typing as npt

    from mlaas_spark.ml.examples import Examples
    from mlaas_spark.ml.group import Group
    from mlaas_spark.ml.learner import State
    from mlaas_spark.ml.meter import Meter
    from mlaas_spark.ml.torch_learner import TorchModel

_LEAST = 2  # events that a worker shows its module: batch normalisation refuses one
_TWICE = np.zeros(2, np.int64)  # a lone event, whose mean loss and its gradient stay what they are


class ParallelTorchLearner(TorchLearner):
    """The learner of one worker of a group, between ``gloo.joined``.

    DistributedDataParallel makes each gradient the mean over the workers. Of events it would count those of a shorter
    part of a batch for more; so the loss of each worker is scaled by its share of the batch's events times the number
    of workers, which gives the gradient of the mean loss of the whole batch. A worker without events takes part with a
    gradient of 0, one with a single event shows it twice, for batch normalisation. Buffers (moving averages of batch
    normalisation) become the mean over the events; what is counted is that of all events. Random numbers, for dropout,
    depend on seed, worker, pass and batch alone, so that a resumed training draws the same.

    Args:
        model: The module, its loss and optimizer.
        examples: What it learns from.
        group: The workers.
        start: The state that all of them begin with.
        seed: Of random numbers.
        classes: Whether it learns classes, whose accuracy is reported.
        callbacks: Keras callbacks.
        meter: Told what takes how long; what workers wait for each other is in the fit.
    """

    def __init__(
        self,
        model: TorchModel,
        examples: Examples,
        group: Group,
        start: State,
        seed: int,
        *,
        classes: bool,
        callbacks: Sequence[Any] = (),
        meter: Meter | None = None,
    ) -> None:
        super().__init__(model, examples, classes=classes, callbacks=callbacks, meter=meter)
        self.group, self._start, self._seed = group, start, seed
        self._forward: Any = model.module

    def begin(self, epochs: int) -> None:
        """As the base; from the state that all begin with."""
        from torch.nn.parallel import DistributedDataParallel

        super().begin(epochs)
        self.restore(self._start)
        with gloo.told(self.group):
            self._forward = DistributedDataParallel(
                self.model.module,
                broadcast_buffers=False,
                find_unused_parameters=True,  # which of them a module uses may depend on the events
            )

    def _batches(self, source: Iterator[Batch], first: int, count: int) -> Iterator[tuple[int, Any]]:
        self.model.module.train()
        return ((number, next(source, None)) for number in range(first, count))

    def _step(self, epoch: int, number: int, batch: Batch | None) -> None:
        import torch

        words = np.random.SeedSequence([self._seed, self.group.rank, epoch, number]).generate_state(2)
        torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
        events = 0 if batch is None else len(batch)
        shown = self._nothing() if batch is None else batch if events >= _LEAST else batch.take(_TWICE)
        x, y, weights = self._example(shown)
        optimizer = self.model.optimizer
        whole = int(gloo.total(np.array([events], np.float64))[0])
        share = events / whole

        def learn() -> tuple[Any, npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
            optimizer.zero_grad()
            outputs = self._forward(x)
            if batch is None:
                nothing = outputs.sum() * 0.0
                nothing.backward()
                return nothing, np.zeros(0), None
            mean, losses, right = self._losses(outputs, y, weights)
            (mean * (share * self.group.size)).backward()
            return mean, losses, right

        def loss() -> Any:
            mean, _, _ = learn()
            return torch.tensor(gloo.total(np.array([float(mean) * share]))[0])

        _, losses, right = learn()
        step(optimizer, loss)
        counted = Tally()
        if batch is not None:
            weighed = None if weights is None else weights.numpy()[:events]
            counted.add(losses[:events], None if right is None else right[:events], weighed)
        self._share_buffers(share)
        self._add(self._tally, counted)

    def _share_buffers(self, share: float) -> None:
        """Let buffers be the mean over the events of the batch."""
        import torch

        averaged = [buffer for buffer in self.model.module.buffers() if buffer.is_floating_point()]
        if not averaged:
            return
        flat = np.concatenate([buffer.numpy().astype(np.float64).reshape(-1) for buffer in averaged])
        means = gloo.total(flat * share if share else np.zeros_like(flat))  # whatever they have become without events
        edges = np.cumsum([buffer.numel() for buffer in averaged])[:-1]
        with torch.no_grad():
            for buffer, mean in zip(averaged, np.split(means, edges), strict=True):
                buffer.copy_(torch.from_numpy(mean).reshape(buffer.shape))

    def _add(self, tally: Tally, counted: Tally) -> None:
        """Add to a tally what all workers have counted."""
        events, loss, right = gloo.total(np.array([counted.events, counted.loss, counted.right or 0], np.float64))
        tally.events += int(events)
        tally.loss += float(loss)
        if self._classes:
            tally.right = (tally.right or 0) + int(right)

    def _nothing(self) -> Batch:
        width, targets = self.examples.inputs.width, self.examples.targets
        label = np.zeros((_LEAST, targets) if targets > 1 else _LEAST, np.float32)
        shape = (_LEAST, width)
        return Batch(np.zeros(shape, np.float32), np.zeros(shape, np.uint8), label, np.ones(_LEAST, np.float32))

    def _judged(self, tally: Tally) -> Tally:
        whole = Tally()
        self._add(whole, tally)
        return whole

    def end_epoch(self, epoch: int, row: dict[str, float]) -> None:
        """As the base; the workers have equal weights."""
        super().end_epoch(epoch, row)
        self.group.check_equal(self.get_weights(), f"epoch {epoch}")

    def end(self) -> None:
        """As the base; the workers have equal weights."""
        super().end()
        self.group.check_equal(self.get_weights(), "the training")

    @contextmanager
    def _told(self, where: str) -> Generator[None, None, None]:
        with super()._told(where), gloo.told(self.group):
            yield
