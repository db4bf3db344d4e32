"""The Store port on RocksDB, through rocksdict. The only module here that knows rocksdict.

The rules it keeps, each one paid for by somebody (tests/storage/test_rocksdict_contract.py pins the
behaviour they rest on):

- raw mode and explicit options, always: rocksdict's default mode unpickles what it reads.
- Never ``sync=True``, which holds the GIL for the whole fsync: an unsynced ``write``, then
  ``flush_wal(True)``, which releases it. Always ``no_slowdown``: a stall would hold the GIL too.
- ``absolute_consistency`` at every opening: RocksDB's default drops damaged records in silence.
- Rows are scanned through one helper that asks ``status()`` at the end; rocksdict's own
  ``items()``, ``keys()`` and ``values()`` end early without an error where a block is damaged.
  Its iterators do not keep their bounds alive, and those it makes from a snapshot show the present.
- After a failed write or sync nothing is served: the failed record is readable, but not durable.
- Closing drops every handle: a living iterator, snapshot or column family keeps RocksDB's lock.
- RocksDB is told to track its write-ahead logs, or it would open without an older one that is
  missing. rocksdict has no setter for that; a file of options, loaded at each opening, has.
- Errors are texts; :func:`classify` alone reads them, and what it does not know is fatal.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Final, TypeVar, cast
from weakref import WeakSet

from rocksdict import (
    AccessType,
    ColumnFamily,
    DbClosedError,
    Rdict,
    RdictIter,
    ReadOptions,
    Snapshot,
    WriteBatch,
    WriteOptions,
)

from raftkv.errors import (
    ClosedError,
    Error,
    ForkedError,
    StorageCorruptError,
    StorageError,
    StorageFailedError,
    StorageFullError,
    StorageLockedError,
    StorageStallError,
    UsageError,
)
from raftkv.storage.base import Batch, Reader, Space, Store, View
from raftkv.storage.batch import ADOPT, DELETE, PUT, ChangeList
from raftkv.storage.member import Failpoint, again, no_failpoint
from raftkv.storage.records import REBUILD, seal, unseal
from raftkv.storage.rocks_options import Mode, column_families, database_options

_make_immortal: Final = ctypes.pythonapi.Py_IncRef
_EXCHANGED_KEY: Final = b"machine-exchanged"  # in the default family, which is no space
_YES: Final = b"\x01"
_NO: Final = b"\x00"

T = TypeVar("T")


def classify(error: Exception, doing: str, where: str) -> StorageError | ClosedError:
    """What an exception of rocksdict means: the one place that reads its texts. Unknown: fatal."""
    text = str(error)
    if isinstance(error, DbClosedError):
        return ClosedError(f"the store {where} is closed: open it again")
    if text.startswith("Result incomplete: Write stall"):
        return StorageStallError(
            f"RocksDB is behind with flushing {where}: try the same batch again in a moment"
        )
    if text.startswith(("IO error: lock hold by current process", "IO error: While lock file")):
        return StorageLockedError(
            f"{where} is open in another node or process: stop that one first ({text})"
        )
    if text.startswith(("IO error:", "[Errno")) and (
        "No space left" in text or "quota exceeded" in text
    ):
        return StorageFullError(
            f"the disk of {where} is full ({text}); free space, then open the node again"
        )
    if text.startswith("Corruption:") or (
        text.startswith(("IO error: No such file", "Invalid argument:"))
        and ("No such file" in text or "does not exist" in text or "olumn famil" in text)
    ):
        return StorageCorruptError(f"{where} is damaged ({text}); {REBUILD}")
    return StorageFailedError(
        f"{doing} {where} failed ({text}); repair the disk and open the node again"
    )


class _Cursor:
    """A RocksDB iterator, which is a frozen moment of one space, and who moved it last.

    ``options`` are here to stay alive: the iterator points into their upper bound without keeping
    them. Freed too early, the bound is whatever that memory holds next, and a scan ends short.
    """

    __slots__ = ("__weakref__", "iterator", "mover", "options")

    def __init__(self, family: Rdict, stop: bytes | None, cached: bool = True) -> None:
        self.options = ReadOptions()
        self.options.set_verify_checksums(True)
        # rocksdict's own stub forgets the argument.
        cast("Callable[[bool], None]", self.options.fill_cache)(cached)
        if stop is not None:
            self.options.set_iterate_upper_bound(stop)  # spares a walk over deleted rows behind it
        # Nothing else refers to it, no variable either: the traceback of an error keeps variables.
        self.iterator: RdictIter = family.iter(self.options)
        self.mover: object = None

    def release(self) -> None:
        """Let go of RocksDB; the cursor is of no use afterwards. Idempotent."""
        if hasattr(self, "iterator"):
            del self.iterator

    def rows(
        self, start: bytes, stop: bytes | None, reverse: bool
    ) -> Generator[tuple[bytes, bytes], None, None]:
        """The rows between, also if others move the cursor meanwhile; raises as rocksdict does."""
        me = object()
        last: bytes | None = None
        while True:
            if self.mover is not me:
                self.mover = me
                self._place(start if last is None else last, stop, reverse and last is None)
                if last is not None:
                    self._step(reverse)
            elif reverse:
                self.iterator.prev()
            else:
                self.iterator.next()
            if not self.iterator.valid():
                self.iterator.status()  # without this, damage looks like the end
                return
            last = cast("bytes", self.iterator.key())
            if last < start if reverse else (stop is not None and last >= stop):
                return
            yield last, cast("bytes", self.iterator.value())

    def _step(self, reverse: bool) -> None:
        if reverse:
            self.iterator.prev()
        else:
            self.iterator.next()

    def _place(self, start: bytes, stop: bytes | None, at_end: bool) -> None:
        if not at_end:
            self.iterator.seek(start)
        elif stop is None:
            self.iterator.seek_to_last()
        else:
            self.iterator.seek_for_prev(stop)
            if self.iterator.valid() and self.iterator.key() == stop:
                self.iterator.prev()


class _Health:
    """Whether a store still serves: asked for each row, so without a call."""

    __slots__ = ("is_lost",)

    def __init__(self) -> None:
        self.is_lost = False


class _Reading(Reader):
    """What the store and its views read alike."""

    _health: _Health
    _where: str
    _scans: WeakSet[Generator[tuple[bytes, bytes], None, None]]

    def _cursor(self, space: Space, stop: bytes | None) -> _Cursor:
        raise NotImplementedError

    def _refused(self) -> Error | None:
        raise NotImplementedError

    def scan(
        self, space: Space, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows from ``start`` up to and excluding ``stop``, as they are at the call.

        Raises StorageCorruptError where rows are unreadable, also after some were given.
        """
        refused = self._refused()
        if refused is not None:
            raise refused
        if stop is not None and stop <= start:
            return iter(())
        rows = self._rows(self._cursor(space, stop).rows(start, stop, reverse))
        self._scans.add(rows)
        return rows

    def _rows(
        self, rows: Generator[tuple[bytes, bytes], None, None]
    ) -> Generator[tuple[bytes, bytes], None, None]:
        health = self._health
        try:
            for row in rows:
                yield row
                if health.is_lost:
                    refused = self._refused()
                    if refused is not None:
                        raise refused
        except Error:
            raise
        except Exception as error:
            failure = classify(error, "reading", self._where)
            self._notice(failure)
            raise failure from error
        finally:
            rows.close()

    def _notice(self, failure: Error) -> None:
        """A read failed."""

    def _close_scans(self) -> None:
        for rows in list(self._scans):
            try:
                rows.close()
            except ValueError as error:
                raise UsageError("a scan of the store is running in another thread") from error


class RocksView(_Reading, View):
    """A frozen moment of a RocksStore; any thread, but one at a time.

    Values come from RocksDB snapshots, rows from iterators made at the same moment: the iterators
    that rocksdict makes from a snapshot forget it and show the present.
    """

    def __init__(
        self, store: RocksStore, families: dict[Space, Rdict], where: str, cached: bool
    ) -> None:
        self._store = store
        self._health = store.health
        self._snapshots: dict[Space, Snapshot] = {}
        self._cursors: dict[Space, _Cursor] = {}
        for space in Space:
            self._snapshots[space] = families[space].snapshot()
            self._cursors[space] = _Cursor(families[space], None, cached)
        self._where = where
        self._scans = WeakSet()
        self._closed: ClosedError | None = None

    def _refused(self) -> Error | None:
        return again(self._closed) or self._store.refusal

    def _cursor(self, space: Space, stop: bytes | None) -> _Cursor:
        return self._cursors[space]

    def get(self, space: Space, key: bytes) -> bytes | None:
        """The value, or None. Raises StorageCorruptError rather than answer wrongly."""
        refused = self._refused()
        if refused is not None:
            raise refused
        try:
            return cast("bytes", self._snapshots[space][key])
        except Exception as error:
            if str(error) == "key not found":
                return None
            raise classify(error, "reading", self._where) from error

    @property
    def handles(self) -> tuple[object, ...]:
        """RocksDB's handles of it."""
        return (*self._snapshots.values(), *self._cursors.values())

    @property
    def is_open(self) -> bool:
        """Whether it still keeps its store from closing."""
        return self._closed is None

    def close(self) -> None:
        """Release it. Idempotent."""
        if self._closed is None:
            self._closed = ClosedError("the view is closed: take a new one from the store")
            self._close_scans()
            self._snapshots.clear()
            for cursor in self._cursors.values():
                cursor.release()
            self._cursors.clear()


class RocksStore(_Reading, Store):
    """The Store port over one RocksDB directory."""

    def __init__(
        self, path: Path, mode: Mode = Mode.NORMAL, *, failpoint: Failpoint = no_failpoint
    ) -> None:
        """Open ``path``.

        Raises StorageLockedError, StorageCorruptError (a torn write-ahead log too: see ``Mode``),
        StorageFullError or StorageFailedError.
        """
        self._where = str(path)
        self._failpoint = failpoint
        self._written = 0
        self._views: WeakSet[RocksView] = WeakSet()
        self._scans = WeakSet()
        self._cursors: WeakSet[_Cursor] = WeakSet()
        self._refusal: Error | None = None
        self.health = self._health = _Health()
        self.corruption: StorageCorruptError | None = None
        """The first damage that was met; reads of what is intact go on, unless writing ended."""
        access = AccessType.read_only(False) if mode is Mode.LOOK else AccessType.read_write()
        try:
            self._db = Rdict(
                self._where, database_options(path, mode), column_families(), access_type=access
            )
        except Exception as error:
            raise classify(error, "opening", self._where) from error
        self._families: dict[Space, Rdict] = {}
        self._handles: dict[Space, ColumnFamily] = {}
        for space in Space:
            self._families[space] = self._db.get_column_family(space.value)
            self._handles[space] = self._db.get_column_family_handle(space.value)
        # Which family has the machine's rows is data, as a batch that adopts the other changes it.
        self._is_exchanged = False
        try:
            exchanged = self._db.get(_EXCHANGED_KEY)
        except Exception as error:
            raise classify(error, "opening", self._where) from error
        if exchanged is not None and unseal(cast("bytes", exchanged), "exchange") == _YES:
            self._exchange()
        self._write_options = WriteOptions()
        self._write_options.no_slowdown = True
        self._read_options = ReadOptions()
        self._read_options.set_verify_checksums(True)
        _open_stores.add(self)

    @property
    def refusal(self) -> Error | None:
        """Why nothing is served any more, ready to be raised; None while all is well."""
        return again(self._refusal)

    @property
    def written(self) -> int:
        """Position of the last write; 0 at first."""
        return self._written

    def _refused(self) -> Error | None:
        return again(self._refusal)

    def _cursor(self, space: Space, stop: bytes | None) -> _Cursor:
        cursor = _Cursor(self._families[space], stop)
        self._cursors.add(cursor)
        return cursor

    def get(self, space: Space, key: bytes) -> bytes | None:
        """The value, or None. Raises StorageCorruptError rather than answer wrongly."""
        if self._refusal is not None:
            raise type(self._refusal)(*self._refusal.args)
        try:
            return cast("bytes | None", self._families[space].get(key, None, self._read_options))
        except Exception as error:
            failure = classify(error, "reading", self._where)
            self._notice(failure)
            raise failure from error

    def _notice(self, failure: Error) -> None:
        if isinstance(failure, StorageCorruptError):
            self.corruption = self.corruption or failure

    def batch(self) -> ChangeList:
        """A new empty batch."""
        if self._refusal is not None:
            raise type(self._refusal)(*self._refusal.args)
        return ChangeList()

    def write(self, batch: Batch) -> int:
        """Make the batch visible and return its position: durable once ``sync`` answers as much.

        Raises StorageStallError if RocksDB would stall: nothing was written, the same batch may be
        tried again. Anything else poisons the store for good.
        """
        if self._refusal is not None:
            raise type(self._refusal)(*self._refusal.args)
        if not isinstance(batch, ChangeList):
            raise UsageError("write() takes a batch made by batch() of a raftkv store")
        if not batch.changes:
            return self._written
        changes = WriteBatch(raw_mode=True)
        handles = self._handles
        adopts = False
        for kind, space, key, value in batch.changes:
            if kind == PUT:
                changes.put(key, value, handles[space])
            elif kind == DELETE:
                changes.delete(key, handles[space])
            elif kind == ADOPT:
                adopts = True
                handles = self._adopt(changes, handles)
            else:
                changes.delete_range(key, value, handles[space])
        try:
            self._failpoint("write.before")
            self._db.write(changes, self._write_options)
            self._failpoint("write.after")
        except Exception as error:
            failure = classify(error, "writing to", self._where)
            if not isinstance(failure, StorageStallError):
                self._notice(failure)  # a compaction may have met damage, and ended all writing
                failure = self._fail(failure)
            raise failure from error
        if adopts:
            self._exchange()
        self._written += 1
        return self._written

    def _adopt(
        self, changes: WriteBatch, handles: dict[Space, ColumnFamily]
    ) -> dict[Space, ColumnFamily]:
        """Let the two families change their roles in ``changes``; the handles from there on."""
        last = next(self.scan(Space.MACHINE, reverse=True), None)
        if last is not None:
            changes.delete_range(b"", last[0] + b"\0", handles[Space.MACHINE])
        record = seal(_NO if self._is_exchanged else _YES)
        changes.put(_EXCHANGED_KEY, record)
        return _exchanged(handles)

    def _exchange(self) -> None:
        self._handles = _exchanged(self._handles)
        self._families = _exchanged(self._families)
        self._is_exchanged = not self._is_exchanged

    def sync(self) -> int:
        """Wait until all that was written before the call is durable; answer the newest position.

        Blocks, with the GIL released: call it in the ``wal`` worker. Any failure poisons the store
        for good and raises StorageFailedError: the kernel may have dropped the pages it could not
        write, so trying again would only seem to succeed.
        """
        if self._refusal is not None:
            raise type(self._refusal)(*self._refusal.args)
        position = self._written
        try:
            self._failpoint("sync.before")
            self._db.flush_wal(True)
            self._failpoint("sync.after")
        except Exception as error:
            failure = classify(error, "syncing", self._where)
            self._notice(failure)
            raise self._fail(failure) from error
        return position

    def view(self, *, cached: bool = True) -> RocksView:
        """A frozen moment: what is visible now; not ``cached``, scans fill no block cache."""
        if self._refusal is not None:
            raise type(self._refusal)(*self._refusal.args)
        view = RocksView(self, self._families, self._where, cached)
        self._views.add(view)
        return view

    def reclaim(self, space: Space) -> None:
        """Compact the family of ``space``, with the GIL released: call it in a worker.

        Files that a range deletion covers are dropped unread.
        """
        if self._refusal is not None:
            raise type(self._refusal)(*self._refusal.args)
        try:
            self._families[space].compact_range(None, None)
        except Exception as error:
            raise classify(error, "compacting", self._where) from error

    def flush(self) -> None:
        """Write what is in memory into tables, as RocksDB does when it is much. Blocks."""
        if self._refusal is not None:
            raise type(self._refusal)(*self._refusal.args)
        try:
            for family in (*self._families.values(), self._db):
                family.flush()
        except Exception as error:
            raise classify(error, "flushing", self._where) from error

    def poison(self, error: StorageError) -> None:
        """Refuse every later call with ``error``, reads included; the first reason stays."""
        if self._refusal is None:
            self._refusal = again(error)
            self._health.is_lost = True

    def abandon(self) -> None:
        """In a forked child: refuse everything, and let the handles live for ever.

        Their destructors, run when the child ends, would wait for threads that were not forked.
        """
        self._health.is_lost = True
        self._refusal = ForkedError(
            "this process was forked after the store was opened: open a node of its own here, or"
            " start processes by spawning"
        )
        views = [handle for view in self._views for handle in view.handles]
        handles = (self._db, *self._families.values(), *self._handles.values())
        for handle in (*handles, *views, *self._scans):
            _make_immortal(ctypes.py_object(handle))

    def _fail(self, failure: Error) -> Error:
        if not isinstance(failure, StorageFailedError | ClosedError):
            failure = StorageFailedError(str(failure))
        if isinstance(failure, StorageFailedError):
            self.poison(failure)
        return failure

    def close(self) -> None:
        """Release files and lock. Idempotent.

        Raises UsageError while views are open or a scan runs in another thread. A failed store
        closes too: what RocksDB then complains about was reported when it happened.
        """
        if isinstance(self._refusal, ClosedError):
            return
        if isinstance(self._refusal, ForkedError):
            return  # the files belong to the parent
        still_open = sum(view.is_open for view in self._views)
        if still_open:
            raise UsageError(f"{still_open} views of the store are open: close them first")
        self._close_scans()
        failed = self._refusal is not None
        self._refusal = ClosedError(f"the store {self._where} is closed: open it again")
        self._handles.clear()
        for cursor in list(self._cursors):
            cursor.release()
        failure: Exception | None = None
        # The families share the database's lock: it is let go with the last of them.
        for handle in (*self._families.values(), self._db):
            try:
                handle.close()
            except Exception as error:  # rocksdict raises nothing narrower
                failure = error
        self._families.clear()
        if failure is not None and not failed:
            raise classify(failure, "closing", self._where) from failure


def _exchanged(by_space: dict[Space, T]) -> dict[Space, T]:
    machine, staged = by_space[Space.MACHINE], by_space[Space.STAGED]
    return {**by_space, Space.MACHINE: staged, Space.STAGED: machine}


_open_stores: Final[WeakSet[RocksStore]] = WeakSet()


def _refuse_in_child() -> None:
    """A forked child shares the parent's files; RocksDB would write to them without an error."""
    for store in _open_stores:
        store.abandon()


os.register_at_fork(after_in_child=_refuse_in_child)
