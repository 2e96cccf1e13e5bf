"""torch's own communication, gloo, between the workers of a training that know of each other as a ``Group``.

gloo moves gradients; the group says where gloo's store is, which worker is gone when gloo fails, and compares weights.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas_spark.errors import ModelContractError, reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from mlaas_spark.ml.group import Group

_INTERFACE = "GLOO_SOCKET_IFNAME"
_GET_ADDRESS = 0x8915  # SIOCGIFADDR, netdevice(7)
_NAME = 16  # IFNAMSIZ
_WORDS = ("gloo", "connection", "timed out", "socket", "broken pipe")
"""Of gloo's errors, which are plain RuntimeErrors."""


def check_available() -> None:
    """Torch has gloo.

    Raises:
        ModelContractError: It was built without.
    """
    import torch

    there = torch.distributed.is_available() and getattr(torch.distributed, "is_gloo_available", lambda: True)()
    if not there:
        msg = f"torch {torch.__version__} was built without gloo, by which its workers train: set train.workers to 1"
        raise ModelContractError(msg)


@contextmanager
def joined(group: Group, hosts: list[str]) -> Iterator[None]:
    """While torch.distributed knows the workers; gradients go over the network of which Spark has named the hosts.

    Args:
        group: The workers.
        hosts: The machine of each, in the order of their numbers.

    Raises:
        ModelContractError: They do not reach each other.
    """
    import torch.distributed as dist

    limit, first = timedelta(seconds=group.patience), group.rank == 0
    if _INTERFACE not in os.environ and (name := interface(hosts[group.rank])):
        os.environ[_INTERFACE] = name  # gloo itself would take whatever this machine's name leads to
    store: Any = None
    if first:
        store = dist.TCPStore(hosts[0], 0, group.size, True, limit, False)  # noqa: FBT003 - torch 1.13 has no names for them
    port = int(group.gather(str(store.port) if first else "")[0])
    try:
        if not first:
            store = dist.TCPStore(hosts[0], port, group.size, False, limit, False)  # noqa: FBT003 - as above
        dist.init_process_group("gloo", store=store, rank=group.rank, world_size=group.size, timeout=limit)
    except (RuntimeError, ValueError) as error:
        msg = (
            f"{group.names[group.rank]} cannot reach the others by gloo ({reason(error)}): executors must reach each "
            f"other's ports; {_INTERFACE} names a network interface"
        )
        raise ModelContractError(msg) from error
    try:
        yield
    finally:
        _leave()


def interface(host: str) -> str | None:
    """The network interface of this machine that has the address of ``host``, None if none has."""
    try:
        address = socket.inet_aton(socket.gethostbyname(host))
    except OSError:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack(f"{_NAME}s{_NAME}x", name.encode()[: _NAME - 1])
            with suppress(OSError):  # one without an address
                answer = fcntl.ioctl(probe, _GET_ADDRESS, request)
                if answer[_NAME + 4 : _NAME + 8] == address:
                    return name
    return None


@contextmanager
def told(group: Group) -> Iterator[None]:
    """Where gloo fails, say which worker is gone, or what has ended it."""
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error).lower() for word in _WORDS):
            raise  # of the user's module
        _leave()  # so that the others do not wait for this one
        raise group.lost(error) from error


def _leave() -> None:
    """End gloo's connections, if there are any still."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def total(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The sum of the arrays of all workers, the same bytes for each."""
    import torch
    import torch.distributed as dist

    whole = torch.from_numpy(np.array(values, np.float64))
    dist.all_reduce(whole)
    return np.asarray(whole.numpy())
