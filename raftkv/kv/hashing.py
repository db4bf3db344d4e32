"""One hash of what the store held at a revision, to compare members by.

It covers everything that can be read from the floor up to that revision: the versions in force at
the revision, in key order, and those that ended after the floor and by then, in the order of their
rows. Nothing else: not what is below the floor, so that it does not matter how far the sweep has
come, nor what was written later. So members that agree have the same hash at the same revision and
floor, whenever and however far apart they take it.

Both halves stay as they are while it is taken: what is in force at a revision is read as any past
range is, and a version that ended by then is never touched again but by a sweep. Only a floor that
rises makes it begin anew.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Final

from raftkv.kv import rows
from raftkv.kv.model import EVERYTHING, KeyValue, KvHash, Span
from raftkv.kv.reader import check_revision, read_head, versions_at
from raftkv.kv.values import load
from raftkv.storage.base import Reader, Space

_MACHINE: Final = Space.MACHINE
_BYTES_MAX: Final = 256 * 1024
_DIGEST_BYTES: Final = 16

_IN_FORCE: Final = 0
_PART: Final = struct.Struct("<QIIQQQq")  # end or 0, lengths, create, mod, version, lease


class HashRead:
    """The hash at ``revision`` (0: the one at its first step), taken in steps."""

    __slots__ = ("_at", "_cursor", "_digest", "_floor", "_rest")

    def __init__(self, revision: int = 0) -> None:
        self._at = revision
        self._floor = -1
        self._begin(self._floor)

    def _begin(self, floor: int) -> None:
        self._floor = floor
        self._digest = blake2b(digest_size=_DIGEST_BYTES)
        self._rest: Span | None = EVERYTHING  # whose versions in force are still to come
        self._cursor = rows.HISTORY

    def advance(self, reader: Reader, rows_max: int) -> bool:
        """Take in ``rows_max`` rows, fewer if they are large; True once it is done.

        Raises FutureRevisionError or CompactedError for a revision that cannot be read, or can no
        longer be read.
        """
        head = read_head(reader)
        self._at = self._at or head.revision
        check_revision(head, self._at)
        if head.floor != self._floor:
            self._begin(head.floor)
        if self._rest is not None:
            self._rest = self._take_in_force(reader, self._rest, rows_max, head)
            return False
        return self._take_ended(reader, rows_max)

    @property
    def result(self) -> KvHash:
        """The hash, once :meth:`advance` returned True."""
        return KvHash(self._digest.hexdigest(), self._at, self._floor)

    def _take_in_force(
        self, reader: Reader, rest: Span, rows_max: int, head: rows.Head
    ) -> Span | None:
        scan = versions_at(reader, rest, self._at, head)
        parts: list[bytes] = []
        size = 0
        try:
            for looked, (key, row) in enumerate(scan, 1):
                if row is not None:
                    size += _add(parts, load(reader, key, row), _IN_FORCE)
                if looked >= rows_max or size >= _BYTES_MAX:
                    return Span(key + b"\0", None)
            return None
        finally:
            scan.close()
            self._digest.update(b"".join(parts))

    def _take_ended(self, reader: Reader, rows_max: int) -> bool:
        parts: list[bytes] = []
        size = 0
        try:
            scan = reader.scan(_MACHINE, self._cursor, rows.HISTORY_STOP)
            for looked, (row_key, row) in enumerate(scan, 1):
                end, version = rows.decode_ended(row)
                if self._floor < end <= self._at:
                    key = rows.key_of_history_prefix(rows.split_history_key(row_key)[0])
                    size += _add(parts, load(reader, key, version), end)
                if looked >= rows_max or size >= _BYTES_MAX:
                    self._cursor = row_key + b"\0"
                    return False
            return True
        finally:
            self._digest.update(b"".join(parts))


def read_hash(reader: Reader, revision: int = 0) -> KvHash:
    """A whole :class:`HashRead` in one go."""
    read = HashRead(revision)
    while not read.advance(reader, 4096):
        pass
    return read.result


def _add(parts: list[bytes], item: KeyValue, end: int) -> int:
    """Add a version with its end; return how many bytes that are."""
    lengths = len(item.key), len(item.value)
    numbers = item.create_revision, item.mod_revision, item.version, item.lease
    parts += (_PART.pack(end, *lengths, *numbers), item.key, item.value)
    return _PART.size + sum(lengths)
