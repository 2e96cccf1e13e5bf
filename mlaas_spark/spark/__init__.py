"""Spark side: wires the pure core to DataFrames. Meets ``ml`` only at specs.json and at the chunk data set."""

from __future__ import annotations
