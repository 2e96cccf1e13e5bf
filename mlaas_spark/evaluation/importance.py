"""Permutation importance: what a model loses when the values of a branch are shuffled among the events."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt


def permutation_importance(
    score: Callable[[npt.NDArray[np.float32], npt.NDArray[np.uint8]], npt.NDArray[np.float32]],
    features: tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]],
    spans: Mapping[str, slice],
    measure: Callable[[npt.NDArray[np.float32]], Mapping[str, float | None]],
    repeats: int,
    seed: int,
) -> dict[str, dict[str, dict[str, float | None]]]:
    """For each branch, by how much each measure grows when all columns of the branch are permuted together.

    L. Breiman, Random Forests, Machine Learning 45 (2001) 5, for groups of columns: an event gets the branch, with its
    mask, of another event. Branches that say the same can stand in for each other, and both look unimportant.

    Args:
        score: Matrix (n, W) and mask to scores (n, K).
        features: Matrix and mask of some events; changed while this runs, as before at the end.
        spans: Columns of each branch.
        measure: Of the scores; what grows is what is lost.
        repeats: Permutations of each branch, at least 1.
        seed: A branch's permutations depend on it and the branch's name alone.

    Returns:
        ``{branch: {measure: {"mean", "std"}}}``; std is over the repeats, None of one; both None if the measure is.
    """
    matrix, mask = features
    before = measure(score(matrix, mask))
    found = {}
    for branch, span in spans.items():
        rows = []
        own, own_mask = matrix[:, span].copy(), mask[:, span].copy()
        try:
            for repeat in range(repeats):
                rng = np.random.default_rng([seed, repeat, zlib.crc32(branch.encode())])
                order = rng.permutation(len(matrix))
                matrix[:, span], mask[:, span] = own[order], own_mask[order]
                rows.append(measure(score(matrix, mask)))
        finally:
            matrix[:, span], mask[:, span] = own, own_mask
        found[branch] = {name: _grown(value, [row.get(name) for row in rows]) for name, value in before.items()}
    return found


def _grown(before: float | None, after: list[float | None]) -> dict[str, Any]:
    values = [value - before for value in after if value is not None and before is not None]
    if not values or len(values) < len(after):
        return {"mean": None, "std": None}
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}
