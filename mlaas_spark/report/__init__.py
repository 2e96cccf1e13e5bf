"""Pages for people: report.html of a run, runs side by side. Plain values in, one whole page out; writes no file."""

from __future__ import annotations

from mlaas_spark.report.comparison import render_comparison
from mlaas_spark.report.run import RunReport, render

__all__ = ["RunReport", "render", "render_comparison"]
