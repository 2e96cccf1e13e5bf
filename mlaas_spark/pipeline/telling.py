"""What a job says at its end: what it skipped, what took longest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlaas_spark import skipping, storage
from mlaas_spark.bottleneck import bottleneck

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlaas_spark.config import Config
    from mlaas_spark.runs import Journal
    from mlaas_spark.skipping import Skipped


def tell_skipped(config: Config, skipped: Sequence[Skipped], folder: str, journal: Journal) -> None:
    """Say what was skipped, and write it beside the manifest."""
    file = storage.join(folder, skipping.FILE)
    if skipped or config.input.bad_files == "skip" or storage.exists(file):
        storage.write_atomic(file, skipping.dumps(skipped).encode())
    say_skipped(skipped, file, journal)


def say_skipped(skipped: Sequence[Skipped], file: str, journal: Journal) -> None:
    """Say what was skipped, and which file names it."""
    if skipped:
        journal.say(f"{skipping.summary(skipped)}, see {file}: {skipping.told(skipped)}")


def say_bottleneck(journal: Journal) -> None:
    """At the end of a job: what took longest, and what to change."""
    stages = journal.stages
    if told := bottleneck({s.name: s.seconds for s in stages}, {s.name: s.parts for s in stages}):
        journal.say(told)
