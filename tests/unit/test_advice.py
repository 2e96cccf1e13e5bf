"""advice: caps, constants, tails, duplicates and missing values are found from specs alone; its YAML is a config."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from mlaas_spark.advice import SHARES, Advice, advise
from mlaas_spark.branch_specs import Specs
from mlaas_spark.config import resolve
from mlaas_spark.selection import Expression
from mlaas_spark.transform import FeatureTransform

RANDOM = np.random.default_rng(7)
N = 2_000


def specs(**branches: Any) -> Specs:
    batch = pa.RecordBatch.from_pydict({name: pa.array(values) for name, values in branches.items()})
    return Specs.of(batch, list(branches))


def of_lengths(lengths: list[int]) -> list[list[float]]:
    return [RANDOM.normal(size=length).tolist() for length in lengths]


def test_caps_and_the_share_of_values_they_cut_are_those_of_a_plain_count() -> None:
    lengths = [int(length) for length in RANDOM.poisson(3, N)] + [40]
    advice = advise(specs(Jet_pt=of_lengths(lengths), MET=RANDOM.normal(size=N + 1)))
    (cap,) = advice.caps
    for share, at, cut in zip(SHARES, cap.caps, cap.cut, strict=True):
        assert np.mean(np.asarray(lengths) <= at) >= share > np.mean(np.asarray(lengths) <= at - 1)
        assert cut == pytest.approx(sum(max(length - at, 0) for length in lengths) / sum(lengths))
    assert advice.width == 41
    assert advice.widths == tuple(1 + at for at in cap.caps)
    assert advice.settings["features"]["caps"] == {"Jet_pt": cap.caps[1]}
    assert advise(specs(Jet_pt=of_lengths(lengths)), 0.95).settings["features"]["caps"] == {"Jet_pt": cap.caps[0]}


def test_cap_that_saves_little_is_not_advised() -> None:
    advice = advise(specs(Jet_pt=of_lengths([20] * N + [21])))
    assert advice.caps[0].caps[1] == 20
    assert advice.settings == {}
    assert advice.to_yaml() == ""


def test_constant_and_empty_branches_are_to_be_left_out_and_missing_values_are_told() -> None:
    values = RANDOM.normal(size=N)
    values[:500] = np.nan
    advice = advise(specs(one=np.ones(N), none=np.full(N, np.nan), some=values, all=RANDOM.normal(size=N)))
    assert (advice.constant, advice.empty) == (("one",), ("none",))
    assert advice.missing == {"none": 1.0, "some": 0.25}
    assert advice.settings == {"input": {"exclude": ["none", "one"]}}


def test_branch_of_one_value_and_nan_is_not_constant() -> None:
    assert advise(specs(flag=np.where(np.arange(N) % 2, np.nan, 1.0), x=RANDOM.normal(size=N))).constant == ()


def test_heavy_tails_get_a_logarithm_and_jagged_ones_a_robust_normalisation() -> None:
    heavy = np.exp(RANDOM.normal(scale=3, size=N))
    lists = [[value] for value in np.exp(RANDOM.normal(scale=3, size=N))]
    advice = advise(specs(HT=heavy, MET=RANDOM.exponential(size=N), Jet_pt=lists, shifted=heavy - 5))
    assert advice.tails["HT"] == pytest.approx((heavy.max() - heavy.mean()) / heavy.std())
    assert set(advice.tails) == {"HT", "Jet_pt"}  # what is below zero has no logarithm
    assert advice.settings["input"] == {"exclude": ["HT"], "derive": {"log_HT": "log(HT + 1)"}}
    assert advice.settings["features"]["overrides"] == {"Jet_pt": "robust"}


def test_equal_branches_are_told_from_linear_functions_and_from_others() -> None:
    x = RANDOM.normal(size=N)
    found = advise(specs(a=x, b=x, c=1000 * x, d=2 - x, e=RANDOM.permutation(x) ** 3, f=RANDOM.normal(size=N)))
    assert found.equal == {"b": "a"}
    assert found.linear == {"c": "a", "d": "a"}
    assert found.settings == {"input": {"exclude": ["b"]}}


def test_flags_are_not_taken_for_functions_of_each_other() -> None:
    one, other = RANDOM.random(N) < 0.3, RANDOM.random(N) < 0.3
    branches = {"p": one, "q": ~one, "r": other, "s": RANDOM.permutation(one)}  # s has as many ones as p has
    advice = advise(specs(**{name: flags.astype(np.int32) for name, flags in branches.items()}))
    assert (advice.equal, advice.linear) == ({}, {})


def all_of_it() -> tuple[Specs, Advice]:
    x = RANDOM.normal(size=N + 1)
    lengths = [int(length) for length in RANDOM.poisson(3, N)] + [40]
    made = specs(
        x=x, copy=x, one=np.ones(N + 1), HT=np.exp(RANDOM.normal(scale=3, size=N + 1)), Jet_pt=of_lengths(lengths)
    )
    return made, advise(made)


def test_pasted_yaml_is_a_config_that_gives_the_width_told() -> None:
    made, advice = all_of_it()
    config = resolve(yaml.safe_load(advice.to_yaml()))
    kept = {name: stats for name, stats in made.branches.items() if name not in config.input.exclude}
    logs = dict.fromkeys(config.input.derive, made["HT"])
    transform = FeatureTransform.of(Specs(made.events, {**kept, **logs}), config.features)
    assert transform.width == advice.widths[1] - 2  # without the copy and the constant
    assert [Expression.parse(text).branches for text in config.input.derive.values()] == [{"HT"}]


def test_machines_are_told_the_same() -> None:
    _, advice = all_of_it()
    told = advice.to_json()
    assert told["settings"] == yaml.safe_load(advice.to_yaml())
    assert told["caps"][0]["caps"]["0.99"] == advice.caps[0].caps[1]
