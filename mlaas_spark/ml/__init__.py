"""Machine learning on chunk data sets: stream, train, evaluate, export. Meets Spark only at specs and chunks."""

from __future__ import annotations

import os

# TensorFlow reads it when it is imported: its C++ start-up notes are not for physicists. The user's own value stays.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
