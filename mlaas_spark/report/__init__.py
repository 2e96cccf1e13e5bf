"""Pages for people: report.html of a run. Plain values in, one self-contained page out; writes no file."""

from __future__ import annotations

from mlaas_spark.report.run import RunReport, render

__all__ = ["RunReport", "render"]
