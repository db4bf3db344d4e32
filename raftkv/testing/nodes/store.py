"""The Store port over a simulated disk, and the place where a member's opening finds it.

A :class:`SimStore` is the memory store with a disk below: what it writes becomes records of a
write-ahead log, and what it reads may turn out to be damaged. It answers trouble as RocksDB does:
a failed write or sync poisons it for good, a damaged row raises and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from errno import EIO, ENOSPC
from os import strerror
from typing import Protocol

from attrs import define, field

from raftkv.errors import (
    ClosedError,
    Error,
    StorageCorruptError,
    StorageFailedError,
    StorageFullError,
    StorageStallError,
)
from raftkv.storage.base import Batch, Space, Store
from raftkv.storage.member import Failpoint, FailStopStore, Notes
from raftkv.storage.memory import MemoryStore, MemoryView, Rows, apply_changes
from raftkv.storage.opening import Examination, Place
from raftkv.storage.place import open_or_cut
from raftkv.storage.records import REBUILD, corrupt
from raftkv.storage.rocks_options import Mode
from raftkv.storage.witness import SlotFile
from raftkv.testing.nodes.image import (
    Image,
    Mark,
    Record,
    Sectors,
    StoreImage,
    Unreadable,
    heal,
)


class Operation(Enum):
    """What a disk can refuse to do."""

    WRITE = "write"  # of a batch
    SYNC = "sync"  # of batches
    READ = "read"  # of rows
    WITNESS = "witness"  # writing or syncing the small file
    NOTE = "note"  # putting, reading or removing one


@define(slots=True, eq=False)
class Troubles:
    """What the disk does wrong from now on, to whoever has it open."""

    failing: dict[Operation, bool] = field(factory=dict[Operation, bool])
    """What fails, and whether it always will (else: once)."""
    is_full: bool = False
    stalls: int = 0
    """So many writes are put off, as by a store that is behind with flushing."""
    lost_writes: int = 0
    """So many writes are said to be done, and are not."""
    misdirected: int | None = None
    """The next write lands somewhere else, as this number says."""

    def takes_place(self) -> int | None:
        """Where the batch that goes astray lands; None: nowhere."""
        place, self.misdirected = self.misdirected, None
        if place is None:
            self.lost_writes -= 1
        return place

    def met(self, operation: Operation) -> OSError | None:
        """What the disk answers instead of doing it."""
        if self.is_full and operation is not Operation.READ:
            return OSError(ENOSPC, strerror(ENOSPC))
        if operation not in self.failing:
            return None
        if not self.failing[operation]:
            del self.failing[operation]
        return OSError(EIO, strerror(EIO))


@define(slots=True, eq=False)
class Life:
    """One process that has the disk open; after its end nothing of it reaches the disk."""

    is_over: bool = False

    def check(self) -> None:
        """Raise OSError if the process is gone."""
        if self.is_over:
            raise OSError(EIO, "the process that opened this disk is gone")


class DiskStore(FailStopStore, Protocol):
    """A store that can be left by its process from one moment to the next."""

    def die(self) -> None:
        """The process is gone: nothing is served any more, to views neither. Idempotent."""
        ...


class SimView(MemoryView):
    """A frozen moment of a SimStore."""

    def __init__(self, store: SimStore) -> None:
        super().__init__(store, store.visible)
        self._reading = store.reading

    def get(self, space: Space, key: bytes) -> bytes | None:
        """The value, or None. Raises StorageCorruptError rather than answer wrongly."""
        self._check()
        self._reading.check(space, key)
        return super().get(space, key)

    def scan(
        self, space: Space, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows from ``start`` up to and excluding ``stop``, as they are at the view."""
        rows = super().scan(space, start, stop, reverse=reverse)
        return self._reading.checked(space, rows)


class _Reading:
    """What a store and its views may not read."""

    def __init__(self, store: SimStore, where: str, troubles: Troubles) -> None:
        self._store = store
        self._where = where
        self._troubles = troubles
        self.unreadable: Unreadable = {}

    def check(self, space: Space, key: bytes) -> None:
        """Raise if the row cannot be read."""
        if self._troubles.failing:
            error = self._troubles.met(Operation.READ)
            if error is not None:
                raise StorageFailedError(
                    f"reading {self._where} failed ({error}); repair the disk and open the node"
                    " again"
                )
        if (space, key) in self.unreadable:
            damage = StorageCorruptError(
                f"{self._where} is damaged (Corruption: block checksum mismatch at key {key.hex()}"
                f" of {space.value}); {REBUILD}"
            )
            self._store.corruption = self._store.corruption or damage
            raise StorageCorruptError(*damage.args)

    def checked(
        self, space: Space, rows: Iterator[tuple[bytes, bytes]]
    ) -> Iterator[tuple[bytes, bytes]]:
        """The rows, each checked, for as long as the store serves."""
        store = self._store
        for row in rows:
            self.check(space, row[0])
            yield row
            refusal = store.refusal
            if refusal is not None:
                raise refusal


class SimStore(MemoryStore):
    """One opening of a store on a simulated disk."""

    def __init__(
        self,
        image: StoreImage,
        mode: Mode,
        *,
        where: str,
        troubles: Troubles,
        life: Life,
        memtable_bytes: int,
    ) -> None:
        """Read the disk back. Raises StorageCorruptError and StorageFullError as RocksDB would."""
        life.check()
        if troubles.is_full and mode is not Mode.LOOK:
            raise StorageFullError(
                f"the disk of {where} is full ({strerror(ENOSPC)}); free space, then open the node"
                " again"
            )
        count, damage = image.readable()
        if damage is not None and mode not in (Mode.LOOK, Mode.CUT):
            raise StorageCorruptError(f"{where} is damaged (Corruption: {damage}); {REBUILD}")
        super().__init__(image.tables)
        self._image = image
        self._where = where
        self._troubles = troubles
        self._life = life
        self._memtable_bytes = memtable_bytes
        for record in image.wal[:count]:
            apply_changes(self._rows, record.changes)
        self._writes_out = mode is not Mode.LOOK
        if not self._writes_out:
            unreadable = dict(image.unreadable)
            for record in image.wal[:count]:
                heal(unreadable, record.changes)
        else:
            # RocksDB writes what it replayed into tables before it serves.
            image.flush(count)
            image.wal.clear()
            unreadable = dict(image.unreadable)
        self.reading = _Reading(self, where, troubles)
        self.reading.unreadable = unreadable

    @property
    def visible(self) -> dict[Space, Rows]:
        """The rows as they are now."""
        return self._rows

    def get(self, space: Space, key: bytes) -> bytes | None:
        """The value, or None. Raises StorageCorruptError rather than answer wrongly."""
        if self.reading.unreadable or self._troubles.failing:
            self._check()
            self.reading.check(space, key)
        return super().get(space, key)

    def scan(
        self, space: Space, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows from ``start`` up to and excluding ``stop``, as they are at the call."""
        rows = super().scan(space, start, stop, reverse=reverse)
        return self.reading.checked(space, rows)

    def view(self, *, cached: bool = True) -> SimView:
        """A frozen moment: what is visible now."""
        self._check()
        view = SimView(self)
        self._views.add(view)
        return view

    def write(self, batch: Batch) -> int:
        """Make the batch visible and return its position."""
        self._check()
        self._life.check()
        troubles = self._troubles
        if troubles.stalls:
            troubles.stalls -= 1
            raise StorageStallError(
                f"RocksDB is behind with flushing {self._where}: try the same batch again in a"
                " moment"
            )
        error = troubles.met(Operation.WRITE)
        if error is not None:
            # Part of it may have got to the end of the log.
            self._image.wal.append(Record((), mark=Mark.TORN))
            raise self._failed("writing to", error)
        before = self._written
        position = super().write(batch)
        if position != before:
            record = self._image.append(self._unsynced[-1][1])
            if troubles.lost_writes or troubles.misdirected is not None:
                self._image.lead_astray(record, troubles.takes_place())
            if self.reading.unreadable:
                heal(self.reading.unreadable, record.changes)
        return position

    def sync(self) -> int:
        """Make everything written before the call durable; answer the newest such position."""
        self._check()
        self._life.check()
        error = self._troubles.met(Operation.SYNC)
        if error is not None:
            raise self._failed("syncing", error)
        return super().sync()

    def _settle(self, position: int) -> None:
        """Everything up to ``position`` is durable from now on."""
        self._image.sync(self._memtable_bytes)
        self._unsynced.clear()
        self._synced = position

    def reclaim(self, space: Space) -> None:
        """Compact the rows of ``space``, for which RocksDB makes durable what was written."""
        super().reclaim(space)
        self._settle(self._written)

    def _leave(self) -> None:
        """RocksDB writes out what is in memory when it is closed, unless it failed."""
        if self._writes_out and self._refusal is None and not self._life.is_over:
            self._settle(self._written)
            self._image.flush(len(self._image.wal))

    def _failed(self, doing: str, error: OSError) -> Error:
        kind = StorageFullError if error.errno == ENOSPC else StorageFailedError
        self.poison(
            kind(f"{doing} {self._where} failed ({error}); repair the disk and open the node again")
        )
        refusal = self.refusal
        assert refusal is not None
        return refusal

    def die(self) -> None:
        """The process is gone: nothing is served any more, to views neither. Idempotent."""
        if isinstance(self._refusal, ClosedError):
            return
        for view in self._views:
            view.close()
        self._end()


class SimWitness(SlotFile):
    """The witness's file as one process has it open."""

    def __init__(self, sectors: Sectors, troubles: Troubles, life: Life) -> None:
        self._sectors = sectors
        self._troubles = troubles
        self._life = life

    def _check(self) -> None:
        self._life.check()
        error = self._troubles.met(Operation.WITNESS)
        if error is not None:
            raise error

    def read(self, size: int) -> bytes:
        """The first ``size`` bytes, fewer if the file is shorter."""
        self._life.check()
        return self._sectors.content()[:size]

    def write(self, offset: int, data: bytes) -> None:
        """Write into the kernel's cache."""
        self._check()
        self._sectors.write(offset, data)

    def datasync(self) -> None:
        """Wait until what was written survives a power cut."""
        self._check()
        self._sectors.sync()

    def close(self) -> None:
        """Nothing to release."""


class SimNotes(Notes):
    """The notes as one process sees them. Each is durable, whole, once put."""

    def __init__(self, notes: dict[str, bytes], troubles: Troubles, life: Life) -> None:
        self._notes = notes
        self._troubles = troubles
        self._life = life

    def _check(self) -> None:
        self._life.check()
        error = self._troubles.met(Operation.NOTE)
        if error is not None:
            raise error

    def get(self, name: str) -> bytes | None:
        """The note; None if there is none."""
        self._life.check()
        return self._notes.get(name)

    def put(self, name: str, note: bytes) -> None:
        """Put or replace it."""
        self._check()
        self._notes[name] = note

    def remove(self, name: str) -> None:
        """Remove it; no error if there is none."""
        self._check()
        self._notes.pop(name, None)


class SimPlace(Place):
    """The Place port on a simulated disk."""

    def __init__(
        self,
        image: Image,
        where: str,
        troubles: Troubles,
        life: Life,
        memtable_bytes: int,
        failpoint: Failpoint,
    ) -> None:
        self._image = image
        self._where = where
        self._troubles = troubles
        self._life = life
        self._memtable_bytes = memtable_bytes
        self._failpoint = failpoint
        self._making = self.new_image()
        self.opened: list[DiskStore] = []
        """Every store that was opened here, closed ones too."""

    @property
    def where(self) -> str:
        """For a human."""
        return self._where

    @property
    def aside(self) -> str:
        """What becomes of a store that is replaced."""
        return "and the old one is gone"

    @property
    def has_room(self) -> bool:
        """Whether a copy of it can be made and the original kept beside."""
        return not self._troubles.is_full

    def new_image(self) -> StoreImage:
        """Where a new store will lie."""
        return StoreImage()

    def open_as(self, image: StoreImage, mode: Mode) -> DiskStore:
        """Open a store in a mode."""
        return SimStore(
            image,
            mode,
            where=self._where,
            troubles=self._troubles,
            life=self._life,
            memtable_bytes=self._memtable_bytes,
        )

    def what_is_missing(self, image: StoreImage) -> str | None:
        """What of the store's files is known to be missing before it is opened."""
        del image

    def _store(self, image: StoreImage, mode: Mode) -> DiskStore:
        store = self.open_as(image, mode)
        self.opened.append(store)
        return store

    def open(self, check: Callable[[Store], Examination]) -> tuple[DiskStore, Examination]:
        """Open the store for good if it passes ``check``; a torn tail is cut if the rest does."""
        image = self._image.store
        if image is None:
            corrupt(f"the store of {self._where} is missing")
        missing = self.what_is_missing(image)
        if missing is not None:
            corrupt(missing)
        return open_or_cut(
            lambda mode: self._store(image, mode), check, self._where, self._failpoint
        )

    def look(self) -> DiskStore | None:
        """Open it for reading only, as far as it can be read; None if it cannot be at all."""
        image = self._image.store
        if image is None or self.what_is_missing(image) is not None:
            return None
        try:
            return self._store(image, Mode.LOOK)
        except StorageCorruptError:
            return None

    def die(self) -> None:
        """The process is gone, and with it every store it had open."""
        for store in self.opened:
            store.die()

    def begin(self) -> DiskStore:
        """A new, empty store beside it; what was begun there before is gone."""
        self._making = self.new_image()
        return self._store(self._making, Mode.CREATE)

    def replace(self) -> None:
        """Let the new store, closed and complete, take the place."""
        self._life.check()
        self._image.store = self._making
