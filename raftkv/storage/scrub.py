"""Reading a store again in pieces, to find damage before it is needed: for a slow background check.

Everything here reads a :class:`View`, blocks, and belongs into a worker: each call of ``step`` does
a bounded piece of work and answers what it read, so that the caller can hold a rate, stop at any
time, and keep the view no longer than it likes. Views made for this leave the block cache alone
(``store.view(cached=False)``).

What this finds: every data block of every table that holds a row of the view is read and its
checksum verified; entries of the log are also held against their CRC and chain. What it cannot
find: damage in the write-ahead log, whose rows are still in memory and are verified when the store
is opened next, and rows that are well-formed but wrong. Those are for members to compare with each
other: :class:`RowsHash`.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from struct import Struct
from typing import Final

from raftkv.errors import StorageCorruptError
from raftkv.storage.base import HashedPieces, Piece, Pieces, Reader, Space, View
from raftkv.storage.reading import LogChecker, LogReader

PIECE_BYTES_MAX: Final = 1024 * 1024
_LENGTHS: Final = Struct("<II")
_HASH_BYTES: Final = 32
_PERSON: Final = b"raftkv rows"


class _Pieces:
    """Rows read in pieces, until the end or the first damage, which then stays."""

    def __init__(self, rows: Iterator[tuple[bytes, bytes]]) -> None:
        self._rows = rows
        self._damage: StorageCorruptError | None = None

    def step(self, bytes_max: int = PIECE_BYTES_MAX) -> Piece:
        """Read on for about ``bytes_max`` bytes, at least one row.

        Raises StorageCorruptError that names what is damaged, and so does every later call.
        """
        if self._damage is not None:
            raise _again(self._damage)
        count = size = 0
        try:
            for key, value in self._rows:
                count += 1
                size += len(key) + len(value)
                if size >= bytes_max:
                    return Piece(count, size, False)
        except StorageCorruptError as damage:
            self._damage = _again(damage)
            raise
        return Piece(count, size, True)


class Scrub(_Pieces, Pieces):
    """All rows of all spaces of a view, read once; the log's records and chain checked as well."""

    def __init__(self, view: View) -> None:
        super().__init__(_checked(view))


def _checked(view: View) -> Iterator[tuple[bytes, bytes]]:
    checker = LogChecker(LogReader(view).snapshot())
    for space in Space:
        for key, value in view.scan(space):
            if space is Space.LOG:
                checker.check(key, value)
            yield key, value


class RowsHash(_Pieces, HashedPieces):
    """A hash over the rows of a space, the same for the same rows on every member and store.

    It is BLAKE2b (256 bits) over each row in byte order: both lengths (4 bytes each,
    little-endian), key, value.
    """

    def __init__(
        self,
        reader: Reader,
        space: Space = Space.MACHINE,
        start: bytes = b"",
        stop: bytes | None = None,
    ) -> None:
        self._hash = blake2b(digest_size=_HASH_BYTES, person=_PERSON)
        super().__init__(self._hashed(reader.scan(space, start, stop)))

    def digest(self) -> bytes:
        """The hash of what was read so far: of everything once a step was ``done``."""
        return self._hash.digest()

    def _hashed(self, rows: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        update = self._hash.update
        for key, value in rows:
            update(_LENGTHS.pack(len(key), len(value)))
            update(key)
            update(value)
            yield key, value


def _again(damage: StorageCorruptError) -> StorageCorruptError:
    """The same to be raised anew: one that is raised twice keeps the first stack alive."""
    return StorageCorruptError(*damage.args)
