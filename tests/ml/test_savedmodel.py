"""ml.savedmodel: what the graphs make of that which a client sends, against the kernel. Whole ones: test_bundle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas_spark.branch_specs import Specs
from mlaas_spark.config import FeatureConfig
from mlaas_spark.layout import FeatureLayout
from mlaas_spark.ml.savedmodel import run_savedmodel, takes_events, takes_features, write_savedmodel
from mlaas_spark.raw import MISSING, normalised, raw_vector, sentinel, with_missing
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

pytestmark = pytest.mark.tensorflow

SMALLEST = float(np.finfo(np.float32).tiny)  # TensorFlow takes results below it for 0

HUGE = float(np.float32(3.4e38))
numbers = st.floats(-HUGE, HUGE, width=32) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e-45, -3e-39])
events = st.lists(
    st.fixed_dictionaries({"met": numbers, "n": st.integers(-(2**24), 2**24), "jets": st.lists(numbers, max_size=4)}),
    min_size=1,
    max_size=8,
)
configs = st.builds(
    FeatureConfig,
    normalise=st.sampled_from(["minmax", "standard", "robust", "none"]),
    caps=st.dictionaries(st.just("jets"), st.integers(1, 3), max_size=1),
)


def seen_by_the_model(graph_of: Any, x: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Matrix and mask that a graph hands to the model, run as a graph and optimised as one."""
    import tensorflow as tf

    graph = tf.function(graph_of(lambda matrix, mask: (matrix, mask)))
    matrix, mask = graph(tf.constant(x))
    return matrix.numpy(), mask.numpy()


@settings(max_examples=25)
@given(rows=events, config=configs)
def test_the_graph_normalises_pads_and_masks_as_the_kernel_does(
    rows: list[dict[str, Any]], config: FeatureConfig
) -> None:
    types = {"met": pa.float32(), "n": pa.int32(), "jets": pa.list_(pa.float32())}
    columns = {name: pa.array([row[name] for row in rows], kind, from_pandas=False) for name, kind in types.items()}
    batch = pa.RecordBatch.from_pydict(columns)
    specs = Specs.of(batch, batch.schema.names, batch.schema.names)
    transform = FeatureTransform.of(specs, config)
    missing = sentinel(specs.ranges)
    x = raw_vector(batch, transform, missing)
    matrix, mask = seen_by_the_model(lambda scores: takes_events(scores, transform, missing), x)
    expected = transform.matrix(batch)
    np.testing.assert_array_equal(mask, expected.mask)
    np.testing.assert_allclose(matrix, expected.matrix, rtol=0, atol=SMALLEST)


def test_denormal_values_keep_their_places_in_a_range_of_such() -> None:
    # a processor that takes them for 0, as TensorFlow's threads do, would make all of them 0
    transform = FeatureTransform(FeatureLayout((("tiny", 1),)), (False,), (-2e-39,), (1 / 6e-39,))
    x = np.array([[-2e-39], [4e-39], [1e-39], [1e-45], [0.0]], np.float32)
    matrix, mask = seen_by_the_model(lambda scores: takes_events(scores, transform, MISSING), x)
    np.testing.assert_allclose(matrix[:, 0], [0, 1, 0.5, 1 / 3, 1 / 3], atol=1e-6)
    assert mask.tolist() == [[1.0]] * 5


def test_a_constant_branch_is_0_and_real() -> None:
    transform = FeatureTransform(FeatureLayout((("same", 1),)), (False,), (7.0,), (0.0,))
    matrix, mask = seen_by_the_model(lambda scores: takes_events(scores, transform, MISSING), np.array([[8.0]], "f"))
    assert (matrix.tolist(), mask.tolist()) == ([[0.0]], [[1.0]])


def test_features_are_left_as_they_are_and_the_sentinel_is_missing() -> None:
    x = np.array([[0.0, -3.5, MISSING, np.nan, -2e30]], np.float32)
    matrix, mask = seen_by_the_model(lambda scores: takes_features(scores, MISSING), x)
    assert matrix.tolist() == [[0.0, -3.5, 0.0, 0.0, 0.0]]
    assert mask.tolist() == [[1.0, 1.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("takes", ["events", "features"])
def test_a_model_that_looks_at_the_mask_is_served_through_one_input(tmp_path: Path, takes: str) -> None:
    import keras

    inputs = [keras.Input((3,)), keras.Input((3,))]
    keras.utils.set_random_seed(2)
    net = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Concatenate()(inputs)))
    transform = FeatureTransform(FeatureLayout((("a", 1), ("b", 2))), (False, True), (1.0, 2.0), (0.5, 2.0))
    x = np.array([[1.0, 2.0, 5.0], [1.0, 2.0, MISSING], [MISSING, MISSING, MISSING]], np.float32)
    features = normalised(x, transform)

    def scores(matrix: Any, mask: Any) -> Any:
        return net([matrix, mask], training=False)

    graph = takes_events(scores, transform, MISSING) if takes == "events" else takes_features(scores, MISSING)
    sent = x if takes == "events" else with_missing(features.matrix, features.mask, MISSING)
    write_savedmodel(net, 3, tmp_path / "s", graph)
    expected = net.predict([features.matrix, features.mask.astype(np.float32)], verbose=0)
    np.testing.assert_allclose(run_savedmodel(tmp_path / "s", sent), expected, atol=1e-6)
    assert not np.allclose(expected[0], expected[1])  # both have matrix 0, 0 there: the mask tells them apart
