"""The soak's judgement: what grows is seen, noise and outliers are not taken for growth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.soak import Tolerance, verdict

if TYPE_CHECKING:
    import numpy.typing as npt

NOISE = np.random.default_rng(1).normal(0, 5, 100)


@pytest.mark.parametrize(
    ("values", "grows"),
    [
        (1000 + NOISE, False),
        (1000 + NOISE + np.arange(100), True),  # 1 MB a turn
        (1000 + NOISE - np.arange(100), False),
        (np.where(np.arange(100) < 35, 500 + 10 * np.arange(100), 850) + NOISE, False),  # a warm-up
        (np.where(np.arange(100) % 17 == 16, 3000, 1000) + NOISE, False),  # outliers
        (np.full(100, 12.0), False),
    ],
)
def test_growth_is_told_from_noise(values: npt.NDArray[np.float64], grows: bool) -> None:  # noqa: FBT001
    assert verdict(values.tolist(), Tolerance(30)).grows is grows


def test_a_tolerance_is_a_share_of_what_is_large() -> None:
    values = (1000 + np.arange(100)).tolist()
    found = verdict(values, Tolerance(30, 0.1))
    assert (round(found.slope, 6), round(found.growth, 6), found.grows) == (1.0, 59.0, False)
    assert found.allowed == pytest.approx(107, abs=1)
