"""A store in memory, for tests, simulations and machines whose data may die with the process.

It keeps the promises of the port exactly, the unpleasant ones too: what was written is visible at
once but only survives :meth:`MemoryStore.crash` if ``sync`` answered its position. A
:class:`MemoryDisk` outlives its openings, as a directory does.

Costs: reads are dictionary look-ups, a new key costs a shift of the sorted key list, and the first
write after a view or during a scan copies the space once (references only).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import count
from typing import Final
from weakref import WeakSet

from raftkv.errors import (
    ClosedError,
    Error,
    StorageCorruptError,
    StorageError,
    StorageLockedError,
    UsageError,
)
from raftkv.storage.base import Batch, Identity, Reader, Space, Store, View
from raftkv.storage.batch import ADOPT, DELETE, PUT, Change, ChangeList
from raftkv.storage.member import MemberStorage, MemoryNotes, again
from raftkv.storage.opening import (
    BOOT_TOKEN_BYTES,
    Examination,
    Opening,
    Place,
    first_identity,
    open_member,
)
from raftkv.storage.witness import MemoryWitness


class _Holder:
    """Somebody who reads rows that must not change under him."""

    __slots__ = ("__weakref__",)


class Rows:
    """One space of rows: a dictionary and its keys in order."""

    __slots__ = ("holders", "keys", "values")

    def __init__(
        self, keys: Iterable[bytes] = (), values: dict[bytes, bytes] | None = None
    ) -> None:
        self.keys: list[bytes] = list(keys)
        self.values: dict[bytes, bytes] = {} if values is None else dict(values)
        self.holders: WeakSet[_Holder] = WeakSet()

    def hold(self) -> _Holder:
        """From now on the rows are copied before they change, as long as the answer lives."""
        holder = _Holder()
        self.holders.add(holder)
        return holder

    def copy(self) -> Rows:
        """The same rows, held by nobody."""
        return Rows(self.keys, self.values)

    def change(self, change: Change) -> None:
        """Put, delete or delete a range; the space is the caller's affair."""
        kind, _, key, value = change
        if kind == PUT:
            if key not in self.values:
                insort(self.keys, key)
            self.values[key] = value
        elif kind == DELETE:
            if self.values.pop(key, None) is not None:
                del self.keys[bisect_left(self.keys, key)]
        else:
            low, high = bisect_left(self.keys, key), bisect_left(self.keys, value)
            for gone in self.keys[low:high]:
                del self.values[gone]
            del self.keys[low:high]

    def scan(
        self, start: bytes, stop: bytes | None, reverse: bool, holder: _Holder
    ) -> Iterator[tuple[bytes, bytes]]:
        """The rows between, for a holder."""
        low = bisect_left(self.keys, start)
        high = len(self.keys) if stop is None else bisect_left(self.keys, stop)
        places = range(high - 1, low - 1, -1) if reverse else range(low, high)
        for place in places:
            key = self.keys[place]
            yield key, self.values[key]
        del holder  # held by the generator until here, started or not


def _empty() -> dict[Space, Rows]:
    return {space: Rows() for space in Space}


class MemoryDisk:
    """What outlives a MemoryStore: the durable rows, the member's witness and notes beside it."""

    def __init__(self, disk_uuid: bytes | None = None) -> None:
        self.rows = _empty()
        self.witness = MemoryWitness()
        self.notes = MemoryNotes()
        self.disk_uuid = disk_uuid
        self.is_new = True
        self.is_open = False


class _MemoryReader(Reader):
    """Reading, shared by the store and its views."""

    _rows: dict[Space, Rows]

    def _check(self) -> None:
        raise NotImplementedError

    def get(self, space: Space, key: bytes) -> bytes | None:
        """The value, or None."""
        self._check()
        return self._rows[space].values.get(key)

    def scan(
        self, space: Space, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows from ``start`` up to and excluding ``stop``, as they are at the call."""
        self._check()
        rows = self._rows[space]
        return rows.scan(start, stop, reverse, rows.hold())


class MemoryView(_MemoryReader, View):
    """A frozen moment of a MemoryStore."""

    def __init__(self, store: MemoryStore, rows: dict[Space, Rows]) -> None:
        self._store = store
        self._rows = dict(rows)
        self._holders = [held.hold() for held in rows.values()]
        self._closed = False

    def _check(self) -> None:
        if self._closed:
            raise ClosedError("the view is closed: take a new one from the store")
        refusal = self._store.refusal
        if refusal is not None:
            raise refusal

    @property
    def is_open(self) -> bool:
        """Whether it still keeps its store from closing."""
        return not self._closed

    def close(self) -> None:
        """Release it. Idempotent."""
        self._closed = True
        self._holders.clear()


class MemoryStore(_MemoryReader, Store):
    """The Store port over dictionaries; one opening of a MemoryDisk."""

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self._disk = MemoryDisk() if disk is None else disk
        if self._disk.is_open:
            raise StorageLockedError("the memory disk is open already: close its store first")
        self._disk.is_open = True
        self._rows = {space: rows.copy() for space, rows in self._disk.rows.items()}
        self._unsynced: deque[tuple[int, tuple[Change, ...]]] = deque()
        self._views: WeakSet[MemoryView] = WeakSet()
        self._written = 0
        self._synced = 0
        self._refusal: Error | None = None
        self.corruption: StorageCorruptError | None = None
        """Damage that a read met: here it never does, tests say so."""

    def _check(self) -> None:
        if self._refusal is not None:
            raise type(self._refusal)(*self._refusal.args)

    @property
    def refusal(self) -> Error | None:
        """Why nothing is served any more, ready to be raised; None while all is well."""
        return again(self._refusal)

    def poison(self, error: StorageError) -> None:
        """Refuse every later call with ``error``, reads included; the first reason stays."""
        if self._refusal is None:
            self._refusal = again(error)

    @property
    def written(self) -> int:
        """Position of the last write; 0 at first."""
        return self._written

    @property
    def unsynced(self) -> int:
        """How many batches a crash now would forget at worst."""
        return len(self._unsynced)

    def batch(self) -> ChangeList:
        """A new empty batch."""
        self._check()
        return ChangeList()

    def write(self, batch: Batch) -> int:
        """Make the batch visible and return its position."""
        self._check()
        if not isinstance(batch, ChangeList):
            raise UsageError("write() takes a batch made by batch() of a raftkv store")
        if not batch.changes:
            return self._written
        changes = tuple(batch.changes)
        apply_changes(self._rows, changes)
        self._written += 1
        self._unsynced.append((self._written, changes))
        return self._written

    def sync(self) -> int:
        """Make everything written before the call durable; answer the newest such position."""
        self._check()
        position = self._written
        self._settle(position)
        return position

    def view(self, *, cached: bool = True) -> MemoryView:
        """A frozen moment: what is visible now."""
        self._check()
        view = MemoryView(self, self._rows)
        self._views.add(view)
        return view

    def reclaim(self, space: Space) -> None:
        """Removed rows take no room here."""
        self._check()

    def close(self) -> None:
        """End the opening as a process does: what was written stays, synced or not. Idempotent."""
        if isinstance(self._refusal, ClosedError):
            return
        still_open = sum(view.is_open for view in self._views)
        if still_open:
            raise UsageError(f"{still_open} views of the store are open: close them first")
        self._leave()
        self._end()

    def crash(self, keep: int = 0) -> None:
        """End the opening as a power cut does: only the ``keep`` oldest unsynced batches stay."""
        self._check()
        if not 0 <= keep <= len(self._unsynced):
            raise UsageError(f"keep must be at most {len(self._unsynced)}, the unsynced batches")
        self._settle(self._unsynced[keep - 1][0] if keep else self._synced)
        for view in self._views:
            view.close()
        self._end()

    def _leave(self) -> None:
        """What was written outlives the process."""
        self._settle(self._written)

    def _settle(self, position: int) -> None:
        """Everything up to ``position`` is durable from now on."""
        unsynced = self._unsynced
        while unsynced and unsynced[0][0] <= position:
            apply_changes(self._disk.rows, unsynced[0][1])
            unsynced.popleft()
        self._synced = position

    def _end(self) -> None:
        self._unsynced.clear()
        self._refusal = ClosedError("the store is closed: open it again")
        self._disk.is_open = False


def apply_changes(rows: dict[Space, Rows], changes: tuple[Change, ...]) -> None:
    """Do what one batch says."""
    for change in changes:
        space = change[1]
        if change[0] == ADOPT:
            rows[Space.MACHINE], rows[Space.STAGED] = rows[Space.STAGED], Rows()
            continue
        if rows[space].holders:
            rows[space] = rows[space].copy()
        rows[space].change(change)


_DISK_UUID: Final = b"raftkv memory"
# Tokens of openings: a disk and its copies live in one process, so counting tells them apart.
_openings: Final = count(1)


class MemoryPlace(Place):
    """The Place port on a MemoryDisk."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk
        self._new = MemoryDisk()

    @property
    def where(self) -> str:
        """For a human."""
        return "the memory disk"

    @property
    def aside(self) -> str:
        """What becomes of a store that is replaced."""
        return "and the old one is gone"

    @property
    def has_room(self) -> bool:
        """Memory is not counted."""
        return True

    def open(self, check: Callable[[Store], Examination]) -> tuple[MemoryStore, Examination]:
        """Open the store for good if it passes ``check``."""
        store = MemoryStore(self._disk)
        try:
            return store, check(store)
        except BaseException:
            store.close()
            raise

    def look(self) -> MemoryStore:
        """Open it for reading."""
        return MemoryStore(self._disk)

    def begin(self) -> MemoryStore:
        """A new, empty store beside it."""
        self._new = MemoryDisk()
        return MemoryStore(self._new)

    def replace(self) -> None:
        """Let the new store take the place."""
        self._disk.rows = self._new.rows


def open_memory(
    cluster_id: int,
    member_id: int,
    *,
    disk: MemoryDisk | None = None,
    can_recover: bool = False,
    has_others: bool = True,
) -> MemberStorage:
    """One member's storage in memory.

    Without ``disk`` it is a new one whose content dies with the storage; give the same MemoryDisk
    again to open what an earlier opening left. The disk's uuid is a function of the ids unless the
    disk was made with another, so that simulations repeat. ``can_recover`` and ``has_others`` as
    in ``open_rocks``.

    Raises IdentityError if the disk belongs to another cluster or member, StorageCorruptError if it
    lost what its witness remembers and cannot recover, StorageLockedError while another storage has
    it open.
    """
    disk = MemoryDisk() if disk is None else disk
    if disk.disk_uuid is None:
        ids = cluster_id.to_bytes(8, "little") + member_id.to_bytes(8, "little")
        disk.disk_uuid = blake2b(ids, digest_size=16, person=_DISK_UUID).digest()
    fresh = Identity(cluster_id, member_id, disk.disk_uuid, 0)
    if disk.is_new:
        store = MemoryStore(disk)
        try:
            first_identity(store, disk.witness, fresh)
        finally:
            store.close()
        disk.is_new = False
    return open_member(
        Opening(
            place=MemoryPlace(disk),
            witness=disk.witness,
            notes=disk.notes,
            expected=fresh,
            can_recover=can_recover,
            has_others=has_others,
            new_token=lambda: next(_openings).to_bytes(BOOT_TOKEN_BYTES, "little"),
        )
    )
