"""served: what a server tells of a model, and which events are not sent."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlaas_spark.errors import ServingError
from mlaas_spark.serving.served import Served, missing_value
from tests.serving.conftest import COLUMNS, TRANSFORM, Made

NAN = float("nan")


def told(ours: Any = None, **files: bytes | None) -> Served:
    content = Made(ours=ours, files=files).content()
    return Served.of(
        "higgs_0123456789ab", content["params.json"], content.get("layout.json"), content.get("labels.txt"), "u"
    )


def layout(**content: Any) -> dict[str, bytes]:
    return {"layout.json": json.dumps(content).encode()}


def test_columns_labels_and_transform_are_those_of_the_files() -> None:
    model = told()
    assert (model.columns, model.labels, model.width) == (tuple(COLUMNS), ("class 0", "class 1"), 4)
    assert (model.transform, model.missing, model.raw) == (TRANSFORM, None, False)


def test_a_model_of_others_has_no_width() -> None:
    model = Served.of("theirs", b'{"name": "theirs"}', None, None, "u")
    assert (model.width, model.labels) == (None, ())
    assert model.checked(np.ones((2, 7))).shape == (2, 7)


@pytest.mark.parametrize(
    ("params", "described"),
    [
        (b"{", None),
        (b"[]", None),
        (b"{}", b"{"),
        (b"{}", b'{"transform": {}}'),
        (b'{"mlaas_spark": {"missing": "x"}}', None),
    ],
)
def test_files_that_cannot_be_read_are_named(params: bytes, described: bytes | None) -> None:
    with pytest.raises(ServingError, match=r"(params|layout)\.json of m at u cannot be read"):
        Served.of("m", params, described, None, "u")


@pytest.mark.parametrize("shape", [(3, 5), (3, 3), (4,), (1, 2, 2)])
def test_another_width_is_refused_naming_both(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ServingError, match=rf"{' x '.join(map(str, shape))} values, model .* takes \(n, 4\).*MET, nJet"
    ):
        told().checked(np.zeros(shape))


@pytest.mark.parametrize("value", [NAN, np.inf, -np.inf, 1e39])
def test_what_json_cannot_hold_is_refused_naming_event_and_column(value: float) -> None:
    x = np.zeros((3, 4))
    x[2, 1] = value
    with np.errstate(over="ignore"), pytest.raises(ServingError, match=r"event 2 has (nan|-?inf) for 'nJet'"):
        told().checked(x)


def test_a_missing_value_becomes_the_number_that_the_bundle_documents() -> None:
    x = np.array([[1, NAN, np.inf, 2]])
    for ours in ({"missing": -1e30}, {"missing": {"value": -1e30, "means": "not there"}}):
        assert told(ours).checked(x).tolist() == np.array([[1, -1e30, -1e30, 2]], np.float32).tolist()


@pytest.mark.parametrize("value", [True, "x", [1], float("nan")])
def test_a_number_for_missing_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="no finite number"):
        missing_value({"mlaas_spark": {"missing": value}})


EVENTS = pa.RecordBatch.from_pydict(
    {
        "MET": pa.array([20.0, None], pa.float32(), from_pandas=True).fill_null(NAN),
        "nJet": pa.array([1, 3], pa.int32()),
        "Jet_pt": pa.array([[15.0], [5.0, 10.0, 99.0]], pa.list_(pa.float32())),
    }
)


def test_of_events_features_are_made_as_in_training() -> None:
    assert told().vectors(EVENTS).tolist() == pytest.approx(np.array([[1.0, 0.5, 2.0, 0.0], [0.0, 1.5, 0.0, 1.0]]))


def test_a_raw_model_takes_the_values_and_nan_for_what_is_missing() -> None:
    made = told({"inputs": "raw", "missing": -1e30}).vectors(EVENTS)
    assert np.array_equal(made, np.array([[20, 1, 15, NAN], [NAN, 3, 5, 10]], np.float32), equal_nan=True)


def test_a_model_that_looks_at_the_mask_gets_nan_for_what_is_missing() -> None:
    made = told({"inputs": "features", "missing": -1e30}).vectors(EVENTS)
    assert np.array_equal(made, np.array([[1, 0.5, 2, NAN], [NAN, 1.5, 0, 1]], np.float32), equal_nan=True)


def test_a_value_that_is_the_sentinel_is_the_nearest_above_it_and_one_beyond_float32_missing() -> None:
    events = pa.RecordBatch.from_pydict({"MET": [-1e30, -2e30, 1e300, -1e300], "nJet": [1] * 4, "Jet_pt": [[1.0]] * 4})
    sent = told({"inputs": "raw", "missing": -1e30}).vectors(events)[:, 0]
    above = np.nextafter(np.float32(-1e30), np.float32(0))
    assert np.array_equal(sent, np.array([above, above, NAN, NAN], np.float32), equal_nan=True)


def test_of_a_model_of_others_no_features_can_be_made() -> None:
    with pytest.raises(ServingError, match=r"no layout\.json.*rows of numbers"):
        Served.of("theirs", b"{}", None, None, "u").vectors(EVENTS)
