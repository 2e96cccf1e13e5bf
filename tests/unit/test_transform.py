"""transform: matrix and mask against a plain loop over events and values."""

from __future__ import annotations

import json
import math
import statistics
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_spark.branch_specs import Specs, SpecsFile
from mlaas_spark.config import FeatureConfig, resolve
from mlaas_spark.errors import BranchNotFoundError, SpecsError, SpecsMismatchError
from mlaas_spark.transform import FeatureTransform

FLAT, JAGGED = ("MET", "nJet"), ("Ele_pt", "Jet_pt")
SCHEMA = pa.schema(
    [
        ("Jet_pt", pa.list_(pa.float32())),
        ("MET", pa.float64()),
        ("nJet", pa.int32()),
        ("Ele_pt", pa.list_(pa.float64())),
    ]
)
Event = dict[str, Any]


def batch_of(events: list[Event]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(events, SCHEMA)


def config_of(**options: Any) -> FeatureConfig:
    return resolve({"features": options}).features


def specs_of(events: list[Event]) -> Specs:
    names = (*FLAT, *JAGGED)
    return Specs.of(batch_of(events), names, names)


def values_of(events: list[Event], name: str) -> list[float]:
    """The finite values of a branch."""
    found = [value for e in events for value in (e[name] if name in JAGGED else [e[name]])]
    return [float(value) for value in found if math.isfinite(value)]


def center_and_scale(values: list[float], normalisation: str) -> tuple[float, float]:
    """By the definitions of the design, in float64."""
    if normalisation == "none":
        return 0.0, 1.0
    if not values:
        return 0.0, 0.0
    if normalisation == "minmax":
        center, spread = min(values), max(values) - min(values)
    else:
        center, spread = statistics.fmean(values), statistics.pstdev(values)
    return center, (1.0 / spread if spread > 0 else 0.0)


def oracle(
    events: list[Event], seen: list[Event], normalisation: dict[str, str], caps: dict[str, int]
) -> tuple[list[list[np.float32]], list[list[int]], dict[str, int], dict[str, int]]:
    """Matrix, mask, missing and cut values of ``events``, normalised by what was ``seen``."""
    dims = {name: min(max((len(e[name]) for e in seen), default=0), caps.get(name, 10**9)) for name in JAGGED}
    matrix: list[list[np.float32]] = []
    mask: list[list[int]] = []
    missing, cut = dict.fromkeys((*FLAT, *JAGGED), 0), dict.fromkeys((*FLAT, *JAGGED), 0)
    for e in events:
        row: list[np.float32] = []
        marks: list[int] = []
        for name in (*FLAT, *JAGGED):
            values = e[name] if name in JAGGED else [e[name]]
            dim = dims.get(name, 1)
            center, scale = center_and_scale(values_of(seen, name), normalisation[name])
            cut[name] += max(len(values) - dim, 0)
            for place in range(dim):
                good = place < len(values) and math.isfinite(values[place])
                missing[name] += place < len(values) and not good
                row.append(np.float32((float(values[place]) - center) * scale) if good else np.float32(0))
                marks.append(int(good))
        matrix.append(row)
        mask.append(marks)
    return matrix, mask, missing, cut


float32s = st.floats(width=32, min_value=-1000, max_value=1000) | st.sampled_from([math.nan, math.inf, -math.inf])
event_strategy = st.fixed_dictionaries(
    {
        "MET": st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf]),
        "nJet": st.integers(-5, 40),
        "Jet_pt": st.lists(float32s, max_size=5),
        "Ele_pt": st.lists(st.just(7.0), max_size=2),
    }
)


@given(
    seen=st.lists(event_strategy, min_size=1, max_size=8),
    others=st.lists(event_strategy, max_size=5),
    kinds=st.fixed_dictionaries({name: st.sampled_from(["minmax", "standard", "none"]) for name in (*FLAT, *JAGGED)}),
    cap=st.none() | st.integers(1, 4),
)
def test_matrix_and_mask_equal_a_loop_over_events(
    seen: list[Event], others: list[Event], kinds: dict[str, str], cap: int | None
) -> None:
    caps = {} if cap is None else {"Jet_pt": cap}
    transform = FeatureTransform.of(specs_of(seen), config_of(overrides=kinds, caps=caps))
    events = [*others, *seen]
    made = transform.matrix(batch_of(events))
    matrix, mask, missing, cut = oracle(events, seen, kinds, caps)
    assert made.matrix.dtype == np.float32
    assert made.mask.dtype == np.uint8
    assert made.matrix.shape == (len(events), transform.width)
    assert made.mask.tolist() == mask
    expected = np.array(matrix, np.float32).reshape(made.matrix.shape)
    exact = [i for i, name in enumerate(columns_branch(transform)) if kinds[name] != "standard"]
    np.testing.assert_array_equal(made.matrix[:, exact], expected[:, exact])
    # mean and spread of the oracle are rounded otherwise in their last bits
    np.testing.assert_allclose(made.matrix, expected, rtol=2e-6, atol=2e-5)
    assert dict(zip(transform.layout.branches, made.missing.tolist(), strict=True)) == missing
    assert dict(zip(transform.layout.branches, made.cut.tolist(), strict=True)) == cut


def columns_branch(transform: FeatureTransform) -> list[str]:
    return [name for name, dim in transform.layout.dims for _ in range(dim)]


EVENTS: list[Event] = [
    {"MET": 10.0, "nJet": 2, "Jet_pt": [30.0, 20.0], "Ele_pt": [7.0]},
    {"MET": 20.0, "nJet": 0, "Jet_pt": [], "Ele_pt": []},
    {"MET": math.nan, "nJet": 3, "Jet_pt": [25.0, math.inf, 40.0], "Ele_pt": [7.0]},
    {"MET": 40.0, "nJet": 1, "Jet_pt": [60.0], "Ele_pt": []},
]


def test_matrix_by_hand() -> None:
    made = FeatureTransform.of(specs_of(EVENTS), config_of(caps={"Jet_pt": 2})).matrix(batch_of(EVENTS))
    third = np.float32(1 / 3)
    assert made.matrix.tolist() == [
        [0.0, float(np.float32(2 / 3)), 0.0, 0.25, 0.0],
        [float(third), 0.0, 0.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.125, 0.0],
        [1.0, float(third), 0.0, 1.0, 0.0],
    ]
    assert made.mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [1, 1, 0, 1, 0]]
    assert made.missing.tolist() == [1, 0, 0, 1]
    assert made.cut.tolist() == [0, 0, 0, 1]


def test_columns_are_flat_names_then_numbered_jagged_ones() -> None:
    transform = FeatureTransform.of(specs_of(EVENTS), config_of(caps={"Jet_pt": 2}))
    assert transform.columns == ["MET", "nJet", "Ele_pt_0", "Jet_pt_0", "Jet_pt_1"]
    assert transform.width == 5


def test_robust_takes_the_median_and_the_quartiles() -> None:
    rng = np.random.default_rng(2)
    events = [{**EVENTS[0], "MET": float(x)} for x in rng.normal(50, 10, 2001)]
    transform = FeatureTransform.of(specs_of(events), config_of(normalise="minmax", overrides={"MET": "robust"}))
    low, middle, high = statistics.quantiles([e["MET"] for e in events], n=4)
    found = transform.matrix(batch_of([{**EVENTS[0], "MET": x} for x in (low, middle, high)])).matrix[:, 0]
    expected = [(x - middle) / (high - low) for x in (low, middle, high)]
    # quartiles are known to 0.4 % of their value
    np.testing.assert_allclose(found, expected, atol=0.004 * 50 / (high - low) * 2)


def test_robust_needs_specs_with_quantiles() -> None:
    specs = Specs.of(batch_of(EVENTS), ["MET"])
    with pytest.raises(SpecsError, match="these specs hold no quantiles"):
        FeatureTransform.of(specs, config_of(normalise="robust"))


def test_specs_of_mlaas4hep_are_enough_for_minmax_and_none_only() -> None:
    specs = SpecsFile.from_json(
        {"jdim": {"Jet_pt": 2}, "minv": {"MET": 0, "Jet_pt": 10}, "maxv": {"MET": 40, "Jet_pt": 60}}
        | {"fkeys": ["MET"], "jkeys": ["Jet_pt"]}
    ).specs
    made = FeatureTransform.of(specs, config_of()).matrix(batch_of(EVENTS))
    assert made.matrix[0].tolist() == [0.25, float(np.float32(20 / 50)), float(np.float32(10 / 50))]
    assert FeatureTransform.of(specs, config_of(normalise="none")).matrix(batch_of(EVENTS)).matrix[0, 0] == 10.0
    for normalisation in ("standard", "robust"):
        with pytest.raises(SpecsError, match=rf"'MET': specs of MLaaS4HEP .*, not for {normalisation}"):
            FeatureTransform.of(specs, config_of(overrides={"MET": normalisation}))


@pytest.mark.parametrize("normalisation", ["minmax", "standard", "robust"])
@pytest.mark.parametrize("value", [0.1, 1e9 + 0.1, -3.0, 0.0, 5e-324])
def test_constant_branch_is_zero_with_mask_one(normalisation: str, value: float) -> None:
    events = [{**EVENTS[0], "MET": value}] * 7
    transform = FeatureTransform.of(specs_of(events), config_of(overrides={"MET": normalisation}))
    made = transform.matrix(batch_of(events))
    assert made.matrix[:, 0].tolist() == [0.0] * 7
    assert made.mask[:, 0].tolist() == [1] * 7


@pytest.mark.parametrize("normalisation", ["minmax", "standard", "robust"])
def test_branch_that_was_constant_is_zero_for_other_values_too(normalisation: str) -> None:
    events = [{**EVENTS[0], "MET": 4.0}] * 3
    transform = FeatureTransform.of(specs_of(events), config_of(overrides={"MET": normalisation}))
    assert transform.matrix(batch_of([{**EVENTS[0], "MET": 9.0}])).matrix[0, 0] == 0.0


def test_spread_too_small_to_invert_counts_as_constant() -> None:
    events = [{**EVENTS[0], "MET": value} for value in (0.0, 5e-324)]
    transform = FeatureTransform.of(specs_of(events), config_of())
    assert transform.matrix(batch_of(events)).matrix[:, 0].tolist() == [0.0, 0.0]
    assert "Infinity" not in json.dumps(transform.to_json())


@pytest.mark.parametrize("normalisation", ["minmax", "standard", "robust", "none"])
def test_branch_without_one_finite_value_is_zero_with_mask_zero(normalisation: str) -> None:
    events = [{**EVENTS[0], "MET": value, "Jet_pt": [math.nan] * 2} for value in (math.nan, math.inf)]
    transform = FeatureTransform.of(specs_of(events), config_of(normalise=normalisation))
    made = transform.matrix(batch_of(events))
    for column in (0, 3, 4):
        assert made.matrix[:, column].tolist() == [0.0, 0.0]
        assert made.mask[:, column].tolist() == [0, 0]


def test_jagged_branch_that_is_always_empty_has_no_column() -> None:
    events = [{**EVENTS[0], "Ele_pt": []}] * 2
    transform = FeatureTransform.of(specs_of(events), config_of())
    assert transform.columns == ["MET", "nJet", "Jet_pt_0", "Jet_pt_1"]
    made = transform.matrix(batch_of([EVENTS[0]]))
    assert made.cut.tolist() == [0, 0, 1, 0]


def test_nan_is_refused_if_the_config_says_so() -> None:
    transform = FeatureTransform.of(specs_of(EVENTS), config_of(nan="error"))
    with pytest.raises(SpecsError, match=r"branch 'MET' has 1 NaN or infinite values: set features\.nan to missing"):
        transform.matrix(batch_of(EVENTS))
    assert transform.matrix(batch_of(EVENTS[:2])).mask[:, 0].tolist() == [1, 1]


def test_branch_that_the_events_lack_is_named() -> None:
    transform = FeatureTransform.of(specs_of(EVENTS), config_of())
    with pytest.raises(BranchNotFoundError, match=r"branch 'Jet_pt' not found in the events"):
        transform.matrix(batch_of(EVENTS).select([name for name in SCHEMA.names if name != "Jet_pt"]))


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("MET", pa.array([[1.0]] * 4), "branch 'MET' is jagged in the events, flat in the specs"),
        ("Jet_pt", pa.array([1.0] * 4), "branch 'Jet_pt' is flat in the events, jagged in the specs"),
    ],
)
def test_events_of_another_shape_than_the_specs_are_refused(name: str, column: pa.Array, message: str) -> None:
    transform = FeatureTransform.of(specs_of(EVENTS), config_of())
    events = batch_of(EVENTS)
    columns = [column if other == name else events.column(other) for other in SCHEMA.names]
    events = pa.RecordBatch.from_arrays(columns, names=SCHEMA.names)
    with pytest.raises(SpecsMismatchError, match=message):
        transform.matrix(events)


@pytest.mark.parametrize("option", ["overrides", "caps"])
def test_config_for_a_branch_without_specs_is_refused_with_the_nearest(option: str) -> None:
    value = {"overrides": "none", "caps": 1}[option]
    with pytest.raises(BranchNotFoundError, match=r"'Jet_pT' not found in features\..* of the config; nearest: Jet_pt"):
        FeatureTransform.of(specs_of(EVENTS), config_of(**{option: {"Jet_pT": value}}))


def test_cap_on_a_flat_branch_is_refused() -> None:
    with pytest.raises(SpecsError, match=r"features\.caps: MET is flat"):
        FeatureTransform.of(specs_of(EVENTS), config_of(caps={"MET": 3, "Jet_pt": 2}))


def test_cap_above_the_longest_list_changes_nothing() -> None:
    with_cap = FeatureTransform.of(specs_of(EVENTS), config_of(caps={"Jet_pt": 9}))
    assert with_cap == FeatureTransform.of(specs_of(EVENTS), config_of())


def test_specs_without_any_feature_are_refused() -> None:
    with pytest.raises(SpecsError, match="no branch is left"):
        FeatureTransform.of(Specs(), config_of())


def test_transform_of_one_branch_gives_its_columns_of_the_whole() -> None:
    transform = FeatureTransform.of(specs_of(EVENTS), config_of())
    whole = transform.matrix(batch_of(EVENTS))
    for name in transform.layout.branches:
        alone = transform.only(name).matrix(batch_of(EVENTS))
        span = transform.layout.span(name)
        np.testing.assert_array_equal(alone.matrix, whole.matrix[:, span])
        np.testing.assert_array_equal(alone.mask, whole.mask[:, span])
    with pytest.raises(BranchNotFoundError, match="nearest: MET"):
        transform.only("MeT_")


def test_transform_of_one_branch_refuses_nan_if_the_whole_does() -> None:
    alone = FeatureTransform.of(specs_of(EVENTS), config_of(nan="error")).only("MET")
    with pytest.raises(SpecsError, match="branch 'MET' has 1 NaN"):
        alone.matrix(batch_of(EVENTS))


@given(st.lists(event_strategy, max_size=7), st.integers(0, 7))
def test_matrix_of_slices_is_the_slices_of_the_matrix(events: list[Event], cut: int) -> None:
    transform = FeatureTransform.of(specs_of(EVENTS), config_of())
    batch = batch_of(events)
    whole = transform.matrix(batch)
    parts = [transform.matrix(batch.slice(0, cut)), transform.matrix(batch.slice(min(cut, len(events))))]
    np.testing.assert_array_equal(np.concatenate([part.matrix for part in parts]), whole.matrix)
    np.testing.assert_array_equal(np.concatenate([part.mask for part in parts]), whole.mask)


def test_rows_put_each_event_where_they_say() -> None:
    transform = FeatureTransform.of(specs_of(EVENTS), config_of())
    rows = np.random.default_rng(3).permutation(len(EVENTS))
    made, in_order = transform.matrix(batch_of(EVENTS), rows), transform.matrix(batch_of(EVENTS))
    np.testing.assert_array_equal(made.matrix[rows], in_order.matrix)
    np.testing.assert_array_equal(made.mask[rows], in_order.mask)
    np.testing.assert_array_equal(made.missing, in_order.missing)


def test_arrays_come_from_where_they_are_asked_for() -> None:
    transform = FeatureTransform.of(specs_of(EVENTS), config_of())
    handed: list[npt.NDArray[Any]] = []

    def empty(shape: tuple[int, ...], dtype: type[Any]) -> npt.NDArray[Any]:
        handed.append(np.full(shape, 7, dtype))
        return handed[-1]

    made = transform.matrix(batch_of(EVENTS), empty=empty)
    assert (made.matrix is handed[0], made.mask is handed[1]) == (True, True)
    np.testing.assert_array_equal(made.matrix, transform.matrix(batch_of(EVENTS)).matrix)
    np.testing.assert_array_equal(made.mask, transform.matrix(batch_of(EVENTS)).mask)


def test_nulls_are_missing_numbers_and_empty_lists() -> None:
    transform = FeatureTransform.of(specs_of(EVENTS), config_of())
    nothing = dict.fromkeys(SCHEMA.names)
    made = transform.matrix(batch_of([nothing]))
    assert not made.matrix.any()
    assert not made.mask.any()
    assert made.missing.tolist() == [1, 1, 0, 0]


def test_transform_reads_back_from_json_with_the_same_digest() -> None:
    transform = FeatureTransform.of(specs_of(EVENTS), config_of(normalise="standard", caps={"Jet_pt": 2}, nan="error"))
    again = FeatureTransform.from_json(json.loads(json.dumps(transform.to_json())))
    assert again == transform
    assert again.digest() == transform.digest()


def test_digest_changes_with_everything_that_changes_the_matrix() -> None:
    specs = specs_of(EVENTS)
    options: list[dict[str, Any]] = [
        {},
        {"normalise": "standard"},
        {"overrides": {"MET": "none"}},
        {"caps": {"Jet_pt": 1}},
        {"nan": "error"},
    ]
    digests = {FeatureTransform.of(specs, config_of(**some)).digest() for some in options}
    digests.add(FeatureTransform.of(specs_of(EVENTS[:2]), config_of()).digest())
    assert len(digests) == len(options) + 1
