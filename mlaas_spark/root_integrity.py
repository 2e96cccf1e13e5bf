"""What uproot does not check of a ROOT file before it believes it: lengths, entries, checksums. Changes no file.

Importing it makes uproot's decompression, which is of the process, refuse blocks that lie about their lengths. Formats:
ROOT's RZip.cxx (blocks), TBasket.h and TKey.h (baskets), BinaryFormatSpecification.md of RNTuple (pages).
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Any

import cramjam
import deflate
import numpy as np
import uproot
import xxhash

from mlaas_spark.errors import DamagedInputError

if TYPE_CHECKING:
    from collections.abc import Callable

_XZ: Any = getattr(cramjam, "xz", None) or cramjam.experimental.lzma  # type: ignore[attr-defined] # of older ones
_BLOCK_HEADER = struct.Struct("<2sc3s3s")  # algorithm, method, bytes on disk, bytes of the values
_LARGE, _RATIO = 1 << 28, 1_000  # a basket of so many bytes and packed so many times is made to fill memory
_PAGE_CHECKSUM = struct.Struct("<Q")


def _inflate(data: bytes, size: int) -> bytearray:
    return deflate.zlib_decompress(data, size)


def _into(decompress: Callable[[Any, Any], int]) -> Callable[[bytes, int], bytes]:
    """Decompression into so many bytes, no more and no fewer.

    cramjam takes a size for a hint: what comes out may be a thousand times as long, or, of LZ4, filled with zeros.
    """

    def run(data: bytes, size: int) -> bytes:
        target = np.empty(size, np.uint8)
        if (length := decompress(data, target)) != size:
            msg = f"a block has {length} bytes, its header says {size}"
            raise ValueError(msg)
        return target  # type: ignore[return-value] # a buffer, as all that uproot makes of it

    return run


def _refuse_lies(
    *,
    chunk: Any,
    cursor: Any,
    compressed_bytes: int,
    uncompressed_bytes: int,
    num_blocks: int,
    **_: Any,
) -> None:
    """Before the first block: the blocks have together what was announced, so that memory for it may be taken.

    So a file of n bytes takes no more than 256 MiB, or 1,000 n bytes, for any of its baskets.
    """
    if num_blocks:
        return
    if uncompressed_bytes > max(_LARGE, _RATIO * compressed_bytes):
        msg = f"{compressed_bytes} bytes say that they are {uncompressed_bytes} packed: a bomb, or damage"
        raise ValueError(msg)
    start, place, total = cursor.index, 0, 0
    while place < compressed_bytes and total < uncompressed_bytes:
        header = chunk.get(start + place, start + place + _BLOCK_HEADER.size, cursor, {})
        _, _, packed, whole = _BLOCK_HEADER.unpack(bytes(header))
        place += _BLOCK_HEADER.size + int.from_bytes(packed, "little")
        total += int.from_bytes(whole, "little")
    if total != uncompressed_bytes or place > compressed_bytes:
        msg = (
            f"its compressed blocks have {total} bytes, of {place} on disk, where {uncompressed_bytes}, of "
            f"{compressed_bytes}, are announced"
        )
        raise ValueError(msg)


# libdeflate, 1.7 times as fast as zlib. uproot has a place for it, ``library``, but calls an older interface of it; and
# of these instances alone: ``uproot.ZLIB``, which uproot documents, is for writing.
uproot.compression._decompress_ZLIB.decompress = _inflate  # noqa: SLF001
uproot.compression._decompress_ZSTD.decompress = _into(cramjam.zstd.decompress_into)  # noqa: SLF001
uproot.compression._decompress_LZ4.decompress = _into(cramjam.lz4.decompress_block_into)  # noqa: SLF001
uproot.compression._decompress_LZMA.decompress = _into(_XZ.decompress_into)  # noqa: SLF001
uproot.compression.decompress.hook_before_block = _refuse_lies


def check_tree(tree: Any, entries: int, path: str, name: str) -> None:
    """See that a tree's header fits together, as far as that costs nothing.

    Raises:
        DamagedInputError: A number of entries that no branch has, baskets whose entries go back, clusters of none.
    """
    if entries < 0:
        raise DamagedInputError(path, f"its header says that it has {entries} entries", name)
    if hasattr(tree, "cluster_summaries"):
        edges = [int(cluster.num_first_entry) for cluster in tree.cluster_summaries]
        lengths = [int(cluster.num_entries) for cluster in tree.cluster_summaries]
        if edges != [0, *itertools.accumulate(lengths)][:-1]:
            raise DamagedInputError(path, "its clusters do not follow each other", name)
        return
    most = 0
    for branch in tree.itervalues(recursive=True):
        try:
            offsets = branch.entry_offsets
        except ValueError:  # of a branch that does not fit together: who reads it is told
            continue
        if any(first > last for first, last in itertools.pairwise(offsets)):
            raise DamagedInputError(path, f"the baskets of branch {branch.name!r} have entries that go back", name)
        most = max(most, offsets[-1])
    if entries > most:
        why = f"its header says that it has {entries} entries, and no branch has more than {most}"
        raise DamagedInputError(path, why, name)


class _Checked:
    """An interpretation of uproot that looks at each basket's header before it takes values from it."""

    def basket_array(self, data: Any, byte_offsets: Any, basket: Any, branch: Any, *rest: Any) -> Any:
        """As uproot's own.

        Raises:
            ValueError: The basket is not the one that the tree's header tells of.
        """
        _check_basket(basket, branch)
        return super().basket_array(data, byte_offsets, basket, branch, *rest)  # type: ignore[misc]


class Numbers(_Checked, uproot.AsDtype):  # type: ignore[misc] # uproot has no types
    """Flat numbers."""


class Lists(_Checked, uproot.AsJagged):  # type: ignore[misc]
    """Jagged numbers."""


def _check_basket(basket: Any, branch: Any) -> None:
    offsets, number = branch.entry_offsets, basket.basket_num
    wanted = offsets[number + 1] - offsets[number]
    if basket.num_entries != wanted:
        msg = f"basket {number} of branch {branch.name!r} has {basket.num_entries} entries, the tree says {wanted}"
        raise ValueError(msg)
    if not basket.is_embedded:
        size, told = basket.member("fNbytes"), int(branch.member("fBasketBytes")[number])
        if size != told:
            msg = f"basket {number} of branch {branch.name!r} has {size} bytes, the tree says {told}"
            raise ValueError(msg)
        if not 0 <= basket.border <= basket.member("fObjlen"):
            msg = f"basket {number} of branch {branch.name!r} has values to byte {basket.border} of its content"
            raise ValueError(msg)


def _checked_pages(read_page: Callable[..., None]) -> Callable[..., None]:
    """Uproot's reader of an RNTuple's page, with the page's checksum looked at where it has one."""

    def run(self: Any, destination: Any, cluster_idx: int, col_idx: int, page_idx: int, field_metadata: Any) -> None:
        page = self._ntuple.page_link_list[cluster_idx][col_idx].pages[page_idx]
        if page.has_checksum:
            start, stop = page.locator.offset, page.locator.offset + page.locator.num_bytes
            content = bytes(self.file.source.chunk(start, stop + _PAGE_CHECKSUM.size).raw_data)
            (told,) = _PAGE_CHECKSUM.unpack(content[-_PAGE_CHECKSUM.size :])
            if xxhash.xxh3_64_intdigest(content[: -_PAGE_CHECKSUM.size]) != told:
                msg = f"page {page_idx} of column {col_idx} in cluster {cluster_idx} has another checksum than it says"
                raise ValueError(msg)
        read_page(self, destination, cluster_idx, col_idx, page_idx, field_metadata)

    return run


_RNTUPLE = uproot.models.RNTuple.Model_ROOT_3a3a_RNTuple
if not getattr(_RNTUPLE.read_page, "__wrapped__", None):
    _read_page = _RNTUPLE.read_page
    _RNTUPLE.read_page = _checked_pages(_read_page)
    _RNTUPLE.read_page.__wrapped__ = _read_page
