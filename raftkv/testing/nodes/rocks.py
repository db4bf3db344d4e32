"""The same disk with a real RocksDB on it: level 3, and the same decisions as level 2.

:class:`RocksDisk` takes the place of a :class:`~raftkv.testing.nodes.disk.SimDisk` in any simulated
cluster. The store is a RocksDB directory, opened by the shipped code; witness and notes stay
simulated, as do time, network and processes. The model of the simulated disk is kept up to date
beside the directory, and decides: what a crash loses, where a fault strikes. Each is then done to
the files:

- A crash leaves a copy of the directory as a kill would see it, and the handles are dropped. What
  the power cut took of the write-ahead log is cut off the copy.
- A batch that was damaged or lost has a bit flipped in its record, or zeros in its place.
- A damaged row is a bit flipped in a table. RocksDB lays out tables its own way, so which rows that
  concerns differs from the model, and the disk counts as damaged until its store was begun anew.

So a run is the same at both levels as long as no table is damaged: the same decisions, the same
steps. :meth:`RocksDisk.alter` does nothing, as RocksDB's checksums lie above every bit that could
be changed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from errno import ENOSPC
from itertools import count
from os import strerror
from pathlib import Path
from typing import Final

from attrs import define

from raftkv.errors import Error, StorageFailedError, StorageFullError, StorageStallError, UsageError
from raftkv.storage.base import Batch, Space
from raftkv.storage.batch import ChangeList
from raftkv.storage.files import OsFiles
from raftkv.storage.manifest import missing_batches
from raftkv.storage.member import Failpoint
from raftkv.storage.rocks import RocksStore, RocksView
from raftkv.storage.rocks_options import Mode
from raftkv.testing.choices import Choices
from raftkv.testing.copies import copy_of_a_moment
from raftkv.testing.nodes.disk import PLACES, DiskOptions, SimDisk, Zone
from raftkv.testing.nodes.image import Image, Mark, Record, StoreImage
from raftkv.testing.nodes.store import DiskStore, Life, Operation, SimPlace, Troubles

_HEADER_BYTES: Final = 7  # of a record in RocksDB's log: checksum, length, type


class _Directories:
    """Names for directories below one, never the same again."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._numbers = count(1)

    def next(self) -> Path:
        """A path at which there is nothing."""
        return self._base / f"store-{next(self._numbers)}"


@define(slots=True, eq=False, kw_only=True)
class RocksImage(StoreImage):
    """A RocksDB directory, and the model of what is in it."""

    directories: _Directories
    path: Path
    is_rotten: bool = False
    """Some row of some table is damaged."""

    @property
    def is_intact(self) -> bool:
        """Whether everything that was synced can be read."""
        return not self.is_rotten and self.is_log_intact

    def copied(self) -> RocksImage:
        """A copy of all of it, in a directory of its own."""
        model = super().copied()
        assert isinstance(model, RocksImage)
        model.path = self.directories.next()
        copy_of_a_moment(self.path, model.path)
        return model

    def move(self) -> None:
        """Go on with a copy of the directory: what a process that is killed leaves behind."""
        old, self.path = self.path, self.directories.next()
        copy_of_a_moment(old, self.path)

    def lose_power(self, choices: Choices, *, is_harsh: bool) -> str:
        """Lose the newest batches that are not synced, and cut them off the log."""
        before = list(self.wal)
        told = super().lose_power(choices, is_harsh=is_harsh)
        is_torn = any(one.mark is Mark.TORN and one not in before for one in self.wal)
        kept = len(self.wal) - is_torn
        if kept < len(before):
            self._cut(before[kept:], is_torn=is_torn)
        return told

    def _cut(self, lost: list[Record], *, is_torn: bool) -> None:
        for record in reversed(lost):
            if record.place is not None:
                name, start, stop = record.place
                half = (stop - start) // 2 if is_torn and record is lost[0] else 0
                # An opening that failed half way may have put the log into tables.
                with suppress(FileNotFoundError):
                    os.truncate(self.path / name, start + half)

    def spoil(self, record: Record, mark: Mark) -> None:
        """Flip a bit of a batch, or have zeros in its place."""
        super().spoil(record, mark)
        if record.place is None:
            return
        name, start, stop = record.place
        if not (self.path / name).exists():
            return
        with (self.path / name).open("r+b") as file:
            if mark is Mark.LOST:
                file.seek(start)
                file.write(bytes(stop - start))
                return
            middle = min(start + _HEADER_BYTES + (stop - start) // 2, stop - 1)
            file.seek(middle)
            byte = file.read(1)
            file.seek(middle)
            file.write(bytes([byte[0] ^ 1]))

    def rot(self, place: int) -> bool:
        """Flip a bit of a table; whether there is one."""
        tables = sorted(self.path.glob("*.sst"))
        sizes = [table.stat().st_size for table in tables]
        at = place * sum(sizes) // PLACES
        for table, size in zip(tables, sizes, strict=True):
            if at < size:
                with table.open("r+b") as file:
                    file.seek(at)
                    byte = file.read(1)
                    file.seek(at)
                    file.write(bytes([byte[0] ^ 1 << place % 8]))
                self.is_rotten = True
                return True
            at -= size
        return False


class WatchedRocksView(RocksView):
    """A frozen moment of a WatchedRocksStore."""

    fail_reads: Callable[[], None]

    def get(self, space: Space, key: bytes) -> bytes | None:
        """The value, or None. Raises StorageCorruptError rather than answer wrongly."""
        self.fail_reads()
        return super().get(space, key)

    def scan(
        self, space: Space, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows from ``start`` up to and excluding ``stop``, as they are at the view."""
        for row in super().scan(space, start, stop, reverse=reverse):
            self.fail_reads()
            yield row


class WatchedRocksStore(RocksStore):
    """RocksDB, with the disk's troubles, and its model beside it."""

    def __init__(
        self, image: RocksImage, mode: Mode, *, where: str, troubles: Troubles, life: Life
    ) -> None:
        """Open the directory. Raises what RocksStore raises, and StorageFullError."""
        life.check()
        if troubles.is_full and mode is not Mode.LOOK:
            raise StorageFullError(
                f"the disk of {where} is full ({strerror(ENOSPC)}); free space, then open the node"
                " again"
            )
        self._troubles = troubles
        self._life = life
        self._image = image
        super().__init__(image.path, mode, failpoint=self._obey)
        self._writes_out = mode is not Mode.LOOK
        if self._writes_out:
            image.flush(image.readable()[0])
            image.wal.clear()
        self._log = self._newest_log()
        self._log_bytes = os.stat(self._log).st_size
        self._memtable_bytes = 0
        self._is_dead = False

    def keep_in_memory(self, memtable_bytes: int) -> None:
        """How much the model's log holds before it goes into tables."""
        self._memtable_bytes = memtable_bytes

    def _newest_log(self) -> str:
        logs = self._image.path.glob("*.log")
        return str(max(logs, key=lambda log: int(log.stem), default=self._image.path / "CURRENT"))

    def _obey(self, name: str) -> None:
        """The failpoint: what it raises is taken for RocksDB's answer."""
        operation = {"write.before": Operation.WRITE, "sync.before": Operation.SYNC}.get(name)
        error = None if operation is None else self._troubles.met(operation)
        if error is not None:
            raise error

    def fail_reads(self) -> None:
        """Raise if the disk does not let us read."""
        error = self._troubles.met(Operation.READ) if self._troubles.failing else None
        if error is not None:
            raise StorageFailedError(
                f"reading {self._where} failed ({error}); repair the disk and open the node again"
            )

    def get(self, space: Space, key: bytes) -> bytes | None:
        """The value, or None. Raises StorageCorruptError rather than answer wrongly."""
        self.fail_reads()
        return super().get(space, key)

    def scan(
        self, space: Space, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows from ``start`` up to and excluding ``stop``, as they are at the call."""
        return self._watched(super().scan(space, start, stop, reverse=reverse))

    def _watched(self, rows: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for row in rows:
            self.fail_reads()
            yield row

    def view(self, *, cached: bool = True) -> WatchedRocksView:
        """A frozen moment: what is visible now."""
        refused = self._refused()
        if refused is not None:
            raise refused
        view = WatchedRocksView(self, self._families, self._where, cached)
        view.fail_reads = self.fail_reads
        self._views.add(view)
        return view

    def write(self, batch: Batch) -> int:
        """Make the batch visible and return its position."""
        self._life.check()
        troubles = self._troubles
        if troubles.stalls and self._refusal is None:
            troubles.stalls -= 1
            raise StorageStallError(
                f"RocksDB is behind with flushing {self._where}: try the same batch again in a"
                " moment"
            )
        before = self.written
        try:
            position = super().write(batch)
        except StorageFailedError:
            self._image.wal.append(Record((), mark=Mark.TORN))  # as the model would have it
            raise
        if position != before and isinstance(batch, ChangeList):
            record = self._image.append(tuple(batch.changes))
            record.place = self._placed()
            if troubles.lost_writes or troubles.misdirected is not None:
                self._image.lead_astray(record, troubles.takes_place())
        return position

    def _placed(self) -> tuple[str, int, int]:
        start, stop = self._log_bytes, os.stat(self._log).st_size
        if stop <= start:  # RocksDB has begun another file
            self._log, start = self._newest_log(), 0
            stop = os.stat(self._log).st_size
        self._log_bytes = stop
        return os.path.basename(self._log), start, stop

    def sync(self) -> int:
        """Make everything written before the call durable; answer the newest such position."""
        self._life.check()
        position = super().sync()
        self._synced()
        return position

    def _synced(self) -> None:
        if not self._image.sync(self._memtable_bytes):
            return
        self.flush()
        self._log = self._newest_log()
        self._log_bytes = os.stat(self._log).st_size

    def reclaim(self, space: Space) -> None:
        """Compact the family of ``space``, for which RocksDB syncs and changes its logs."""
        super().reclaim(space)
        self._synced()
        self._log = self._newest_log()
        self._log_bytes = os.stat(self._log).st_size

    def close(self) -> None:
        """Release files and lock. Idempotent."""
        if self._is_dead:
            return
        if self._refusal is not None:
            # To RocksDB nothing happened: it would write out what a real failure had kept it from.
            self._leave_copy()
            return
        super().close()
        self._is_dead = True
        if self._writes_out:
            self._image.flush(len(self._image.wal))

    def die(self) -> None:
        """The process is gone: a copy is what it leaves, and the handles are dropped."""
        if not self._is_dead:
            for view in list(self._views):
                view.close()
            self._leave_copy()

    def _leave_copy(self) -> None:
        still_open = sum(view.is_open for view in self._views)
        if still_open:
            raise UsageError(f"{still_open} views of the store are open: close them first")
        self._is_dead = True
        if not self._writes_out:  # it was only looked at, and others may have it open
            super().close()
            return
        old = self._image.path
        self._image.move()
        with suppress(Error):  # it may have failed, and nobody will miss it
            super().close()
        shutil.rmtree(old)


class _RocksPlace(SimPlace):
    """The Place port in a directory of RocksDB directories."""

    def __init__(
        self,
        image: Image,
        where: str,
        troubles: Troubles,
        life: Life,
        memtable_bytes: int,
        failpoint: Failpoint,
        directories: _Directories,
    ) -> None:
        self._directories = directories
        super().__init__(image, where, troubles, life, memtable_bytes, failpoint)

    def new_image(self) -> RocksImage:
        return RocksImage(directories=self._directories, path=self._directories.next())

    def open_as(self, image: StoreImage, mode: Mode) -> DiskStore:
        assert isinstance(image, RocksImage)
        store = WatchedRocksStore(
            image, mode, where=self._where, troubles=self._troubles, life=self._life
        )
        store.keep_in_memory(self._memtable_bytes)
        return store

    def what_is_missing(self, image: StoreImage) -> str | None:
        assert isinstance(image, RocksImage)
        return missing_batches(image.path, OsFiles())


class RocksDisk(SimDisk):
    """One member's disk, with its store in RocksDB directories below ``base``."""

    def __init__(self, base: Path, options: DiskOptions | None = None, *, number: int = 0) -> None:
        super().__init__(options, number=number)
        self._directories = _Directories(base)
        base.mkdir(parents=True, exist_ok=True)

    def _new_place(self, image: Image, life: Life, failpoint: Failpoint) -> SimPlace:
        return _RocksPlace(
            image,
            self.where,
            self.troubles,
            life,
            self.options.memtable_bytes,
            failpoint,
            self._directories,
        )

    def _rot(self, store: StoreImage, row: tuple[Space, bytes], place: int) -> None:
        del row
        assert isinstance(store, RocksImage)
        store.rot(place)

    def alter(self, zone: Zone, choices: Choices) -> str | None:
        """Nothing, but for the decision."""
        choices.choose(PLACES)
        del zone
        return None
