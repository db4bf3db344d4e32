"""What lies on a simulated disk: tables, a write-ahead log, the witness beside them, and notes.

A model of what RocksDB and the kernel leave behind, no more of it than can be seen from above:

- A batch is one record at the end of the write-ahead log. Until it is synced it is in the kernel's
  cache, and a power cut may lose it.
- Opening reads the log up to the first record that is not whole. If nothing but missing records
  follows, the store is shorter and nothing tells; otherwise RocksDB refuses, unless it is told to
  cut the log there.
- What was replayed, or became too much for memory, is in tables, whose rows can be damaged one by
  one: reading such a row raises, reading others does not.
- The witness is two sectors, each of which is written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final

from attrs import define, evolve, field

from raftkv.storage.base import Space
from raftkv.storage.batch import ADOPT, DELETE, PUT, Change
from raftkv.storage.memory import MemoryDisk, apply_changes
from raftkv.storage.reading import LogKeys
from raftkv.storage.witness import SLOT_BYTES, WITNESS_BYTES
from raftkv.testing.choices import Choices

_DAMAGED: Final = (PUT, Space.META, LogKeys(0).damage)
"""The change that marks a store as damaged."""
_ROWS: Final = (Space.MACHINE, Space.STAGED)

Place = tuple[Space, bytes]
"""One row of a store: its space and its key."""

Unreadable = dict[Place, None]
"""Rows of the tables whose block is damaged, in the order in which that happened."""


class Mark(Enum):
    """What became of a record of the write-ahead log."""

    WHOLE = "whole"
    TORN = "torn"  # its checksum fails
    LOST = "lost"  # the disk said that it has it, and does not


@define(slots=True, eq=False)
class Record:
    """One batch in the write-ahead log."""

    changes: tuple[Change, ...]
    is_synced: bool = False
    mark: Mark = Mark.WHOLE
    place: tuple[str, int, int] | None = None
    """Where a real log has it: file, start and end."""

    @property
    def size_bytes(self) -> int:
        """Roughly what it takes in the log."""
        return sum(len(key) + len(value) for _, _, key, value in self.changes)


@define(slots=True, eq=False)
class StoreImage:
    """A store's files."""

    tables: MemoryDisk = field(factory=MemoryDisk)
    wal: list[Record] = field(factory=list[Record])
    unreadable: Unreadable = field(factory=dict[Place, None])
    wrong: Unreadable = field(factory=dict[Place, None])
    """Rows of the tables that are well-formed for RocksDB, and not what was written."""
    is_old: bool = False
    """An old copy, whose member has not marked it as damaged since."""
    log_bytes: int = 0
    """Roughly how large the write-ahead log is."""

    def copied(self) -> StoreImage:
        """A copy of all of it."""
        tables = MemoryDisk()
        tables.rows = {space: rows.copy() for space, rows in self.tables.rows.items()}
        return evolve(
            self,
            tables=tables,
            wal=[evolve(one) for one in self.wal],
            unreadable=dict(self.unreadable),
            wrong=dict(self.wrong),
        )

    def readable(self) -> tuple[int, str | None]:
        """How many records of the log can be read, and what is wrong with the next; None: nothing.

        Records that are missing at the end are not seen to be.
        """
        for place, record in enumerate(self.wal):
            if record.mark is Mark.WHOLE:
                continue
            if all(one.mark is Mark.LOST for one in self.wal[place:]):
                return place, None
            return place, f"checksum mismatch in record {place + 1} of the write-ahead log"
        return len(self.wal), None

    @property
    def unsynced(self) -> int:
        """How many records at the log's end are not synced."""
        count = 0
        for record in reversed(self.wal):
            if record.is_synced:
                break
            count += 1
        return count

    @property
    def is_intact(self) -> bool:
        """Whether everything that was synced can be read, and is what was written."""
        return not (self.unreadable or self.wrong) and self.is_log_intact

    @property
    def is_log_intact(self) -> bool:
        """Whether all records of the log that were synced can be read."""
        return all(one.mark is Mark.WHOLE for one in self.wal if one.is_synced)

    def meta(self, key: bytes) -> bytes | None:
        """What a row of the space ``meta`` is once the log is replayed, damaged or not."""
        for record in reversed(self.wal):
            for kind, space, name, value in reversed(record.changes):
                if space is Space.META and name == key and kind in (PUT, DELETE):
                    return value if kind == PUT else None
        return self.tables.rows[Space.META].values.get(key)

    def exposed(self, space: Space) -> list[bytes]:
        """Keys of the rows that are read from the tables, as nothing in the log replaces them."""
        keys: Unreadable = {(space, key): None for key in self.tables.rows[space].keys}
        for record in self.wal:
            if space in _ROWS and any(one[0] == ADOPT for one in record.changes):
                return []
            heal(keys, record.changes)
        return [key for _, key in keys]

    def append(self, changes: tuple[Change, ...]) -> Record:
        """One batch more, not synced."""
        record = Record(changes)
        self.wal.append(record)
        self.log_bytes += record.size_bytes
        if self.is_old:
            self.is_old = not any(one[:3] == _DAMAGED for one in changes)
        return record

    def sync(self, memtable_bytes: int) -> bool:
        """All batches are durable; whether they were put into tables, being more than so much."""
        for record in reversed(self.wal):
            if record.is_synced:
                break
            record.is_synced = True
        if self.log_bytes < memtable_bytes:
            return False
        self.flush(len(self.wal))
        return True

    def lead_astray(self, record: Record, place: int | None) -> None:
        """The batch is not where it should be; with ``place``, it lies on one synced before."""
        self.spoil(record, Mark.LOST)
        synced = [one for one in self.wal if one.is_synced]
        if place is not None and synced:
            self.spoil(synced[place % len(synced)], Mark.TORN)

    def spoil(self, record: Record, mark: Mark) -> None:
        """A batch cannot be read any more."""
        record.mark = mark

    def forget(self, count: int) -> None:
        """The newest batches are not there, though the disk said that it has them."""
        for record in self.wal[-count:]:
            record.is_synced = True
            self.spoil(record, Mark.LOST)

    def flush(self, count: int) -> None:
        """Put the oldest ``count`` records into tables, which are synced at once."""
        for record in self.wal[:count]:
            heal(self.unreadable, record.changes)
            heal(self.wrong, record.changes)
            apply_changes(self.tables.rows, record.changes)
        del self.wal[:count]
        self.log_bytes = sum(one.size_bytes for one in self.wal)

    def lose_power(self, choices: Choices, *, is_harsh: bool) -> str:
        """Lose the newest batches that are not synced, so many as is chosen; say how many.

        Harsh: the first of them may be torn. More need not be chosen: whatever else of them got to
        the disk lies behind the first that is not whole, and nobody reads on there.
        """
        unsynced = self.unsynced
        lost = choices.choose(unsynced + 1) if unsynced else 0
        for record in self.wal[len(self.wal) - unsynced :]:
            record.is_synced = True  # it has reached the disk, if it is kept
        if not lost:
            return "nothing is lost"
        del self.wal[-lost:]
        told = f"loses {lost} of {unsynced} unsynced batches"
        if is_harsh and choices.choose(2):
            self.wal.append(Record((), mark=Mark.TORN))
            told += ", the first of them torn"
        return told


def heal(unreadable: Unreadable, changes: Iterable[Change]) -> None:
    """Forget the damage of rows that a batch replaces or removes."""
    if not unreadable:
        return
    for kind, space, key, value in changes:
        if kind in (PUT, DELETE):
            unreadable.pop((space, key), None)
        elif kind == ADOPT:
            kept = [place for place in unreadable if place[0] is not Space.MACHINE]
            unreadable.clear()
            for held, name in kept:
                unreadable[Space.MACHINE if held is Space.STAGED else held, name] = None
        else:
            for place in list(unreadable):
                if place[0] is space and key <= place[1] < value:
                    del unreadable[place]


@define(slots=True, eq=False)
class Sectors:
    """The witness's file: what is on the disk, and writes that are in the kernel's cache only."""

    durable: bytes = b""
    cached: list[tuple[int, bytes]] = field(factory=list[tuple[int, bytes]])
    is_behind: bool = False
    """It is older than it should be, and nothing was made durable since."""
    damaged: dict[int, None] = field(factory=dict[int, None])
    """Which sectors hold something else than was written."""

    def copied(self) -> Sectors:
        """A copy, cache included."""
        return evolve(self, cached=list(self.cached), damaged=dict(self.damaged))

    def write(self, start: int, data: bytes) -> None:
        """Write a sector into the kernel's cache."""
        self.cached.append((start, data))
        self.damaged.pop(start, None)

    def damage(self, start: int, mask: int) -> None:
        """Change a byte, on the disk and in what is read from now on."""
        self.sync()
        byte = bytes([self.durable[start] ^ mask])
        self.durable = self.durable[:start] + byte + self.durable[start + 1 :]
        self.damaged[start - start % SLOT_BYTES] = None

    def content(self) -> bytes:
        """What a process reads."""
        return _written(self.durable, self.cached)

    def sync(self) -> None:
        """Make what is cached durable."""
        self.durable = self.content()
        self.cached.clear()
        self.is_behind = False

    def lose_power(self, choices: Choices, *, is_harsh: bool) -> None:
        """Lose the newest cached writes, so many as is chosen; harsh: of each sector by itself."""
        kept: list[tuple[int, bytes]] = []
        for part in self._parts() if is_harsh else (list(self.cached),):
            lost = choices.choose(len(part) + 1) if part else 0
            self.is_behind = self.is_behind or lost > 0
            kept += part[: len(part) - lost]
        self.durable = _written(self.durable, kept)
        self.cached.clear()

    def _parts(self) -> tuple[list[tuple[int, bytes]], ...]:
        return tuple([one for one in self.cached if one[0] == start] for start in (0, SLOT_BYTES))


def _written(content: bytes, writes: Iterable[tuple[int, bytes]]) -> bytes:
    for start, data in writes:
        content = content.ljust(start, b"\0")
        content = content[:start] + data + content[start + len(data) :]
    return content[:WITNESS_BYTES]


@define(slots=True, eq=False)
class Image:
    """Everything that is on one member's disk."""

    store: StoreImage | None = None
    """None: its directory is gone."""
    witness: Sectors = field(factory=Sectors)
    notes: dict[str, bytes] = field(factory=dict[str, bytes])
    is_new: bool = True
    boot: int = 0
    """The newest opening that got as far as telling its witness."""

    def copied(self) -> Image:
        """A copy of all of it, as of a directory."""
        store = None if self.store is None else self.store.copied()
        witness, notes = self.witness.copied(), dict(self.notes)
        return evolve(self, store=store, witness=witness, notes=notes)
