"""Memory that is used again."""

from __future__ import annotations

import mmap
import platform
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mlaas_spark.memory import Buffers


def address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


@pytest.mark.parametrize(("shape", "dtype"), [((3, 5), np.float32), ((0, 4), np.uint8), ((9000,), np.int64)])
def test_an_array_has_its_shape_and_type_and_can_be_written(shape: tuple[int, ...], dtype: type[Any]) -> None:
    made = Buffers().empty(shape, dtype)
    made[...] = 1
    assert made.shape == shape
    assert made.dtype == dtype
    assert made.sum() == np.prod(shape)
    assert address(made) % mmap.PAGESIZE == 0


def test_memory_comes_back_only_when_the_last_view_is_gone() -> None:
    buffers = Buffers()
    made = buffers.empty((100, 4), np.float32)
    place, view = address(made), made[10:20].reshape(-1)[1:]
    del made
    other = buffers.empty((100, 4), np.float32)
    assert address(other) != place
    del view
    assert address(buffers.empty((90, 4), np.float32)) == place  # a smaller one of the same power of two


def test_arrays_that_live_together_share_nothing() -> None:
    buffers = Buffers()
    made = [buffers.empty((1000,), np.float64) for _ in range(5)]
    for number, array in enumerate(made):
        array[:] = number
    assert [set(array) for array in made] == [{0}, {1}, {2}, {3}, {4}]


def test_threads_take_and_let_go_without_sharing() -> None:
    buffers = Buffers()
    mixed = []

    def work(number: int) -> None:
        for _ in range(200):
            made = buffers.empty((5000,), np.int64)
            made[:] = number
            if (made != number).any():
                mixed.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not mixed


_TWICE = """
import resource
import numpy as np
import pyarrow as pa
from mlaas_spark.memory import keep_freed
print(keep_freed(), pa.default_memory_pool().backend_name)
np.ones(2**21), np.ones(2**21)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**21)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries give back what is freed")
def test_freed_memory_is_used_again_without_a_page_fault() -> None:
    command = [sys.executable, "-c", _TWICE]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()  # noqa: S603 - our own
    assert said[:2] == ["True", "system"]
    assert int(said[2]) < 100  # of 4,096 pages
