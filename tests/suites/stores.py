"""Stores for the suite: ours on their benches, and broken ones, each in one way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from raftkv.errors import StorageCorruptError, StorageFailedError
from raftkv.storage.base import Batch, Space, Store
from raftkv.storage.batch import ADOPT, DELETE_RANGE, ChangeList
from raftkv.storage.memory import MemoryDisk, MemoryStore, MemoryView, apply_changes
from raftkv.storage.rocks import RocksStore
from raftkv.storage.rocks_options import Mode
from raftkv.testing.choices import ReplayedChoices
from raftkv.testing.nodes.image import StoreImage
from raftkv.testing.nodes.store import Life, Operation, SimStore, Troubles
from raftkv.testing.suites.benches import Bench, Choose, DirectoryBench, FaultyBench


class MemoryBench(Bench):
    """The store in memory, or one that is derived from it."""

    def __init__(self, store: type[MemoryStore] = MemoryStore) -> None:
        self._disk = MemoryDisk()
        self._kind = store
        self._store: MemoryStore | None = None

    def open(self) -> Store:
        self._store = self._kind(self._disk)
        return self._store

    def crash(self, choose: Choose) -> None:
        assert self._store is not None
        self._store.crash(self._store.unsynced - choose(self._store.unsynced + 1))


class SimBench(FaultyBench):
    """The simulated disk, or a broken store on it."""

    def __init__(self, store: type[SimStore] = SimStore) -> None:
        self._image = StoreImage()
        self._kind = store
        self._mode = Mode.CREATE
        self._troubles = Troubles()
        self._store: SimStore | None = None

    def open(self) -> Store:
        self._store = self._kind(
            self._image,
            self._mode,
            where="the bench",
            troubles=self._troubles,
            life=Life(),
            memtable_bytes=2000,
        )
        self._mode = Mode.NORMAL
        return self._store

    def crash(self, choose: Choose) -> None:
        assert self._store is not None
        self._store.die()
        choices = ReplayedChoices(((choose(self._image.unsynced + 1), choose(2)),))
        choices.begin()
        self._image.lose_power(choices, is_harsh=True)
        self._mode = Mode.CUT

    def fail(self, *, writing: bool) -> None:
        self._troubles.failing[Operation.WRITE if writing else Operation.SYNC] = False

    def damage(self, choose: Choose) -> bool:
        keys = [(space, key) for space in Space for key in self._image.exposed(space)]
        self._image.unreadable[keys[choose(len(keys))]] = None
        return True


class RocksBench(DirectoryBench, FaultyBench):
    """RocksDB."""

    def __init__(self) -> None:
        super().__init__()
        self._failing = ""
        self._is_torn = False

    def _failpoint(self, name: str) -> None:
        if name == self._failing:
            self._failing = ""
            raise OSError("IO error: from the bench")

    def open_in(self, path: Path) -> Store:
        if not path.exists():
            return RocksStore(path, Mode.CREATE, failpoint=self._failpoint)
        try:
            return RocksStore(path, failpoint=self._failpoint)
        except StorageCorruptError:
            if not self._is_torn:
                raise
        RocksStore(path, Mode.CUT).close()
        return RocksStore(path, failpoint=self._failpoint)

    def crash(self, choose: Choose) -> None:
        super().crash(choose)
        self._is_torn = True

    def fail(self, *, writing: bool) -> None:
        self._failing = "write.before" if writing else "sync.before"

    def damage(self, choose: Choose) -> bool:
        self._is_torn = False
        return self.flip_bit(choose)


# --- broken in one way each -----------------------------------------------------------------------


def _changes(batch: Batch) -> ChangeList:
    assert isinstance(batch, ChangeList)
    return batch


class SyncsNothing(MemoryStore):
    """Says that it did."""

    def sync(self) -> int:
        return self.written


class SyncsTheOldest(MemoryStore):
    """One batch at a time, whatever it answers."""

    def _settle(self, position: int) -> None:
        super()._settle(min(position, self._synced + 1))


class WritesHalves(MemoryStore):
    """A batch is two, to a crash."""

    def write(self, batch: Batch) -> int:
        changes = _changes(batch).changes
        first, second = self.batch(), self.batch()
        at = len(changes) // 2
        first.changes, second.changes = changes[:at], changes[at:]
        super().write(first)
        super().write(second)
        return self.written


class SurvivesOutOfOrder(MemoryStore):
    """The newest batch gets to the disk first."""

    def crash(self, keep: int = 0) -> None:
        if keep:
            self._unsynced.rotate(1)
            self._unsynced = type(self._unsynced)(
                (number + 1, changes) for number, (_, changes) in enumerate(self._unsynced)
            )
            self._synced = 0
        super().crash(keep)


class KeepsInTheProcess(MemoryStore):
    """What is not synced ends with the process."""

    def crash(self, keep: int = 0) -> None:
        super().crash(0)


class ForgetsAtTheClose(MemoryStore):
    """What is not synced is gone after an orderly end."""

    def _leave(self) -> None:
        pass


class IncludesTheStop(MemoryStore):
    """Of a range that is deleted."""

    def write(self, batch: Batch) -> int:
        given = _changes(batch)
        given.changes = [
            (kind, space, key, value + b"\0" if kind == DELETE_RANGE else value)
            for kind, space, key, value in given.changes
        ]
        return super().write(given)


class ScansTheStop(MemoryStore):
    """And gives the row at the end of the range, too."""

    def scan(
        self, space: Space, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        beyond = None if stop is None or stop <= start else stop + b"\0"
        return super().scan(space, start, beyond if beyond else stop, reverse=reverse)


class ScansForwardOnly(MemoryStore):
    """Whatever is asked."""

    def scan(
        self, space: Space, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return super().scan(space, start, stop)


class ScansThePresent(MemoryStore):
    """Each row is looked up when it is given."""

    def scan(
        self, space: Space, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        for key, _ in super().scan(space, start, stop, reverse=reverse):
            value = self.get(space, key)
            if value is not None:
                yield key, value


class _Window(MemoryView):
    """What is there now."""

    def __init__(self, store: MemoryStore, now: Callable[[Space, bytes], bytes | None]) -> None:
        super().__init__(store, {})
        self._now = now
        self._scan = store.scan

    def get(self, space: Space, key: bytes) -> bytes | None:
        self._check()
        return self._now(space, key)

    def scan(
        self, space: Space, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        self._check()
        return self._scan(space, start, stop, reverse=reverse)


class ViewsThePresent(MemoryStore):
    """A view is a window, not a picture."""

    def view(self, *, cached: bool = True) -> MemoryView:
        self._check()
        view = _Window(self, self.get)
        self._views.add(view)
        return view


class TakesEmptyForMissing(MemoryStore):
    """An empty value is none."""

    def get(self, space: Space, key: bytes) -> bytes | None:
        return super().get(space, key) or None


class KeepsTheStaged(MemoryStore):
    """Adopts a copy of them."""

    def write(self, batch: Batch) -> int:
        staged = dict(self.scan(Space.STAGED))
        position = super().write(batch)
        if any(change[0] == ADOPT for change in _changes(batch).changes):
            again = self.batch()
            again.put_rows(Space.STAGED, staged.items())
            apply_changes(self._rows, tuple(again.changes))
        return position


class AnswersTheNext(MemoryStore):
    """Sync answers a position that nobody has written."""

    def sync(self) -> int:
        return super().sync() + 1


class ClosesUnderViews(MemoryStore):
    """Whoever reads from them."""

    def close(self) -> None:
        for view in list(self._views):
            view.close()
        super().close()


class WeighsNothing(MemoryStore):
    """Its batches do not say how large they are."""

    def batch(self) -> ChangeList:
        return _Weightless()


class _Weightless(ChangeList):
    @property
    def size_bytes(self) -> int:
        return 0


class ServesAfterAFailure(SimStore):
    """Tries again, with success."""

    def poison(self, error: object) -> None:
        pass

    @property
    def refusal(self) -> StorageFailedError | None:
        return StorageFailedError("a sync failed, once")


class EndsShort(SimStore):
    """A scan ends where a row is damaged."""

    def scan(
        self, space: Space, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        rows = super().scan(space, start, stop, reverse=reverse)
        while True:
            try:
                yield from islice(rows, 1)
            except StorageCorruptError:
                return
            else:
                if not getattr(rows, "gi_frame", None):
                    return
