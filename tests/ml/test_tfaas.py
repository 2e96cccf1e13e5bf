from __future__ import annotations

import json
from typing import Any

import pytest

from mlaas_spark.errors import ServingError
from mlaas_spark.ml.tfaas import Params, check_name, served_name


def test_a_served_name_ends_in_twelve_digits_of_the_digest() -> None:
    assert served_name("higgs", "0123456789abcdef") == "higgs_0123456789ab"


@pytest.mark.parametrize("name", ["", "my-model", "a.b", "a/b", "../a", "ünter", "a b", "a\n"])
def test_names_the_server_could_not_address_are_refused(name: str) -> None:
    with pytest.raises(ServingError, match="no name for a served model"):
        check_name(name)


def test_params_have_the_servers_keys_and_ops() -> None:
    assert json.loads(Params("higgs_1", "for people").dumps()) == {
        "name": "higgs_1",
        "model": "saved_model.pb",
        "labels": "labels.txt",
        "options": ["serve"],
        "input_name": "inputs_input",
        "output_name": "StatefulPartitionedCall",
        "input_node": "serving_default_inputs_input",
        "output_node": "StatefulPartitionedCall",
        "description": "for people",
    }


def test_params_come_back_from_json() -> None:
    assert Params.loads(Params("a", "b").dumps()) == Params("a", "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a-b"}, "no name for a served model"),
        ({"name": 3}, "name is not text"),
        ({"options": ["train"]}, r"options is \['train'\], the server works with \['serve'\]"),
        ({"input_node": "x"}, "input_node is 'x'"),
        ({"output_node": "PartitionedCall"}, "output_node is 'PartitionedCall'"),
    ],
)
def test_params_the_server_does_not_work_with_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ServingError, match=message):
        Params.loads(json.dumps({**json.loads(Params("a").dumps()), **change}))


def test_params_without_a_key_are_refused_naming_it() -> None:
    content = json.loads(Params("a").dumps())
    del content["labels"]
    with pytest.raises(ServingError, match="lacks labels"):
        Params.loads(json.dumps(content))


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_params_that_are_no_mapping_are_refused(text: str) -> None:
    with pytest.raises(ServingError, match="not"):
        Params.loads(text)
