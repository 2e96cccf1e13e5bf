"""NaN, infinities, denormals, overflow, integers beyond 2**53, nothing but empty lists: to specs and to features."""

from __future__ import annotations

import json
import logging
import math
import tracemalloc
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlaas_spark.branch_specs import LONGEST, BranchStats, Specs, from_rows, to_rows
from mlaas_spark.config import FeatureConfig
from mlaas_spark.errors import SpecsError
from mlaas_spark.transform import LONG, FeatureTransform

BIG, TINY = 1.7976931348623157e308, 5e-324
VALUES: dict[str, list[float]] = {
    "nan": [math.nan, 1.0, math.nan, 3.0],
    "inf": [math.inf, -math.inf, 2.0, 4.0],
    "nothing finite": [math.nan, math.inf],
    "denormals": [TINY, -TINY, 3 * TINY, 2.5e-310],
    "largest": [BIG, -BIG, BIG, 1.0],
    "overflow of the sum": [BIG, BIG, BIG],
    "cancellation": [1e16, 1.0, -1e16, 1e-8],
    "constant": [7.25] * 5,
    "constant and nan": [7.25, math.nan, 7.25],
    "one": [-3.5],
    "zeros": [0.0, -0.0],
    "both ends": [BIG, TINY],
    "mixed": [1e300, 1e-300, -1e300, 5.0],
}


def batch(**columns: Any) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({name: pa.array(v, from_pandas=False) for name, v in columns.items()})


@pytest.mark.parametrize("name", VALUES)
def test_limits_and_moments_are_those_of_fsum_however_the_values_are_cut(name: str) -> None:
    values = VALUES[name]
    finite = [value for value in values if math.isfinite(value)]
    stats = BranchStats.of(np.array(values))
    parts = [BranchStats.of(np.array([value])) for value in values]
    joined = parts[0]
    for part in parts[1:]:
        joined = part.merge(joined)
    assert joined == stats
    assert (stats.count, stats.nan + stats.inf) == (len(values), len(values) - len(finite))
    assert (stats.minimum, stats.maximum) == (min(finite, default=None), max(finite, default=None))
    if not finite:
        assert math.isnan(stats.mean)
        assert math.isnan(stats.std)
        return
    scale = 2.0**-11  # fsum overflows where the sum does; the mean of the scaled is the mean scaled, but for denormals
    if max(map(abs, finite)) > 1e290:
        mean = math.fsum(value * scale for value in finite) / len(finite) / scale
        assert stats.mean == pytest.approx(mean, rel=1e-15)
        mantissas = [value / BIG for value in finite]
        centre = math.fsum(mantissas) / len(mantissas)
        spread = math.sqrt(math.fsum((value - centre) ** 2 for value in mantissas) / len(mantissas))
        assert stats.std / BIG == pytest.approx(spread, rel=1e-12)
    else:
        assert stats.mean == pytest.approx(math.fsum(finite) / len(finite), rel=1e-15, abs=TINY)


def test_moments_of_many_values_of_any_size_are_those_of_fsum() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=20_000) * 10.0 ** rng.integers(-150, 150, 20_000)
    stats = BranchStats.of(values)
    mean = math.fsum(values) / len(values)
    assert stats.mean == pytest.approx(mean, rel=1e-15)
    assert stats.std == pytest.approx(math.sqrt(math.fsum((values - mean) ** 2) / len(values)), rel=1e-12)


def test_integers_beyond_2_to_the_53_have_the_nearest_float() -> None:
    values = np.array([2**53 + 1, 2**63 - 1, -(2**63), 2**62 + 1])
    stats = BranchStats.of(values)
    assert (stats.minimum, stats.maximum) == (float(-(2**63)), float(2**63 - 1))
    assert stats.mean == math.fsum(map(float, values)) / 4
    unsigned = BranchStats.of(np.array([2**64 - 1, 0], np.uint64))
    assert (unsigned.minimum, unsigned.maximum) == (0.0, float(2**64 - 1))


@pytest.mark.parametrize("normalise", ["minmax", "standard", "robust", "none"])
@pytest.mark.parametrize("name", VALUES)
def test_no_value_makes_a_feature_that_is_not_finite(name: str, normalise: str) -> None:
    events = batch(x=VALUES[name], y=[1.0] * len(VALUES[name]))
    specs = Specs.of(events, ["x", "y"], ["x", "y"])
    transform = FeatureTransform.of(specs, FeatureConfig.model_validate({"normalise": normalise}))
    made = transform.matrix(events)
    assert np.isfinite(made.matrix).all()
    assert made.missing[0] == (made.mask[:, 0] == 0).sum()
    assert made.missing[1] == 0
    finite = np.isfinite(VALUES[name])
    assert not made.mask[~finite, 0].any()
    too_large = {"largest", "overflow of the sum", "both ends", "mixed"}
    if name not in too_large:
        assert made.mask[finite, 0].all()
    if normalise == "minmax":
        assert ((made.matrix >= 0) & (made.matrix <= 1)).all()


def test_what_overflows_when_it_is_normalised_is_missing_and_counted_or_refused() -> None:
    train = batch(x=[1.0, 1.0 + 1e-6], y=[0.0, 1.0])
    transform = FeatureTransform.of(Specs.of(train, ["x", "y"]), FeatureConfig())
    events = batch(x=[1.0, 1e36, -1e300], y=[1e300, 0.5, 1.0])
    made = transform.matrix(events)
    assert made.mask.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert made.missing.tolist() == [2, 1]
    assert made.matrix[made.mask == 0].tolist() == [0, 0, 0]
    strict = FeatureTransform.of(Specs.of(train, ["x", "y"]), FeatureConfig(nan="error"))
    with pytest.raises(SpecsError, match="'x' has 2 NaN or infinite values"):
        strict.matrix(events)


def test_lists_that_are_empty_everywhere_have_no_columns() -> None:
    events = batch(x=[1.0, 2.0], Jet_pt=pa.array([[], []], pa.list_(pa.float32())))
    specs = Specs.of(events, ["x", "Jet_pt"])
    assert (specs["Jet_pt"].dim, specs["Jet_pt"].count, specs["Jet_pt"].minimum) == (0, 0, None)
    transform = FeatureTransform.of(specs, FeatureConfig())
    assert transform.width == 1
    assert transform.matrix(events).matrix.tolist() == [[0], [1]]
    # a list that is there only later has no column: it is counted as cut
    later = batch(x=[1.0], Jet_pt=pa.array([[5.0, math.nan]], pa.list_(pa.float32())))
    assert transform.matrix(later).cut.tolist() == [0, 2]
    with pytest.raises(SpecsError, match="no branch is left"):
        FeatureTransform.of(Specs.of(events, ["Jet_pt"]), FeatureConfig())


def test_one_event_is_enough_for_features() -> None:
    events = batch(x=[3.0], Jet_pt=[[1.0, 2.0]])
    specs = Specs.of(events, ["x", "Jet_pt"], ["x", "Jet_pt"])
    for normalise in ("minmax", "standard", "robust"):
        made = FeatureTransform.of(specs, FeatureConfig.model_validate({"normalise": normalise})).matrix(events)
        assert np.isfinite(made.matrix).all()
        assert made.mask.all()


def test_one_event_of_ten_million_values_is_capped_at_what_the_others_have_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lengths = [2, 0, 3] * 500
    lengths[700] = 10_000_000
    offsets = np.append([0], np.cumsum(lengths)).astype(np.int32)
    values = np.ones(int(offsets[-1]), np.float32)
    events = pa.RecordBatch.from_arrays([pa.ListArray.from_arrays(offsets, values)], names=["Jet_pt"])
    tracemalloc.start()
    specs = Specs.of(events, ["Jet_pt"])
    joined = from_rows(to_rows(specs)).merge(Specs.of(events.slice(0, 600), ["Jet_pt"]))
    with caplog.at_level(logging.WARNING):
        transform = FeatureTransform.of(specs, FeatureConfig())
    made = transform.matrix(events)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert joined["Jet_pt"].dim == specs["Jet_pt"].dim == 10_000_000
    assert len(specs["Jet_pt"].lengths) == LONGEST + 1
    assert len(json.dumps(specs["Jet_pt"].to_json())) < 400_000
    assert transform.width == 3
    assert made.matrix.shape == (1500, 3)
    assert made.cut.tolist() == [specs["Jet_pt"].cut(3)] == [10_000_000 - 3]
    assert "longest list has 10000000 values: capped at 3, which 99.9 % of the events do not exceed" in caplog.text
    assert peak < 400e6
    # with a cap of the user's own it is that
    assert FeatureTransform.of(specs, FeatureConfig(caps={"Jet_pt": 50})).width == 50


def test_lists_that_are_all_very_long_are_refused_with_the_way_out() -> None:
    offsets = np.arange(4, dtype=np.int32) * (LONG + 1)
    events = pa.RecordBatch.from_arrays(
        [pa.ListArray.from_arrays(offsets, np.ones(3 * (LONG + 1), np.float32))], names=["Jet_pt"]
    )
    specs = Specs.of(events, ["Jet_pt"])
    with pytest.raises(SpecsError, match=r"has lists of 4097 values and more: say by features\.caps"):
        FeatureTransform.of(specs, FeatureConfig())
    assert FeatureTransform.of(specs, FeatureConfig(caps={"Jet_pt": 5000})).width == LONG + 1
