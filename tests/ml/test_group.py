from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlaas_spark.errors import ChunkError, MlaasSparkError, ModelContractError
from mlaas_spark.ml.group import Group, listen

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"
KEY = b"secret"


def names(size: int) -> list[str]:
    return [f"worker {rank}" for rank in range(size)]


def each(size: int, work: Callable[[Group], Any], patience: float = 60) -> list[Future[Any]]:
    """What ``work`` gives or raises in each of so many workers, here threads."""
    server = listen(HOST)
    address = server.getsockname()[:2]

    def run(rank: int) -> Any:
        if rank == 0:
            group = Group.hub(server, KEY, names(size), patience)
        else:
            group = Group.member(rank, address, KEY, names(size), patience)
        try:
            return work(group)
        except MlaasSparkError as error:
            group.fail(error)
            raise
        finally:
            group.close()

    with ThreadPoolExecutor(size) as pool:
        return [pool.submit(run, rank) for rank in range(size)]


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_total_is_the_sum_and_the_same_bytes_for_all(size: int, dtype: Any) -> None:
    parts = np.random.default_rng(1).normal(size=(size, 3, 70_000)).astype(dtype)  # more than a socket's buffer
    totals = [done.result() for done in each(size, lambda group: group.total(parts[group.rank]))]
    np.testing.assert_allclose(totals[0], parts.astype(np.float64).sum(axis=0), rtol=1e-4, atol=1e-5)
    assert totals[0].dtype == dtype
    assert {total.tobytes() for total in totals} == {totals[0].tobytes()}


def test_what_each_says_comes_to_all_in_order() -> None:
    answers = each(3, lambda group: group.gather(f"I am {group.rank} ü"))
    assert [done.result() for done in answers] == [["I am 0 ü", "I am 1 ü", "I am 2 ü"]] * 3


@pytest.mark.parametrize("culprit", [0, 1, 2])
def test_an_error_of_one_is_raised_in_all_of_them(culprit: int) -> None:
    def work(group: Group) -> Any:
        if group.rank == culprit:
            msg = "part-7 is damaged"
            raise ChunkError(msg)
        return group.total(np.ones(300_000))

    for done in each(3, work):
        with pytest.raises(ChunkError, match="part-7 is damaged"):
            done.result()


@pytest.mark.parametrize("culprit", [0, 1])
def test_one_that_is_gone_is_named(culprit: int) -> None:
    def work(group: Group) -> Any:
        if group.rank == culprit:
            return group.close()
        return group.total(np.ones(300_000))

    with pytest.raises(ModelContractError, match=f"worker {culprit} is gone: .*--resume"):
        each(2, work)[1 - culprit].result()


def test_one_that_says_nothing_is_named_after_the_patience() -> None:
    answered = threading.Event()

    def work(group: Group) -> Any:
        if group.rank == 1:
            answered.wait(60)
            return None
        try:
            return group.total(np.ones(3))
        finally:
            answered.set()

    with pytest.raises(ModelContractError, match=r"worker 1 has said nothing for 0\.2 s \(train\.patience\)"):
        each(2, work, patience=0.2)[0].result()


@pytest.mark.parametrize("culprit", [0, 1, 2])
def test_where_another_connection_fails_all_learn_who_is_gone(culprit: int) -> None:
    def work(group: Group) -> Any:
        if group.rank == culprit:
            return group.close()
        raise group.lost(RuntimeError("[pair.cc:589] Connection reset by peer"))

    for rank, done in enumerate(each(3, work)):
        if rank != culprit:
            with pytest.raises(ModelContractError, match=f"worker {culprit} is gone: .*--resume"):
                done.result()


def test_where_another_connection_fails_all_learn_what_ended_one() -> None:
    def work(group: Group) -> Any:
        if group.rank == 1:
            msg = "part-7 is damaged"
            raise ChunkError(msg)
        raise group.lost(RuntimeError("Connection reset by peer"))

    for done in each(3, work):
        with pytest.raises(ChunkError, match="part-7 is damaged"):
            done.result()


def test_where_nobody_is_gone_it_is_said_what_failed() -> None:
    def work(group: Group) -> Any:
        raise group.lost(RuntimeError("no route"))

    for rank, done in enumerate(each(2, work)):
        with pytest.raises(ModelContractError, match=rf"worker {rank} has lost the others \(RuntimeError: no route\)"):
            done.result()


def test_weights_that_differ_are_named_by_worker() -> None:
    each(2, lambda group: group.check_equal([np.ones(3)], "epoch 1"))[0].result()
    for done in each(3, lambda group: group.check_equal([np.ones(3) * (group.rank == 2)], "epoch 1")):
        with pytest.raises(
            ModelContractError, match="after epoch 1 the weights of worker 2 differ from those of worker 0"
        ):
            done.result()


def test_other_models_are_told_apart() -> None:
    with pytest.raises(ModelContractError, match="worker 1 trains another model than worker 0"):
        each(2, lambda group: group.total(np.ones(3 + group.rank)))[0].result()


def test_who_does_not_know_the_key_is_not_let_in() -> None:
    server = listen(HOST)
    address = server.getsockname()[:2]
    with ThreadPoolExecutor(2) as pool:
        hub = pool.submit(Group.hub, server, KEY, names(2), 60)
        with pytest.raises(ModelContractError, match="worker 1 cannot reach worker 0"):
            Group.member(1, address, b"guess", names(2), 60)
        with socket.create_connection(address) as stranger, suppress(OSError):
            stranger.sendall(os.urandom(4096))
        right = pool.submit(Group.member, 1, address, KEY, names(2), 60)
        assert (hub.result().rank, right.result().rank) == (0, 1)
        hub.result().close()
        right.result().close()


def test_workers_that_do_not_come_are_named() -> None:
    with pytest.raises(ModelContractError, match=r"worker 1, worker 2 did not reach worker 0 within 0\.1 s"):
        Group.hub(listen(HOST), KEY, names(3), 0.1)
