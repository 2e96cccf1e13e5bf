"""Checkpoints of a training: all that is needed to go on from a batch, written whole or not at all.

Each is a folder ``step-NNNNNNNNNN`` with ``state.npz`` (arrays) and ``checkpoint.json`` (position, history so far, what
was trained on what, and the SHA-256 of the arrays). The last two are kept: should the newest be damaged, the one before
is used. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import time
import uuid
import zipfile
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from mlaas_spark import storage
from mlaas_spark.errors import ChunkError, MlaasSparkError, ModelContractError, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mlaas_spark.config import CheckpointConfig
    from mlaas_spark.ml.learner import State

_log = logging.getLogger("mlaas_spark")

VERSION = 1
_ARRAYS, _ABOUT = "state.npz", "checkpoint.json"


@dataclass(frozen=True, slots=True)
class Position:
    """How far a training is.

    Attributes:
        turn: Passes that are done: epochs, or in mode chunks epochs of chunks.
        batch: Batches of the pass after them that are done.
        step: Batches that are done in all.
    """

    turn: int = 0
    batch: int = 0
    step: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """A training at a batch.

    Attributes:
        position: Where.
        rows: The history so far.
        identity: What trains on what, by name; a training goes on only from its own.
        state: Of the model, see :meth:`mlaas_spark.ml.learner.Learner.state`.
    """

    position: Position
    rows: tuple[dict[str, float], ...]
    identity: Mapping[str, str]
    state: State

    def check_identity(self, wanted: Mapping[str, str], where: str) -> None:
        """It is of this training.

        Raises:
            ModelContractError: It is not; all that differs is named.
        """
        differs = [name for name in wanted if self.identity.get(name) != wanted[name]]
        if differs:
            shown = "; ".join(f"{name}: {self.identity.get(name, 'not known')} -> {wanted[name]}" for name in differs)
            msg = (
                f"cannot resume from {where}, it is of another training: {shown}. Train without --resume to begin anew"
            )
            raise ModelContractError(msg)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training, in a folder that may be on a server."""

    folder: str
    keep: int = 2

    def write(self, checkpoint: Checkpoint) -> None:
        """Write it whole, then remove those that are older than the ``keep`` newest.

        Raises:
            UnwritableOutputError: It cannot be written; those before are still there.
        """
        arrays = io.BytesIO()
        np.savez(arrays, **checkpoint.state)
        content = arrays.getvalue()
        about = {
            "mlaas_spark": VERSION,
            "position": asdict(checkpoint.position),
            "rows": list(checkpoint.rows),
            "identity": dict(checkpoint.identity),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        name = f"step-{checkpoint.position.step:010d}"
        target = storage.join(self.folder, name)
        if storage.exists(target):
            return  # of the same training: the same
        texts = {_ARRAYS: content, _ABOUT: json.dumps(about).encode()}
        self._publish(target, texts)
        for old in sorted(self.names())[: -self.keep]:
            storage.remove(storage.join(self.folder, old))

    def _publish(self, target: str, files: Mapping[str, bytes]) -> None:
        unfinished = storage.join(self.folder, f".unfinished-{uuid.uuid4().hex}")
        storage.make_folder(unfinished)
        local = storage.local_path(unfinished)
        try:
            with storage.writing(unfinished):
                for name, content in files.items():
                    if local is None:
                        storage.write_atomic(storage.join(unfinished, name), content)
                    else:
                        _write_through(local / name, content)
                if local is not None:
                    _sync(local)
            storage.publish_folder(target, unfinished)
            if local is not None:
                _sync(local.parent)
        except BaseException:
            if local is not None:
                shutil.rmtree(local, ignore_errors=True)
                storage.remove_empty(self.folder)  # of the first one there is nothing
                storage.remove_empty(self.folder.rpartition("/")[0])
            raise

    def newest(self) -> Checkpoint | None:
        """The newest that is whole, None if there is none; one that is not is said."""
        for name in sorted(self.names(), reverse=True):
            try:
                return self._read(storage.join(self.folder, name))
            except ChunkError as error:
                _log.warning("%s; the checkpoint before it is used", error)
        return None

    def _read(self, folder: str) -> Checkpoint:
        try:
            about = json.loads(storage.read_bytes(storage.join(folder, _ABOUT)))
            content = storage.read_bytes(storage.join(folder, _ARRAYS))
            if about["mlaas_spark"] != VERSION:
                msg = f"{folder} is a checkpoint of format {about['mlaas_spark']}, this program reads {VERSION}"
                raise ChunkError(msg)
            if hashlib.sha256(content).hexdigest() != about["sha256"]:
                msg = f"the checkpoint {folder} is damaged: its arrays are not those that were written"
                raise ChunkError(msg)
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                state = {name: arrays[name] for name in arrays.files}
            position = Position(**about["position"])
            return Checkpoint(position, tuple(about["rows"]), about["identity"], state)
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            msg = f"the checkpoint {folder} cannot be read: {reason(error)}"
            raise ChunkError(msg) from error
        except MlaasSparkError as error:
            if isinstance(error, ChunkError):
                raise
            msg = f"the checkpoint {folder} cannot be read: {error}"
            raise ChunkError(msg) from error

    def names(self) -> list[str]:
        """Of all that are there."""
        if not storage.exists(self.folder):
            return []
        return [name for name in storage.children(self.folder) if name.startswith("step-")]

    def remove(self) -> None:
        """All of them, their folder, and the one it lies in if it has no others: the training is done."""
        storage.remove(self.folder)
        storage.remove_empty(self.folder.rpartition("/")[0])


@dataclass
class Keeper:
    """Writes checkpoints of a training when one is due.

    Attributes:
        checkpoints: Where.
        identity: What trains on what.
        config: When.
        resumed: What to go on from.
        clock: Seconds.
    """

    checkpoints: Checkpoints
    identity: Mapping[str, str]
    config: CheckpointConfig
    resumed: Checkpoint | None = None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.written = self.resumed is not None
        self._last = self.clock()
        self._step = self.resumed.position.step if self.resumed else 0

    @classmethod
    def of(cls, folder: str, identity: Mapping[str, str], config: CheckpointConfig, *, resume: bool) -> Self:
        """A keeper for a training, which goes on from the newest checkpoint in the folder if it is to ``resume``.

        Raises:
            ModelContractError: It is of another training.
        """
        checkpoints = Checkpoints(folder, config.keep)
        found = checkpoints.newest() if resume else None
        if found is not None:
            found.check_identity(identity, folder)
        return cls(checkpoints, identity, config, found)

    def due(self, step: int) -> bool:
        """Whether so many batches or seconds have passed since the last one."""
        by_steps = self.config.steps is not None and step - self._step >= self.config.steps
        return by_steps or (self.config.seconds is not None and self.clock() - self._last >= self.config.seconds)

    def keep(self, position: Position, rows: tuple[dict[str, float], ...], state: State) -> None:
        """Write a checkpoint."""
        self.checkpoints.write(Checkpoint(position, rows, self.identity, state))
        self._last, self._step, self.written = self.clock(), position.step, True


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    """A renamed file is there after a power cut only if its folder was written too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
