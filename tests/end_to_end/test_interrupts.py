"""Ctrl-C and SIGTERM at random moments: an end within 10 s, how to go on, exit code 7, and no child left.

Each moment is some seeded seconds after a word of a command. Where the work was done by then the command ends as it
would, with 0, and an earlier moment is tried.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

REPOSITORY = Path(__file__).parents[2]
PROGRAM = str(Path(sys.executable).with_name("mlaas-spark"))
LIMIT_S = 10.0
GONE_S = 10.0  # within which the JVM and its children end after their program

SIGNALS = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}
VERBS = ("convert", "specs", "chunks", "train", "predict")

# two executors' worth of work, in the stages that the signals shall fall into
MODEL = """
import time, keras

class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.02)

def callbacks():
    return [Slow()]

def model(idim):
    net = keras.Sequential([keras.layers.Input((idim,)), keras.layers.Dense(1, "sigmoid")])
    net.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    return net
"""


def below(process: int) -> set[int]:
    """All that a process has started, and what these have, by Linux' own account."""
    found: set[int] = set()
    waiting = [process]
    while waiting:
        try:
            tasks = list(Path(f"/proc/{waiting.pop()}/task").iterdir())
            children = {int(pid) for task in tasks for pid in (task / "children").read_text().split()}
        except OSError:  # it ends while we look
            continue
        waiting += children - found
        found |= children
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that are there and no zombies."""
    there = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            there.add(pid)
    return there


@dataclass(frozen=True)
class Ended:
    """How a command ended that was sent a signal."""

    code: int
    said: str
    seconds: float
    children: set[int]
    left: set[int]


class Interruptible:
    """A command in a session of its own."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self._said = folder / "said"
        self._children: set[int] = set()
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(  # noqa: S603 - our own command
                [PROGRAM, *arguments],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TF_NUM_INTRAOP_THREADS": "1"},
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._said.read_text(errors="replace")

    def wait_for(self, words: str, limit: float = 300.0) -> None:
        """Until it has said something."""
        self._until(lambda: words in self.said, limit)

    def sleep(self, seconds: float) -> None:
        """So long, or until it has ended."""
        end = time.monotonic() + seconds
        self._until(lambda: time.monotonic() >= end, seconds + 60)

    def _until(self, fits: Callable[[], bool], limit: float) -> None:
        end = time.monotonic() + limit
        while not fits():
            self._children |= below(self.process.pid)
            assert self.process.poll() is None, f"it ended too early: {self.said}"
            assert time.monotonic() < end, self.said
            time.sleep(0.1)

    def interrupted(self, *signals: signal.Signals, pause: float = 0.0) -> Ended:
        """Send the signals and wait for the end."""
        self._children |= below(self.process.pid)
        began = time.monotonic()
        for number, kind in enumerate(signals):
            time.sleep(pause if number else 0)
            self.process.send_signal(kind)
        code = self.process.wait(60)
        seconds = time.monotonic() - began
        end = time.monotonic() + GONE_S
        while (left := alive(self._children)) and time.monotonic() < end:
            time.sleep(0.05)
        return Ended(code, self.said, seconds, self._children, left)


@pytest.fixture(scope="module")
def place(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config of slow training."""
    folder = tmp_path_factory.mktemp("interrupted")
    (folder / "model.py").write_text(MODEL)
    groups = [
        {"name": name, "files": [str(sample / f"{name}_*.root")], "label": label}
        for label, name in enumerate(("background", "signal"))
    ]
    config = {
        "name": "slow",
        "input": {"groups": groups},
        "train": {"model": "model.py", "epochs": 3, "batch_size": 32, "checkpoint": {"steps": 5, "seconds": None}},
        "spark": {"master": "local[2]", "events_per_task": 200},
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    return folder


def arguments(verb: str, place: Path, out: str, run: str = "") -> list[str]:
    with_out = {"convert": ["--out", out], "specs": ["--out", f"{out}.json"], "chunks": ["--out", out]}
    scored = ["--run", run, "--out", out]
    return [verb, "--config", str(place / "config.yaml"), *(scored if verb == "predict" else with_out.get(verb, []))]


def check(ended: Ended, verb: str) -> None:
    """What must hold of any interruption."""
    assert ended.code == 7, ended.said
    assert ended.seconds < LIMIT_S
    assert "Traceback" not in ended.said
    assert "this is a bug" not in ended.said
    last = ended.said.splitlines()[-1]
    assert last.startswith("interrupted: run the same command again"), ended.said
    assert f"mlaas-spark {verb} --config" in last
    assert not ended.left, f"left behind: {ended.left}"


@pytest.fixture
def started(place: Path) -> Iterator[Callable[..., Interruptible]]:
    """Starts commands; what is left of them at the end is killed."""
    running: list[Interruptible] = []

    def start(verb: str, out: str = "out", run: str = "") -> Interruptible:
        running.append(Interruptible(place, arguments(verb, place, out, run)))
        return running[-1]

    yield start
    for command in running:
        for pid in alive(below(command.process.pid) | {command.process.pid}):
            os.kill(pid, signal.SIGKILL)
        command.process.wait(10)


LAST_WORDS = {"convert": "convert ...", "specs": "specs ...", "chunks": "chunks ...", "train": "train ..."}
"""What a command says when its long stage begins."""


def moments(count: int) -> list[tuple[str, str, str, float]]:
    """Verb, signal, the words after which it is sent, and how many seconds after them."""
    rng = random.Random(9)  # noqa: S311 - moments
    made = []
    for number in range(count):
        verb = ("train", "convert", "chunks", "train", "specs", "convert")[number % 6]
        words = rng.choice(["start Spark ...", "open files ...", LAST_WORDS[verb]])
        made.append((verb, ("Ctrl-C", "SIGTERM")[number % 2], words, rng.uniform(0, 0.8)))
    return made


@pytest.mark.parametrize(
    ("verb", "kind", "words", "seconds"),
    [
        pytest.param(*moment, marks=[pytest.mark.soak] if number >= 3 else [], id=f"{number}-{moment[0]}")
        for number, moment in enumerate(moments(30))
    ],
)
def test_at_any_moment_it_ends_in_time_and_says_how_to_go_on(
    started: Callable[..., Interruptible], verb: str, kind: str, words: str, seconds: float
) -> None:
    for attempt in range(5):
        command = started(verb, f"out-{time.monotonic_ns()}")
        command.wait_for(words)
        time.sleep(seconds / 2**attempt)
        ended = command.interrupted(SIGNALS[kind])
        assert ended.children  # it had a JVM to leave behind
        if ended.code:
            check(ended, verb)
            return
        assert f"{verb} done in" in ended.said
        assert "interrupted" not in ended.said
        assert not ended.left, f"left behind: {ended.left}"
    pytest.fail("it was always done before")


def test_an_interrupted_training_goes_on_by_the_command_that_it_says(
    started: Callable[..., Interruptible], place: Path
) -> None:
    command = started("train")
    command.wait_for("train ...")
    command._until(lambda: bool(list(place.glob("runs/slow/checkpoints/*/step-*"))), 300)  # noqa: SLF001 - of ours
    command.sleep(0.5)
    ended = command.interrupted(signal.SIGINT)
    check(ended, "train")
    (line,) = [line for line in ended.said.splitlines() if "its last checkpoint is in" in line]
    again = line.partition("go on from it with --resume: mlaas-spark ")[2].split()
    assert again[-1] == "--resume"
    done = subprocess.run(  # noqa: S603 - our own command
        [PROGRAM, *again], cwd=place, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True,
        check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "goes on after" in done.stderr
    runs = [path for path in (place / "runs" / "slow").iterdir() if path.name.startswith("20")]
    assert len(runs) == 1
    assert not list((place / "runs" / "slow").glob(".unfinished*"))

    scored = started("predict", "scores", str(runs[0]))
    scored.wait_for("predict ...")
    check(scored.interrupted(signal.SIGTERM), "predict")
