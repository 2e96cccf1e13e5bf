"""evaluation.tables: values and uncertainties as they are read."""

from __future__ import annotations

import pytest

from mlaas_spark.evaluation.tables import with_error


@pytest.mark.parametrize(
    ("value", "error", "told"),
    [
        (0.1067, 0.008, "0.107 ± 0.008"),
        (0.1437, 0.0112, "0.144 ± 0.011"),
        (-6.667e-05, 0.001, "-0.0001 ± 0.0010"),
        (-6.667e-06, 0.001, "0.0000 ± 0.0010"),
        (6694.2, 81.8, "6,694 ± 82"),
        (1e-9, 1e-11, "1e-09 ± 1e-11"),
        (0.25, 0.0, "0.25"),
        (0.25, None, "0.25"),
        (None, 0.1, "-"),
    ],
)
def test_a_value_is_no_finer_than_its_uncertainty(value: float | None, error: float | None, told: str) -> None:
    assert with_error(value, error) == told
