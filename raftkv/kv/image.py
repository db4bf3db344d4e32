"""The KV's state as a stream of chunks, and as one digest.

A stream is groups of rows, every row of the space ``machine`` once and in order::

    magic | format u16                                    before the first group
    rows u32 | length of each key and row, u32 each | CRC-32 of all before it | keys and rows
    0 u32    | 0 u32 | CRC-32                             a last group, without rows

The checksum goes on from group to group and covers the keys and rows of the groups before, so a
stream that was damaged, mixed or cut short anywhere is never taken for whole. Lengths stand apart
from the bytes because both are then packed and taken apart in a few calls: an image of a million
keys is two million rows, and every microsecond a row costs seconds.

A group is a chunk of about 32 KiB; one that is longer than a chunk may be, because of a long
value, continues in the next.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import blake2b
from itertools import accumulate, pairwise
from typing import Final
from zlib import crc32

from raftkv.errors import StorageCorruptError, StorageFormatError
from raftkv.machine import Row
from raftkv.storage.base import Reader, Space

# Whoever reads a chunk for a peer holds the GIL: puts that go on meanwhile wait for it. Of their
# rate 0.51 was kept at 32 KiB, with 126,000 keys/s to the peer, and 0.30 at 256 KiB, with 145,000.
CHUNK_BYTES: Final = 32 * 1024
_CHUNK_BYTES_MAX: Final = 1024 * 1024  # the port's
_GROUP_ROWS_MAX: Final = 64 * 1024
_GROUP_BYTES_MAX: Final = 256 * 1024 * 1024  # no value is that long: what says so is damaged

_MAGIC: Final = b"raftkv-kv\0"
_FORMAT: Final = 1
_HEADER: Final = struct.Struct(f"<{len(_MAGIC)}sH")
_COUNT: Final = struct.Struct("<I")
_CRC: Final = struct.Struct("<I")
_CARRY: Final = struct.Struct("<BI")  # what was seen, checksum so far; the rest of a chunk follows
_NOTHING: Final = 0
_ROWS: Final = 1
_END: Final = 2
_DIGESTED: Final = struct.Struct("<II")  # key length, row length
_DIGEST_BYTES: Final = 16


def dump(reader: Reader) -> Iterator[bytes]:
    """The stream of everything in ``reader``. Touches nothing else."""
    start = _HEADER.pack(_MAGIC, _FORMAT)
    crc = 0
    parts: list[bytes] = []
    size = 0
    for key, row in reader.scan(Space.MACHINE):
        parts.append(key)
        parts.append(row)
        size += len(key) + len(row)
        if size >= CHUNK_BYTES or len(parts) >= 2 * _GROUP_ROWS_MAX:
            group, crc = _pack(start, parts, crc)
            yield from _pieces(group)
            start, parts, size = b"", [], 0
    if parts:
        group, crc = _pack(start, parts, crc)
        yield from _pieces(group)
        start = b""
    yield _pack(start, [], crc)[0]


def _pack(start: bytes, parts: list[bytes], crc: int) -> tuple[bytes, int]:
    """A group, and the checksum up to its end."""
    lengths = struct.pack(f"<{len(parts)}I", *map(len, parts))
    head = b"".join((start, _COUNT.pack(len(parts) // 2), lengths))
    body = b"".join(parts)
    crc = crc32(head, crc)
    return b"".join((head, _CRC.pack(crc), body)), crc32(body, crc)


def _pieces(group: bytes) -> Iterator[bytes]:
    if len(group) <= _CHUNK_BYTES_MAX:
        yield group
        return
    for start in range(0, len(group), _CHUNK_BYTES_MAX):
        yield group[start : start + _CHUNK_BYTES_MAX]


def restore(chunk: bytes, carry: bytes) -> tuple[list[Row], bytes]:
    """The rows of the next chunk, and the carry for the one after it.

    Raises StorageCorruptError or StorageFormatError. What a group holds is known to be right once
    the group after it was taken: nothing may be done with the rows before :func:`check_whole`.
    """
    seen, crc = _CARRY.unpack_from(carry) if carry else (_NOTHING, 0)
    data = carry[_CARRY.size :] + chunk
    at = 0
    rows: list[Row] = []
    while at < len(data):
        if seen == _END:
            raise _damaged("bytes follow its end")
        head = at
        if seen == _NOTHING:
            if len(data) < _HEADER.size:
                break
            _check_header(data)
            at = _HEADER.size
        group = _group(data, head, at, crc)
        if group is None:
            at = head
            break
        found, crc, at = group
        rows += found
        seen = _ROWS if found else _END
    return rows, _CARRY.pack(seen, crc) + data[at:]


def check_whole(carry: bytes) -> None:
    """Raise StorageCorruptError unless the stream had come to its end."""
    if not carry or _CARRY.unpack_from(carry)[0] != _END:
        raise _damaged("it is cut short")


def _group(data: bytes, head: int, at: int, crc: int) -> tuple[list[Row], int, int] | None:
    """The rows of the group at ``at``, the checksum and the place behind it; None: not all here.

    What belongs to it and is checked with it begins at ``head``.
    """
    if at + _COUNT.size > len(data):
        return None
    (count,) = _COUNT.unpack_from(data, at)
    at += _COUNT.size
    if count > _GROUP_ROWS_MAX:
        raise _damaged(f"a group of it has {count} rows")
    body = at + 8 * count + _CRC.size
    if body > len(data):
        return None
    lengths = struct.unpack_from(f"<{2 * count}I", data, at)
    crc = crc32(data[head : body - _CRC.size], crc)
    if _CRC.unpack_from(data, body - _CRC.size) != (crc,):
        raise _damaged("a group of it fails its checksum")
    size = sum(lengths)
    if size > _GROUP_BYTES_MAX:
        raise _damaged(f"a group of it has {size} bytes")
    stop = body + size
    if stop > len(data):
        return None
    crc = crc32(data[body:stop], crc)
    places = list(accumulate(lengths, initial=body))
    parts = [data[start:end] for start, end in pairwise(places)]
    if not all(lengths[::2]):
        raise _damaged("a row of it has no key")
    return list(zip(parts[::2], parts[1::2], strict=True)), crc, stop


def state_hash(reader: Reader) -> str:
    """A digest of everything in ``reader``, in hexadecimal."""
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for key, row in reader.scan(Space.MACHINE):
        digest.update(_DIGESTED.pack(len(key), len(row)))
        digest.update(key)
        digest.update(row)
    return digest.hexdigest()


def _check_header(header: bytes) -> None:
    magic, version = _HEADER.unpack_from(header)
    if magic != _MAGIC:
        raise _damaged("it does not begin as one; was it made by another kind of machine?")
    if version != _FORMAT:
        raise StorageFormatError(
            f"the KV snapshot has format {version}, this version of raftkv reads {_FORMAT}; "
            "upgrade this member"
        )


def _damaged(what: str) -> StorageCorruptError:
    return StorageCorruptError(f"the KV snapshot is damaged: {what}; ask for it anew")
