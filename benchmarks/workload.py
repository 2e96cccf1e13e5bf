"""The benchmark's files: 32 flat and 40 jagged float32 branches (W about 1,170), TTrees with counters, zlib 1."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import uproot

if TYPE_CHECKING:
    from pathlib import Path

TREE = "Events"
COUNTERS = "n*"
_FLAT = 32
_COLLECTIONS, _FIELDS = 5, 8
_LONGEST, _MEAN = 28, 9.0
_CLUSTER = 12_500


def generate(folder: Path, files: int, events: int) -> list[str]:
    """Write those that are not there of so many files of so many ``events`` each; equal arguments, equal events."""
    home = folder / f"data-{events}"
    home.mkdir(parents=True, exist_ok=True)
    paths = [home / f"{index:03}.root" for index in range(files)]
    missing = [(index, path) for index, path in enumerate(paths) if not path.exists()]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for written in [pool.submit(_generate, path, events, index) for index, path in missing]:
            written.result()
    return [str(path.absolute()) for path in paths]


def _generate(path: Path, events: int, index: int) -> None:
    unfinished = path.with_suffix(".tmp")
    _write(unfinished, events, np.random.default_rng([7, index]))
    unfinished.rename(path)


def _write(path: Path, events: int, random: np.random.Generator) -> None:
    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        tree: Any = None
        for start in range(0, events, _CLUSTER):
            branches = _events(min(_CLUSTER, events - start), random)
            if tree is None:
                types = {
                    name: values.type.content if isinstance(values, ak.Array) else values.dtype
                    for name, values in branches.items()
                }
                tree = file.mktree(TREE, types)
            tree.extend(branches)


def _events(n: int, random: np.random.Generator) -> dict[str, Any]:
    branches: dict[str, Any] = {f"Flat{i:02d}": random.normal(size=n).astype(np.float32) for i in range(_FLAT)}
    for collection in range(_COLLECTIONS):
        counts = np.minimum(random.poisson(_MEAN, n), _LONGEST)
        total = int(counts.sum())
        branches[f"Group{collection}"] = ak.zip(
            {
                f"field{field}": ak.unflatten(random.exponential(30.0, total).astype(np.float32), counts)
                for field in range(_FIELDS)
            }
        )
    return branches
