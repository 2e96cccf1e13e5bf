"""How a process of ours keeps its memory: what numpy and Arrow free stays with it, to be used again."""

from __future__ import annotations

import ctypes
import functools

import pyarrow as pa

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT = 2**30


@functools.cache
def keep_freed() -> bool:
    """Serve blocks of up to 1 GiB from memory that was freed before; whether the C library can (glibc's can).

    By default blocks from 32 MiB are got from the system and given back each time, and smaller ones when they are the
    last of the heap: the columns and matrices of each range then come as fresh pages, which the kernel clears, a fault
    for each 4 KiB. That is a third of the time of reading ROOT. The process keeps what its largest range needed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl, macOS
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    kept = bool(mallopt(_M_MMAP_THRESHOLD, _KEPT) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
    if kept:
        pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own, jemalloc, gives back too
    return kept
