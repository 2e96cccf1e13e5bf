"""The command line: parse, call ``pipeline``, show, exit code. Only ``show`` writes to the terminal."""

from __future__ import annotations

from mlaas_spark.cli import (
    data,
    looking,
    machine,
    runs,
    scheduled,
    scoring,
    serving,
    training,
    verifying,
)  # each registers its verbs with app
from mlaas_spark.cli.app import app, main

__all__ = [
    "app",
    "data",
    "looking",
    "machine",
    "main",
    "runs",
    "scheduled",
    "scoring",
    "serving",
    "training",
    "verifying",
]
