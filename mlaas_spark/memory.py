"""How a process of ours keeps its memory: what numpy and Arrow free stays with it, to be used again."""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import weakref
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    import numpy.typing as npt

    Empty: TypeAlias = Callable[[tuple[int, ...], type[Any]], npt.NDArray[Any]]

ALIGNMENT = 64
"""Bytes at a multiple of which TensorFlow takes memory as it is."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT, _KEPT_BY_OLDER = 2**30, 2**25


@functools.cache
def keep_freed() -> bool:
    """Serve large blocks from memory that was freed before; whether the C library can (glibc's can).

    By default blocks from 32 MiB are got from the system and given back each time, and smaller ones when they are the
    last of the heap: the columns of each range then come as fresh pages, which the kernel clears, a fault for each
    4 KiB. That is a tenth of the time of reading ROOT. Blocks of up to 1 GiB stay, with an older glibc of up to 32 MiB:
    the process keeps what its largest range needed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl, macOS
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    largest = any(mallopt(_M_MMAP_THRESHOLD, size) for size in (_KEPT, _KEPT_BY_OLDER))
    kept = bool(largest and mallopt(_M_TRIM_THRESHOLD, _KEPT))
    if kept:
        pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own, jemalloc, gives back too
    return kept


class Buffers:
    """Arrays whose memory comes back when nobody holds them or a view of them any more, to be given out again.

    For arrays of tens of MB that come and go: the system would clear their pages each time. They begin on a page,
    which is at a multiple of :data:`ALIGNMENT`. Any thread may take and let go.
    """

    def __init__(self) -> None:
        self._free: defaultdict[int, list[mmap.mmap]] = defaultdict(list)

    def empty(self, shape: tuple[int, ...], dtype: type[Any]) -> npt.NDArray[Any]:
        """As ``numpy.empty``."""
        count = math.prod(shape)
        # powers of two: pages that are not used are not there, and the last row group of a file finds one too
        size = 1 << max(count * np.dtype(dtype).itemsize - 1, mmap.PAGESIZE - 1).bit_length()
        free = self._free[size]
        try:
            memory = free.pop()
        except IndexError:
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared has no huge pages
            if hasattr(mmap, "MADV_HUGEPAGE"):
                memory.madvise(mmap.MADV_HUGEPAGE)
        flat = np.frombuffer(memory, dtype, count)  # the base of all views of it
        weakref.finalize(flat, free.append, memory).atexit = False
        return flat.reshape(shape)
