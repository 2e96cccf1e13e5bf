"""Machine learning as a service for high energy physics, native to Apache Spark."""

from __future__ import annotations

__version__ = "0.1.0"
