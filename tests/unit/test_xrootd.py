"""xrootd: which byte ranges go into a request, and what is tried again; silent servers are sockets of this process."""

from __future__ import annotations

import socket
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_spark import root_io, storage, xrootd
from mlaas_spark.errors import UnreadableInputError
from mlaas_spark.xrootd import Patience, batches, joined

if TYPE_CHECKING:
    from collections.abc import Iterator

BASKETS = st.lists(st.tuples(st.integers(0, 2**16) | st.integers(0, 2**40), st.integers(1, 2**24)), max_size=40)


@pytest.fixture
def silent() -> Iterator[str]:
    """URL of a file on a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"root://127.0.0.1:{server.getsockname()[1]}//store/x.root"


@given(BASKETS)
def test_batches_have_each_range_once_in_the_order_of_the_file(baskets: list[tuple[int, int]]) -> None:
    ranges = [(start, start + size) for start, size in baskets]
    assert [span for batch in batches(ranges) for span in batch] == sorted(ranges)


@given(BASKETS)
def test_batches_of_several_ranges_keep_to_the_size_of_a_request_and_are_no_smaller_than_need_be(
    baskets: list[tuple[int, int]],
) -> None:
    made = list(batches((start, start + size) for start, size in baskets))
    sizes = [sum(stop - start for start, stop in batch) for batch in made]
    limit = 8 * 2**20
    assert all(size <= limit or len(batch) == 1 for size, batch in zip(sizes, made, strict=True))
    assert all(size + batch[0][1] - batch[0][0] > limit for size, batch in zip(sizes, made[1:], strict=False))


@given(BASKETS)
def test_joined_spans_hold_each_range_and_lie_apart(baskets: list[tuple[int, int]]) -> None:
    ranges = [(start, start + size) for start, size in baskets]
    spans = joined(ranges)
    assert all(after[0] - before[1] > 4096 for before, after in pairwise(spans))
    assert all(sum(begin <= start and stop <= end for begin, end in spans) == 1 for start, stop in ranges)
    assert {edge for span in spans for edge in span} <= {edge for span in ranges for edge in span}


def test_waits_grow_up_to_a_minute() -> None:
    for _ in range(20):
        waits = list(Patience(timeout=1, retries=6).waits())
        assert len(waits) == 6
        assert all(
            most / 2 <= wait <= most for wait, most in zip(waits, (1.0, 4.0, 16.0, 60.0, 60.0, 60.0), strict=True)
        )
        assert all(before < after for before, after in pairwise(waits[:3]))


def test_silent_server_is_tried_as_often_as_patience_says(silent: str) -> None:
    with pytest.raises(UnreadableInputError, match=r"does not answer \(.*\), tried 2 times in \d+ s") as caught:
        root_io.read_header(silent, patience=Patience(timeout=1, retries=1))
    assert caught.value.path == silent


def test_client_that_never_calls_back_is_not_waited_for_without_end(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    xrootd.prepare_client()
    monkeypatch.setattr("XRootD.client.File.open", lambda *_, **__: SimpleNamespace(ok=True))
    monkeypatch.setattr(xrootd, "_GRACE_S", 0)
    with pytest.raises(UnreadableInputError, match=r"its client has not called back in 1 s\), tried once"):
        root_io.read_header(silent, patience=Patience(timeout=1, retries=0))


def test_folder_of_a_silent_server_is_not_taken_for_an_empty_one(silent: str) -> None:
    for look in (storage.expand, storage.exists, storage.is_folder, storage.below, storage.children, storage.size):
        with pytest.raises(UnreadableInputError, match=r"does not answer .*, tried once"):
            look(silent.replace("x.root", "*"), Patience(timeout=1, retries=0))
