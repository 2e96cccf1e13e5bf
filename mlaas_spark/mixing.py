"""Mixing: which chunk, which place in it and which split an event gets. Pure functions of identity and seed.

Chunks hold events of each file in proportion to the file's events. Applying largest remainders to each chunk alone
would favour the same files in every chunk until they run dry; the remainders are therefore dealt by systematic
sampling, which keeps every count within one event of proportion and uses every event exactly once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlaas_spark.errors import ChunkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Int64 = npt.NDArray[np.int64]
    UInt64 = npt.NDArray[np.uint64]

SPLITS = ("train", "validation", "test")

_GOLDEN = 0x9E3779B97F4A7C15
_SPLIT_SALT = 0x5DEECE66D  # the split depends on the event alone, never on the seed


def largest_remainder(weights: Int64, total: int) -> Int64:
    """Share ``total`` in proportion to ``weights``: each share within one of proportion, the shares add up.

    Ties go to the first. Source: the Hare-Niemeyer (Hamilton) method of apportionment.
    """
    whole = [int(weight) for weight in weights]
    everything = sum(whole)
    if not everything:
        return np.zeros(len(whole), np.int64)
    quotients = [divmod(weight * total, everything) for weight in whole]
    shares = np.array([quotient for quotient, _ in quotients], np.int64)
    order = sorted(range(len(whole)), key=lambda index: (-quotients[index][1], index))
    shares[order[: total - int(shares.sum())]] += 1
    return shares


def chunk_counts(events: Sequence[int], chunk_size: int) -> Int64:
    """Events of each file in each chunk, shape (chunks, files).

    Full chunks have ``chunk_size`` events, the last what remains. Each count is within one event of
    ``chunk_size * events[f] / sum(events)``; each file's counts add up to its events.
    """
    if chunk_size < 1:
        msg = f"a chunk has at least one event, got chunk_size {chunk_size}"
        raise ChunkError(msg)
    total = sum(events)
    if not total:
        return np.zeros((0, len(events)), np.int64)
    full, rest = divmod(total, chunk_size)
    per_file = np.array(events, dtype=object)  # Python integers: chunk_size * events * chunks may pass 2**63
    base = per_file * chunk_size // total
    # file f holds the arc [below[f], below[f + 1]) of a circle in units of 1 / total; chunk k gets one more event of
    # each file whose arc contains a point k / full + an integer
    below = np.concatenate([[0], np.cumsum(per_file * chunk_size % total)])
    chunks = np.arange(full, dtype=object)[:, None]
    points_below = (
        -((chunks * total - below[None, :] * full) // (total * full)) if full else np.zeros((0, len(below)), object)
    )
    counts = base[None, :] + np.diff(points_below, axis=1)
    if rest:
        counts = np.vstack([counts, (per_file - counts.sum(axis=0, initial=0))[None, :]])
    result: Int64 = counts.astype(np.int64)
    return result


def hash64(values: UInt64) -> UInt64:
    """A well mixed 64-bit hash of each value. Source: the finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    x = values + np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: UInt64 = x ^ (x >> np.uint64(31))
    return mixed


def event_hash(keys: Sequence[npt.NDArray[np.generic]], salt: int = 0) -> UInt64:
    """One hash an event from its key columns, such as (run, luminosityBlock, event), each shape (n,)."""
    result = np.full(len(keys[0]), salt, np.uint64)
    for key in keys:
        result = hash64(result ^ hash64(key.astype(np.int64, copy=False).view(np.uint64)))
    return result


def uuid_key(uuid: str) -> int:
    """An int64 from the first 15 hexadecimal digits of a file's uuid."""
    return int(uuid.replace("-", "")[:15], 16)


def shuffle_order(uuids: Int64, entries: Int64, seed: int) -> Int64:
    """A permutation of events that depends on (seed, file's uuid key, entry) alone, not on how they arrive."""
    order: Int64 = np.lexsort((entries, uuids, event_hash([uuids, entries], seed)))
    return order


def split_of(
    keys: Sequence[npt.NDArray[np.generic]],
    shares: tuple[float, float, float],
    folds: int | None = None,
    fold: int = 0,
) -> npt.NDArray[np.int8]:
    """Index into :data:`SPLITS` for each event, by hash of its key columns; stable under any re-chunking.

    Args:
        keys: Key columns, each shape (n,).
        shares: Of training, validation and test.
        folds: With it, test events are those whose hash lies in fold ``fold`` of so many equal ones: each event is a
            test event of one fold. The share of test is not looked at; the other two are of the rest.
        fold: Its number, from 0.
    """
    place = (event_hash(keys, _SPLIT_SALT) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    if folds is not None:
        # within each fold events go to training or validation by where in it they lie
        within, number = np.modf(place * folds)
        kept = (within >= shares[0] / (shares[0] + shares[1])).astype(np.int8)
        return np.where(number == fold, np.int8(2), kept)
    edges = np.cumsum(shares)[:2]
    split = np.searchsorted(edges, place, side="right").astype(np.int8)
    # an empty share gets nothing, whatever rounding did to the edges
    return np.where((split == 2) & (shares[2] == 0), np.int8(1 if shares[1] else 0), split)
