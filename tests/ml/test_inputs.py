from __future__ import annotations

import numpy as np
import pytest

from mlaas_spark.layout import FeatureLayout
from mlaas_spark.ml.inputs import InputLayout
from mlaas_spark.transform import FeatureTransform

LAYOUT = FeatureLayout.of(["MET", "nJet"], {"Jet_eta": 2, "Jet_pt": 3, "Muon_pt": 1})
TRANSFORM = FeatureTransform(LAYOUT, (False, False, True, True, True), (0.0,) * 5, (1.0,) * 5)
MATRIX = np.arange(16, dtype=np.float32).reshape(2, 8)
MASK = np.array([[1, 1, 1, 0, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0, 1]], np.uint8)


def test_groups_are_of_the_jagged_branches_that_begin_alike() -> None:
    inputs = InputLayout.of(TRANSFORM, "groups")
    assert {name: group.branches for name, group in inputs.groups.items()} == {
        "flat": ("MET", "nJet"),
        "Jet": ("Jet_eta", "Jet_pt"),
        "Muon": ("Muon_pt",),
    }
    assert inputs.shapes == {"flat": (2,), "Jet": (3, 2), "Jet_mask": (3,), "Muon": (1, 1), "Muon_mask": (1,)}


def test_a_group_holds_the_values_of_each_object_side_by_side() -> None:
    made = InputLayout.of(TRANSFORM, "groups").arrays(MATRIX, MASK)
    assert made["flat"].tolist() == [[0, 1], [8, 9]]
    assert made["Jet"][0].tolist() == [[2, 4], [3, 5], [0, 6]]  # eta, pt of three jets; the third has no eta column
    assert made["Jet_mask"].tolist() == [[1, 1, 0], [0, 0, 0]]
    assert made["Muon"].tolist() == [[[7]], [[15]]]
    assert made["Muon_mask"].tolist() == [[0], [1]]


def test_the_mask_lies_beside_the_matrix() -> None:
    matrix, mask = InputLayout.of(TRANSFORM, "matrix+mask").arrays(MATRIX, MASK)
    assert matrix is MATRIX
    assert mask.dtype == np.float32
    assert np.array_equal(mask, MASK)


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["matrix", "matrix+mask", "groups"])
def test_tensors_are_the_arrays(kind: str) -> None:
    import tensorflow as tf

    inputs = InputLayout.of(TRANSFORM, kind)  # type: ignore[arg-type] # one of the kinds

    arrays = inputs.arrays(MATRIX, MASK)
    tensors = tf.function(inputs.tensors)(tf.constant(MATRIX), tf.constant(MASK, tf.float32))
    pairs = (
        [(arrays[name], tensors[name]) for name in inputs.shapes]
        if kind == "groups"
        else zip(*((arrays, tensors) if kind == "matrix+mask" else ([arrays], [tensors])), strict=True)
    )
    for array, tensor in pairs:
        assert np.array_equal(array, tensor.numpy())
