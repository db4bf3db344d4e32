"""The KV's state as a stream of chunks, and as one digest.

A stream is a header, every row of the space ``machine`` in order, and a trailer that counts them
and carries their digest, so that a stream that was damaged or cut short anywhere is never taken for
whole. Chunks are cut at 256 KiB without regard to rows: a long value spans several.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final

from raftkv.errors import StorageCorruptError, StorageFormatError
from raftkv.storage.base import Batch, Reader, Space

CHUNK_BYTES: Final = 256 * 1024

_MAGIC: Final = b"raftkv-kv\0"
_FORMAT: Final = 1
_HEADER: Final = struct.Struct(f"<{len(_MAGIC)}sH")
_ROW: Final = struct.Struct("<II")  # key length, row length
_TRAILER_MARK: Final = _ROW.pack(0, 0)  # no row has an empty key
_TRAILER: Final = struct.Struct("<Q16s")  # rows, digest
_DIGEST_BYTES: Final = 16


def dump(reader: Reader) -> Iterator[bytes]:
    """The stream of everything in ``reader``. Touches nothing else."""
    digest = blake2b(digest_size=_DIGEST_BYTES)
    pending = bytearray(_HEADER.pack(_MAGIC, _FORMAT))
    count = 0
    for key, row in reader.scan(Space.MACHINE):
        record = _ROW.pack(len(key), len(row)) + key + row
        digest.update(record)
        pending += record
        count += 1
        while len(pending) >= CHUNK_BYTES:
            yield bytes(pending[:CHUNK_BYTES])
            del pending[:CHUNK_BYTES]
    pending += _TRAILER_MARK + _TRAILER.pack(count, digest.digest())
    yield bytes(pending)


def restore(chunks: Iterable[bytes], batch: Batch) -> None:
    """Put every row of the stream into ``batch``.

    Raises StorageCorruptError or StorageFormatError.
    """
    stream = _Stream(chunks)
    _check_header(stream.take(_HEADER.size))
    digest = blake2b(digest_size=_DIGEST_BYTES)
    count = 0
    while True:
        head = stream.take(_ROW.size)
        if head == _TRAILER_MARK:
            break
        key_length, row_length = _ROW.unpack(head)
        if not key_length:
            raise _damaged(f"row {count} has no key")
        # No bound on the lengths: memory is taken for what arrives, not for what is announced.
        body = stream.take(key_length + row_length)
        digest.update(head)
        digest.update(body)
        batch.put(Space.MACHINE, body[:key_length], body[key_length:])
        count += 1
    if stream.take(_TRAILER.size) != _TRAILER.pack(count, digest.digest()):
        raise _damaged(f"its {count} rows fail their digest")
    if not stream.is_at_end:
        raise _damaged("bytes follow its end")


def state_hash(reader: Reader) -> str:
    """A digest of everything in ``reader``, in hexadecimal."""
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for key, row in reader.scan(Space.MACHINE):
        digest.update(_ROW.pack(len(key), len(row)))
        digest.update(key)
        digest.update(row)
    return digest.hexdigest()


def _check_header(header: bytes) -> None:
    magic, version = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise _damaged("it does not begin as one; was it made by another kind of machine?")
    if version != _FORMAT:
        raise StorageFormatError(
            f"the KV snapshot has format {version}, this version of raftkv reads {_FORMAT}; "
            "upgrade this member"
        )


class _Stream:
    """Exact reads over chunks of any size."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._buffer = b""
        self._offset = 0

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes. Raises StorageCorruptError if the stream ends before."""
        stop = self._offset + size
        if stop > len(self._buffer):
            self._fill(size)
            stop = size
        taken = self._buffer[self._offset : stop]
        self._offset = stop
        return taken

    def _fill(self, size: int) -> None:
        parts = [self._buffer[self._offset :]]
        have = len(parts[0])
        while have < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise _damaged("it is cut short")
            parts.append(chunk)
            have += len(chunk)
        self._buffer, self._offset = b"".join(parts), 0

    @property
    def is_at_end(self) -> bool:
        """Whether nothing is left."""
        return self._offset == len(self._buffer) and not any(self._chunks)


def _damaged(what: str) -> StorageCorruptError:
    return StorageCorruptError(f"the KV snapshot is damaged: {what}; ask for it anew")
