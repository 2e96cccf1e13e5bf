"""--dry-run: what a verb would read and write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlaas_spark.cli import show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlaas_spark.config import Config
    from mlaas_spark.runs import Journal


def tell(config: Config, journal: Journal, writes: Sequence[str], *, as_json: bool) -> None:
    """Open the input as the verb would, and say what it has and what is in the places that would be written."""
    from mlaas_spark import pipeline

    planned = pipeline.plan(config, journal).to_json()
    read = {key: planned[key] for key in ("entries", "bytes", "ranges", "partitions")}
    told({"reads": {"files": [file["path"] for file in planned["files"]], **read}}, writes, as_json=as_json)


def told(reads: dict[str, Any], writes: Sequence[str], *, as_json: bool) -> None:
    """Show what a verb would read, if that is known, and what is in the places that it would write."""
    from mlaas_spark import storage

    there = [{"path": path, "exists": storage.exists(storage.absolute(path))} for path in writes]
    if as_json:
        show.as_json({"dry_run": True, **reads, "writes": there})
        return
    if of := reads.get("reads"):
        files = len(set(of["files"]))
        show.line(
            f"would read {of['entries']:,} entries of {files} file{'s' * (files > 1)}, {show.mb(of['bytes'])} MB, "
            f"in {of['ranges']} ranges and {of['partitions']} partitions"
        )
    for place in there:
        state = "is there, would be brought up to date or replaced" if place["exists"] else "new"
        show.line(f"would write {place['path']} ({state})")
    show.line("nothing was written")
