"""One worker of a training on a cluster: a process of its own, started and heard by a Spark task.

A process of its own, because TensorFlow must be told its threads before it begins, because Spark uses its Python
workers again, and because a model that crashes the process must leave the task to say so. They talk by lines of JSON on
the process' standard input and output: what to do; where worker 0 listens; where all are; the result or the error.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from mlaas_spark import storage
from mlaas_spark.config import TrainConfig
from mlaas_spark.errors import (
    ChunkError,
    MlaasSparkError,
    ModelContractError,
    UnreadableInputError,
    UnwritableOutputError,
    from_text,
    reason,
    to_text,
)
from mlaas_spark.filesets import MANIFEST
from mlaas_spark.ml.group import Group, listen
from mlaas_spark.transform import FeatureTransform
from mlaas_spark.usercode import UserFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlaas_spark.ml.checkpoint import Keeper
    from mlaas_spark.ml.learner import State
    from mlaas_spark.ml.stream import ChunkStream

START, ROWS, DONE, END, FILES = "start.npz", "rows.json", "done.json", "end.npz", "files"
"""Files in the folder that the workers and the driver share."""

_END_S = 30.0
_TELL_S = 1.0  # how often the first worker says how far it is
_LAST_LINES = 3  # of what a process that crashed has said


class Member(Protocol):
    """A task that runs at the same time as those of the other workers."""

    @property
    def rank(self) -> int:
        """Its number."""

    @property
    def cpus(self) -> int:
        """Cores that it has."""

    @property
    def hosts(self) -> list[str]:
        """The machines of all, in the order of their numbers."""

    def gather(self, said: str) -> list[str]:
        """What each says, in the order of their numbers; waits for all."""


@dataclass(frozen=True)
class Job:
    """What a worker is to do.

    Attributes:
        chunks: Folder of the chunks.
        transform: As JSON.
        config: The ``train`` section, as JSON.
        path: Of the user's file, for messages and for modules beside it.
        source: Its text.
        factors: Of classes: (label, factor).
        folder: Shared with the driver.
        checkpoints: Their folder, None for none.
        identity: Of the training.
        step: Of the checkpoint to go on from, None for none.
    """

    chunks: str
    transform: dict[str, Any]
    config: dict[str, Any]
    path: str
    source: str
    factors: list[tuple[float, float]]
    folder: str
    checkpoints: str | None
    identity: dict[str, str]
    step: int | None

    @classmethod
    def of(
        cls,
        stream: ChunkStream,
        config: TrainConfig,
        file: UserFile,
        factors: Mapping[float, float],
        folder: str,
        keeper: Keeper | None,
    ) -> Self:
        """Train so on what the stream has."""
        return cls(
            chunks=stream.folder,
            transform=stream.transform.to_json(),
            config=config.model_dump(mode="json"),
            path=file.path,
            source=file.source,
            factors=list(factors.items()),
            folder=folder,
            checkpoints=keeper.checkpoints.folder if keeper else None,
            identity=dict(keeper.identity) if keeper else {},
            step=keeper.resumed.position.step if keeper and keeper.resumed else None,
        )

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What :meth:`to_json` has written."""
        return cls(**json.loads(text))


# --- in the Spark task


@dataclass(frozen=True)
class Launch:
    """Starts a worker in a task and waits for it; gives the worker's result, JSON.

    Attributes:
        job: The :class:`Job`, as JSON.
        patience: Seconds that workers wait for each other.
    """

    job: str
    patience: float

    def __call__(self, member: Member) -> str:
        """Run it; raises what has ended the worker, ModelContractError if its process has crashed."""
        names = [f"worker {rank} on {host}" for rank, host in enumerate(member.hosts)]
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "mlaas_spark.ml.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                    "PYTHONSAFEPATH": "1",  # else -m imports modules of the current folder first
                    "TF_NUM_INTRAOP_THREADS": str(member.cpus),
                    "OMP_NUM_THREADS": str(member.cpus),  # of torch
                },
            )
            with process:
                try:
                    answer = self._talk(process, member, names)
                    if not answer:
                        how = _crash(process, said)
                        msg = f"{names[member.rank]} is gone ({how}); --resume goes on from the last checkpoint"
                        raise ModelContractError(msg)
                finally:
                    process.kill()  # of one that has answered nothing is left to do
        result = json.loads(answer)
        if "error" in result:
            raise from_text(result["error"])
        return answer

    def _talk(self, process: subprocess.Popen[str], member: Member, names: list[str]) -> str:
        """Tell the worker what to do and where the others are; what it answers, "" if it has crashed."""
        about = {"rank": member.rank, "names": names, "hosts": member.hosts, "cpus": member.cpus}
        self._say(process, {**about, "job": self.job, "patience": self.patience})
        met = member.gather(_heard(process))
        if not met[member.rank]:
            return ""
        if missing := [name for name, line in zip(names, met, strict=True) if not line]:
            msg = f"{', '.join(missing)} could not be started, its executor's log may say why"
            raise ModelContractError(msg)
        self._say(process, json.loads(met[0]))
        return _heard(process)

    @staticmethod
    def _say(process: subprocess.Popen[str], what: dict[str, Any]) -> None:
        try:
            process.stdin.write(json.dumps(what) + "\n")  # type: ignore[union-attr] # it is a pipe
            process.stdin.flush()  # type: ignore[union-attr]
        except BrokenPipeError:
            return  # that it is gone shows in what it says


def _heard(process: subprocess.Popen[str]) -> str:
    """The next line of a process, "" if it has ended."""
    return process.stdout.readline()  # type: ignore[union-attr] # it is a pipe


def _crash(process: subprocess.Popen[str], said: Any) -> str:
    """How a process has ended that answers no more, and what it said last, for a message."""
    try:
        code = process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    said.seek(0)
    text = said.read().decode(errors="replace")
    sys.stderr.write(text)  # the executor's log has all of it
    lines = [line.strip() for line in text.splitlines() if line.strip()][-_LAST_LINES:]
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{how}{': ' if lines else ''}{' | '.join(lines)}"


# --- in the worker's own process


def main() -> None:
    """Be a worker."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the user's model prints is no answer

    def say(what: dict[str, Any]) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    about = json.loads(_line())
    rank, names, patience = about["rank"], about["names"], about["patience"]
    if rank == 0:
        server, key = listen(about["hosts"][0]), secrets.token_hex(32)
        say({"port": server.getsockname()[1], "key": key})
    else:
        say({})
    met = json.loads(_line())
    threading.Thread(target=_end_with_the_task, daemon=True).start()
    group: Group | None = None
    try:
        if rank == 0:
            group = Group.hub(server, met["key"].encode(), names, patience)
        else:
            address = (about["hosts"][0], met["port"])
            group = Group.member(rank, address, met["key"].encode(), names, patience)
        result = work(Job.from_json(about["job"]), group, about["hosts"])
    except MlaasSparkError as error:
        if group:
            group.fail(error)
        say({"error": to_text(error)})
    except BaseException as error:
        if group:
            group.fail(ModelContractError(f"{names[rank]} failed: {reason(error)}"))
        raise
    else:
        group.close()
        say(result)


def _line() -> str:
    """The next line of standard input, past Python's own buffer: another thread is to wait there later."""
    parts: list[bytes] = []
    while not parts or not parts[-1].endswith(b"\n"):
        if not (part := os.read(0, 1 << 16)):
            sys.exit(1)  # the task has ended
        parts.append(part)
    return b"".join(parts).decode()


def _end_with_the_task() -> None:
    """The task holds the other end of our standard input as long as it lives."""
    while os.read(0, 1):
        pass
    os._exit(1)


def work(job: Job, group: Group, hosts: list[str]) -> dict[str, Any]:
    """Train on these machines; what worker 0 gives back: the history and the digest of the state that it has written.

    Raises:
        MlaasSparkError: One of its kinds, for all that can end a training.
    """
    import keras

    from mlaas_spark.ml import gloo
    from mlaas_spark.ml.callbacks import of_training, set_learning_rate
    from mlaas_spark.ml.fit import examples_of
    from mlaas_spark.ml.inputs import InputLayout
    from mlaas_spark.ml.model import load_user_model, run_model_file
    from mlaas_spark.ml.parallel_learner import ParallelLearner
    from mlaas_spark.ml.parallel_torch_learner import ParallelTorchLearner
    from mlaas_spark.ml.stream import ChunkStream
    from mlaas_spark.ml.torch_learner import TorchModel
    from mlaas_spark.ml.train import nobody_looks, train

    name, first = group.names[group.rank], group.rank == 0
    places = [
        storage.join(job.chunks, MANIFEST),
        storage.join(job.folder, START),
        *([job.checkpoints] if first else []),
    ]
    for place in places:
        if place is not None and not storage.exists(place):
            msg = f"{name} cannot see {place}: runs and chunks.folder must be on storage that executors reach, as HDFS"
            raise ChunkError(msg)
    config = TrainConfig.model_validate(job.config)
    transform = FeatureTransform.from_json(job.transform)
    opened = ChunkStream.open(job.chunks, transform, config.batch_size, config.threads, config.dealt)
    stream = opened.of_worker(group.rank, group.size)
    file = run_model_file(UserFile(job.path, job.source), config.seed)
    model = load_user_model(file, InputLayout.of(transform, config.inputs), config, seed=config.seed)
    set_learning_rate(model, config)
    keeper = _keeper(job, config, name) if first else _follower(job, config, name)
    start = unpacked(storage.read_bytes(storage.join(job.folder, START)))
    with tempfile.TemporaryDirectory() as written, ExitStack() as meanwhile:
        # of all workers' callbacks those of the first write for the user: beside its checkpoints, if these are near
        near = storage.local_path(job.checkpoints) if first and job.checkpoints else None
        called = of_training(model, config.callbacks, near / "files" if near else Path(written), file)
        examples = examples_of(model, stream, config, dict(job.factors))
        learner: ParallelLearner | ParallelTorchLearner
        if isinstance(model, TorchModel):
            meanwhile.enter_context(gloo.joined(group, hosts))
            classes = not stream.manifest.targets
            learner = ParallelTorchLearner(
                model, examples, group, start, config.seed, classes=classes, callbacks=called, meter=stream.meter
            )
        else:
            learner = ParallelLearner(model, examples, group, start, called, stream.meter)
        keras.utils.set_random_seed(config.seed)
        tell = partial(_tell, storage.join(job.folder, ROWS), []) if first else nobody_looks
        if first:
            meanwhile.enter_context(_telling(storage.join(job.folder, DONE), stream, config))
        history = train(learner, stream, config, tell, keeper)
        if not first:
            return {"seconds": stream.meter.parts()}
        if any(Path(written).iterdir()):
            storage.upload(Path(written), storage.join(job.folder, FILES))
    content = packed(learner.state())
    storage.write_atomic(storage.join(job.folder, END), content)
    seconds = stream.meter.parts()
    return {"rows": list(history.rows), "sha256": hashlib.sha256(content).hexdigest(), "seconds": seconds}


@contextmanager
def _telling(url: str, stream: ChunkStream, config: TrainConfig) -> Iterator[None]:
    """Meanwhile write how many events all workers have had: they go through a pass together, each through its part."""
    from mlaas_spark.ml.train import TRAIN, passes

    turns = [turn.chunk for turn in passes(stream, config)]
    own, every = (sum(events(TRAIN, chunk) for chunk in turns) for events in (stream.own_events, stream.events))
    ended = threading.Event()

    def tell() -> bool:
        try:
            storage.write_atomic(url, json.dumps(stream.meter.events(TRAIN) * every // max(own, 1)).encode())
        except (UnreadableInputError, UnwritableOutputError) as error:  # progress is not worth a training
            sys.stderr.write(f"progress is not told any more: {error}\n")  # the executor's log
            return False
        return True

    def tell_again() -> None:
        while not ended.wait(_TELL_S) and tell():
            pass

    teller = threading.Thread(target=tell_again, name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
    tell()


def _keeper(job: Job, config: TrainConfig, name: str) -> Keeper | None:
    """Of the first worker: it writes checkpoints, and goes on from the one that the driver has found."""
    from mlaas_spark.ml.checkpoint import Keeper

    if job.checkpoints is None:
        return None
    keeper = Keeper.of(job.checkpoints, job.identity, config.checkpoint, resume=job.step is not None)
    found = keeper.resumed.position.step if keeper.resumed else None
    if found != job.step:
        msg = f"{name} finds the checkpoint of step {found} in {job.checkpoints}, the driver that of {job.step}"
        raise ModelContractError(msg)
    return keeper


def _follower(job: Job, config: TrainConfig, name: str) -> Keeper | None:
    """Of the others: they go on from the same one, and write none."""
    never = {"checkpoint": config.checkpoint.model_copy(update={"steps": None, "seconds": None})}
    return _keeper(job, config.model_copy(update=never), name) if job.step is not None else None


def _tell(url: str, told: list[Any], done: int, total: int, row: Mapping[str, float]) -> None:
    told.append([done, total, dict(row)])
    storage.write_atomic(url, json.dumps(told).encode())


def packed(state: State) -> bytes:
    """A state as the bytes of an npz file."""
    stream = io.BytesIO()
    np.savez(stream, **state)
    return stream.getvalue()


def unpacked(content: bytes) -> State:
    """What :func:`packed` has made."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


if __name__ == "__main__":
    main()
