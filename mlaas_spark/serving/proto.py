"""TFaaS' protobuf messages, by the protobuf library with descriptors built here: no generated code, no protoc.

    message Row {repeated string key = 1; repeated float value = 2; string model = 3}
    message Class {string label = 1; float probability = 2}
    message Predictions {repeated Class prediction = 1}

Source: design.md section 4, TFaaS' tfaas.proto.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from mlaas_spark.errors import ServingError

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIELD = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "tfaaspb"
_MESSAGES = {
    "Row": (
        ("key", _FIELD.TYPE_STRING, True),
        ("value", _FIELD.TYPE_FLOAT, True),
        ("model", _FIELD.TYPE_STRING, False),
    ),
    "Class": (("label", _FIELD.TYPE_STRING, False), ("probability", _FIELD.TYPE_FLOAT, False)),
    "Predictions": (("prediction", f".{_PACKAGE}.Class", True),),
}


def encode_names(keys: Sequence[str], model: str) -> bytes:
    """The part of a Row that all rows share: the names of its values and the model."""
    encoded: bytes = _message("Row")(key=keys, model=model).SerializeToString()
    return encoded


def encode_values(values: Sequence[float]) -> bytes:
    """The values of a Row; after :func:`encode_names` they are one message, as protobuf merges what is concatenated."""
    encoded: bytes = _message("Row")(value=values).SerializeToString()
    return encoded


def decode_row(body: bytes) -> tuple[list[str], list[float], str]:
    """Keys, values and model of a Row.

    Raises:
        ServingError: It is none.
    """
    row = _decoded("Row", body)
    return list(row.key), list(row.value), row.model


def encode_predictions(scores: Sequence[float]) -> bytes:
    """Predictions as the server makes them, without labels."""
    classes = [_message("Class")(probability=score) for score in scores]
    encoded: bytes = _message("Predictions")(prediction=classes).SerializeToString()
    return encoded


def decode_predictions(body: bytes) -> list[float]:
    """The scores of Predictions.

    Raises:
        ServingError: They are none.
    """
    return [of_class.probability for of_class in _decoded("Predictions", body).prediction]


def _decoded(name: str, body: bytes) -> Any:
    message = _message(name)()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        msg = f"{len(body)} bytes are no {name} of protobuf: {body[:40]!r}"
        raise ServingError(msg) from error
    return message


@cache
def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{_PACKAGE}.{name}"))


@cache
def _pool() -> Any:
    """A pool of our own: the default one is shared with all that the process has loaded."""
    file = descriptor_pb2.FileDescriptorProto(name="tfaas.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, start=1):
            label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            typed = {"type_name": kind, "type": _FIELD.TYPE_MESSAGE} if isinstance(kind, str) else {"type": kind}
            message.field.add(name=field, number=number, label=label, **typed)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool
