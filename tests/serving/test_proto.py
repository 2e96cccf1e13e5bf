"""proto: bytes as the format says, written out by hand from protobuf's encoding guide."""

from __future__ import annotations

import struct

import pytest

from mlaas_spark.errors import ServingError
from mlaas_spark.serving import proto


def text(field: int, value: str) -> bytes:
    """A field of text: tag with wire type 2, length, UTF-8."""
    return bytes([field << 3 | 2, len(value.encode())]) + value.encode()


def test_a_row_has_the_bytes_of_the_format() -> None:
    expected = (
        text(1, "MET") + text(1, "pt") + text(3, "higgs") + bytes([2 << 3 | 2, 8]) + struct.pack("<2f", 1.5, -2.0)
    )
    assert proto.encode_names(["MET", "pt"], "higgs") + proto.encode_values([1.5, -2.0]) == expected


def test_a_row_comes_back_whatever_the_order_of_its_fields() -> None:
    assert proto.decode_row(bytes([0x12, 4]) + struct.pack("<f", 3.5) + text(3, "m") + text(1, "é")) == (
        ["é"],
        [3.5],
        "m",
    )


def test_a_row_of_a_thousand_values_has_a_length_of_two_bytes() -> None:
    values = [float(number) for number in range(1000)]
    body = proto.encode_values(values)
    assert body[:3] == bytes([0x12, 4000 & 0x7F | 0x80, 4000 >> 7])
    assert list(struct.unpack("<1000f", body[3:])) == values


def test_predictions_of_the_format_are_read() -> None:
    of_class = text(1, "signal") + bytes([2 << 3 | 5]) + struct.pack("<f", 0.25)
    zero = b""  # proto3 leaves out what is 0
    body = bytes([0x0A, len(of_class)]) + of_class + bytes([0x0A, len(zero)])
    assert proto.decode_predictions(body) == [0.25, 0.0]


def test_predictions_come_back() -> None:
    assert proto.decode_predictions(proto.encode_predictions([0.5, 0.125])) == [0.5, 0.125]


@pytest.mark.parametrize("body", [b"<html>", b"\x0a\xff", b"[0.5]"])
def test_what_is_no_protobuf_is_refused(body: bytes) -> None:
    with pytest.raises(ServingError, match="no Predictions of protobuf"):
        proto.decode_predictions(body)
