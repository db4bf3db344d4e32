"""The batch both stores take: a list of changes, replayed into the store when it is written.

RocksDB's own batch is used up by a write, also by one that RocksDB refused; a list survives, so the
same batch can be tried again after a stall.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from raftkv.errors import UsageError
from raftkv.storage.base import Batch, Space

PUT: Final = 0
DELETE: Final = 1
DELETE_RANGE: Final = 2
ADOPT: Final = 3

Change: TypeAlias = tuple[int, Space, bytes, bytes]
"""Kind, space, key (or start), value (or stop, or nothing)."""

# What RocksDB adds per change: kind, column family, two lengths; rounded up.
_OVERHEAD_BYTES: Final = 12


class ChangeList(Batch):
    """Changes in the order they were made."""

    __slots__ = ("_adopts", "changes", "size")

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.size = 0
        self._adopts = False

    def put(self, space: Space, key: bytes, value: bytes) -> None:
        """Set ``key`` to ``value``."""
        self.changes.append((PUT, space, key, value))
        self.size += len(key) + len(value) + _OVERHEAD_BYTES

    def delete(self, space: Space, key: bytes) -> None:
        """Remove ``key``; no error if absent."""
        self.changes.append((DELETE, space, key, b""))
        self.size += len(key) + _OVERHEAD_BYTES

    def delete_range(self, space: Space, start: bytes, stop: bytes) -> None:
        """Remove every key from ``start`` up to and excluding ``stop``; nothing if they cross."""
        if start < stop:
            self.changes.append((DELETE_RANGE, space, start, stop))
            self.size += len(start) + len(stop) + _OVERHEAD_BYTES

    def put_rows(self, space: Space, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Set each key to its value."""
        before = len(self.changes)
        self.changes += [(PUT, space, key, value) for key, value in rows]
        sizes = [len(one[2]) + len(one[3]) for one in self.changes[before:]]
        self.size += sum(sizes) + len(sizes) * _OVERHEAD_BYTES

    def adopt_staged(self) -> None:
        """Let the rows of ``staged`` become those of ``machine``, whose own are removed."""
        if self._adopts:
            raise UsageError("a batch adopts the staged rows once: write it first")
        self._adopts = True
        # What this batch did to the machine's rows so far goes with them.
        self.changes = [one for one in self.changes if one[1] is not Space.MACHINE]
        self.changes.append((ADOPT, Space.MACHINE, b"", b""))
        self.size += _OVERHEAD_BYTES

    @property
    def size_bytes(self) -> int:
        """Roughly what the batch will cost in the write-ahead log; 0 when empty."""
        return self.size
