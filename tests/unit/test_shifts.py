"""Shifts between training and new data, against plain formulas on the values themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import ks_2samp

from mlaas_spark.branch_specs import Specs
from mlaas_spark.errors import SpecsError
from mlaas_spark.shifts import Limits, between, rows, worrying

RANDOM = np.random.default_rng(5)


def _specs(**columns: Any) -> Specs:
    kinds = {name: pa.list_(pa.float64()) for name, values in columns.items() if isinstance(values[0], list)}
    batch = pa.RecordBatch.from_pydict({name: pa.array(values, kinds.get(name)) for name, values in columns.items()})
    return Specs.of(batch, columns, columns)


def _psi(training: Any, new: Any) -> float:
    edges = np.quantile(training, np.linspace(0, 1, 11))
    edges[0], edges[-1] = -np.inf, np.inf
    p, q = (np.maximum(np.histogram(values, edges)[0], 0.5) / len(values) for values in (training, new))
    return float(np.sum((q - p) * np.log(q / p)))


def test_values_of_one_distribution_have_not_shifted() -> None:
    one, other = RANDOM.normal(50, 10, 20_000), RANDOM.normal(50, 10, 3_000)
    (shift,) = between(_specs(x=one), _specs(x=other), Limits())
    assert (shift.psi, shift.ks, shift.worries) == (0.0, 0.0, ())


@pytest.mark.parametrize(("mean", "width"), [(55, 10), (50, 20), (-50, 10)])
def test_psi_and_ks_are_those_of_the_values(mean: float, width: float) -> None:
    training, new = RANDOM.normal(50, 10, 20_000), RANDOM.normal(mean, width, 10_000)
    (shift,) = between(_specs(x=training), _specs(x=new), Limits())
    assert shift.psi == pytest.approx(_psi(training, new), rel=0.03)
    assert shift.ks == pytest.approx(ks_2samp(training, new).statistic, abs=0.005)
    assert shift.worries


def test_few_events_raise_no_alarm_by_chance() -> None:
    training = RANDOM.normal(0, 1, 20_000)
    alarms = [between(_specs(x=training), _specs(x=RANDOM.normal(0, 1, 30)), Limits())[0].worries for _ in range(100)]
    assert not any(alarms)


def test_missing_values_and_longer_lists_are_worries_of_their_own() -> None:
    training = _specs(x=[1.0, 2.0, 3.0, 4.0] * 50, y=[[1.0], [2.0, 3.0]] * 100)
    new = _specs(x=[1.0, 2.0, float("nan"), 4.0] * 50, y=[[1.0], [2.0, 3.0]] * 99 + [[1.0] * 5, []])
    found = worrying(between(training, new, Limits()))
    assert "missing +25.0%" in found["x"]
    assert "longest list 5, was 2" in found["y"]


def test_the_longest_list_may_grow_with_the_events_and_not_by_many_of_them() -> None:
    training = _specs(y=[[1.0]] * 500 + [[1.0] * 7] * 500)
    by_chance = _specs(y=[[1.0]] * 500 + [[1.0] * 7] * 497 + [[1.0] * 8] * 3)
    assert not worrying(between(training, by_chance, Limits()))
    grown = _specs(y=[[1.0]] * 500 + [[1.0] * 7] * 480 + [[1.0] * 8] * 20)
    assert worrying(between(training, grown, Limits())) == {"y": ("longest list 8, was 7",)}
    # the same few events are more than chance beside many before them
    few = _specs(y=[[1.0] * 8] * 3)
    many = _specs(y=[[1.0] * 7] * 1_000)
    assert "longest list 8, was 7" in worrying(between(many, few, Limits()))["y"]


def test_how_many_values_events_have_is_compared_too() -> None:
    training = _specs(y=[[1.0]] * 500 + [[1.0, 1.0]] * 500)
    new = _specs(y=[[1.0]] * 900 + [[1.0, 1.0]] * 100)
    by_kind = {shift.of: shift for shift in between(training, new, Limits())}
    assert by_kind["lengths"].ks == pytest.approx(0.4)
    assert by_kind["values"].ks == 0.0


def test_constant_and_empty_branches_are_compared_without_a_division_by_zero() -> None:
    training = _specs(x=[1.0] * 100, y=[[]] * 100, z=[float("nan")] * 100)
    same = between(training, training, Limits())
    assert all((shift.psi, shift.ks, shift.worries) == (0.0, 0.0, ()) for shift in same)
    moved = between(training, _specs(x=[2.0] * 100), Limits())
    assert moved[0].ks == 1.0


def test_specs_without_bins_are_refused_by_name() -> None:
    values = pa.RecordBatch.from_pydict({"x": pa.array([1.0, 2.0])})
    with pytest.raises(SpecsError, match="specs of x hold no quantile bins"):
        between(Specs.of(values, ["x"]), _specs(x=[1.0]), Limits())


def test_the_table_lists_what_worries_or_the_largest_few() -> None:
    training, new = RANDOM.normal(0, 1, 5_000), RANDOM.normal(2, 1, 5_000)
    shifts = between(_specs(calm=training, moved=training), _specs(calm=training, moved=new), Limits())
    ((branch, *_, why),) = rows(shifts)
    assert branch == "moved"
    assert why.startswith("PSI ")
    assert [row[0] for row in rows(between(_specs(calm=training), _specs(calm=training), Limits()))] == ["calm"]
