"""``python -m benchmarks``: the table, benchmarks/out/results.json; ``python -m benchmarks growth``: docs/scaling.png.

Ours and the peers run in turn, at least three times, and medians count. Nothing here is a fixed figure but the one
that MLaaS4HEP publishes, see ``rows.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks import growth
from benchmarks.measure import machine
from benchmarks.measures import FULL, PEERS, QUICK, Bench, Sizes, sample
from benchmarks.rows import chosen

if TYPE_CHECKING:
    from collections.abc import Sequence

OUT = Path("benchmarks/out")


def main() -> None:
    """Parse, measure, show, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["rows", "growth"], default="rows")
    parser.add_argument("--quick", action="store_true", help="smaller samples, the same rows")
    parser.add_argument("--only", type=chosen, default="", help="rows, comma separated")
    parser.add_argument("--repeats", type=int, help="alternations")
    parser.add_argument("--events", type=int, help="events in all files of the workload")
    parser.add_argument("--sizes", default=growth.SIZES, help="of growth: numbers of events, comma separated")
    given = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    console = Console(width=150, highlight=False)
    if given.what == "growth":
        growth.main(OUT, [int(events) for events in given.sizes.split(",")], console.print)
        return
    sizes = _sizes(given)
    host = machine({"ours": sys.executable, "peers": str(PEERS)})
    (OUT / "machine.json").write_text(json.dumps(host, indent=1), encoding="utf-8")
    console.print(
        f"{host['cores']} cores, {host['processor']}, {host['memory_gb']} GB, load {host['load_before']:.1f} before"
    )
    for line in sizes.reduced():
        console.print(f"  {line}")
    began = time.perf_counter()
    with Bench(sizes, OUT) as bench:
        console.print(f"  the workload is there after {time.perf_counter() - began:.0f} s")
        told = lambda names: console.print(f"  {names}: measured after {time.perf_counter() - began:.0f} s")  # noqa: E731
        samples = sample(bench, given.only, sizes, told)
    results = [row.result(samples) for row in given.only]
    console.print(_table(results))
    console.print(f"{time.perf_counter() - began:.0f} s")
    (OUT / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


def _sizes(given: argparse.Namespace) -> Sizes:
    sizes = QUICK if given.quick else FULL
    if given.events:
        sizes = replace(sizes, events=given.events // sizes.files)
    if given.repeats:
        sizes = replace(sizes, repeats=given.repeats, fresh=min(sizes.fresh, given.repeats))
    return sizes


def _table(results: Sequence[dict[str, Any]]) -> Table:
    table = Table("row", "ours", "peer", "unit", "ratio", "goal", "ok", "runs", "peer's name")
    for row in results:
        goal = f"{'<=' if row['better'] == 'lower' else '>='} {row['goal']:g}"
        figures = (f"{row['ours']:.4g}", f"{row['peer']:.4g}", row["unit"], f"{row['ratio']:.2f}", goal)
        table.add_row(row["name"], *figures, "yes" if row["ok"] else "no", str(row["repeats"]), row["peer_name"])
    return table


if __name__ == "__main__":
    main()
