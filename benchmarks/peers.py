"""The peers: what a physicist writes today, tuned, one process. Run as ``python -m benchmarks.peers NAME FILE...``.

Prints the seconds of the work itself as JSON; imports and a warm-up on the first thousand events come before.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import uproot

from benchmarks.workload import TREE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_STEP = 25_000


def _batches(paths: Sequence[str], limit: int | None) -> Any:
    for path in paths:
        with uproot.open(path) as file:
            tree = file[TREE]
            names = [name for name in tree.keys() if not name.startswith("n")]  # noqa: SIM118 - a tree is no dict
            for start in range(0, limit or tree.num_entries, _STEP):
                stop = min(start + _STEP, limit or tree.num_entries)
                yield tree.arrays(names, entry_start=start, entry_stop=stop, how=dict)


def specs(paths: Sequence[str], limit: int | None = None) -> dict[str, tuple[float, float, int]]:
    """uproot, then vectorised awkward: smallest, largest value and longest list of each branch."""
    found: dict[str, tuple[float, float, int]] = {}
    for arrays in _batches(paths, limit):
        for name, array in arrays.items():
            jagged = array.ndim > 1
            values = ak.to_numpy(ak.flatten(array)) if jagged else ak.to_numpy(array)
            dim = int(ak.max(ak.num(array))) if jagged else 1
            low, high, longest = found.get(name, (np.inf, -np.inf, 0))
            found[name] = (min(low, float(values.min())), max(high, float(values.max())), max(longest, dim))
    return found


def convert(paths: Sequence[str], limit: int | None = None) -> None:
    """uproot, ak.to_arrow, pyarrow: lz4, no dictionaries, all its threads."""
    with tempfile.TemporaryDirectory() as folder:
        for number, arrays in enumerate(_batches(paths, limit)):
            columns = {name: ak.to_arrow(array, list_to32=True, extensionarray=False) for name, array in arrays.items()}
            target = Path(folder) / f"{number}.parquet"
            pq.write_table(pa.table(columns), target, compression="lz4", use_dictionary=False)


def features(paths: Sequence[str], limit: int | None = None) -> None:
    """Two passes: specs, then read again, pad with awkward, normalise with numpy into one float32 matrix a batch."""
    found = specs(paths, limit)
    names = sorted(found, key=lambda name: (found[name][2] > 1, name))
    width = sum(found[name][2] for name in names)
    for arrays in _batches(paths, limit):
        matrix = np.empty((len(next(iter(arrays.values()))), width), np.float32)
        column = 0
        for name in names:
            low, high, dim = found[name]
            array = arrays[name]
            if array.ndim > 1:
                padded = ak.fill_none(ak.pad_none(array, dim, clip=True, axis=1), np.float32(low))
                array = ak.to_regular(padded, axis=1)
            values = ak.to_numpy(array).reshape(len(matrix), dim)
            matrix[:, column : column + dim] = (values - low) / ((high - low) or 1.0)
            column += dim


PEERS: dict[str, Callable[..., Any]] = {"specs": specs, "convert": convert, "features": features}


def main(name: str, paths: Sequence[str]) -> None:
    """Warm up, run, print the seconds."""
    PEERS[name](paths[:1], 1000)
    began = time.perf_counter()
    PEERS[name](paths)
    sys.stdout.write(json.dumps(time.perf_counter() - began) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
