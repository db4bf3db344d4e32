"""Where a member's RocksDB store lies, and how a new one takes the place of a damaged one.

::

    member/store/           the store
    member/store.making/    a new one while it is filled: worthless after a crash, and removed
    member/store.new/       a new one that is complete: from here on it is the store
    member/store.damaged/   the one that was replaced last, for who wants to look; never more than
                            one, and none where the disk has no room for it

The renames are the steps: ``making`` to ``new`` once it is complete and synced, ``store`` to
``damaged``, ``new`` to ``store``. An opening that finds ``new`` goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from raftkv.errors import InvariantError, StorageCorruptError
from raftkv.storage.base import Store
from raftkv.storage.files import Files
from raftkv.storage.manifest import missing_batches
from raftkv.storage.member import Failpoint, FailStopStore
from raftkv.storage.opening import Examination, Place
from raftkv.storage.records import REBUILD, corrupt
from raftkv.storage.rocks import RocksStore
from raftkv.storage.rocks_options import Mode

STORE: Final = "store"
_MAKING: Final = "store.making"
_NEW: Final = "store.new"
_DAMAGED: Final = "store.damaged"
_ROOM: Final = 2  # times the store's size: for the copy, and for what is written next


AnyStore = TypeVar("AnyStore", bound=FailStopStore)


def open_or_cut(
    open_as: Callable[[Mode], AnyStore],
    check: Callable[[Store], Examination],
    where: str,
    failpoint: Failpoint,
) -> tuple[AnyStore, Examination]:
    """Open a store for good if it passes ``check``.

    Where its write-ahead log is damaged, and everything promised lies before, the rest is cut off.
    """
    try:
        store = open_as(Mode.NORMAL)
    except StorageCorruptError as refusal:
        _cut_torn_tail(open_as, check, where, failpoint, refusal)
        store = open_as(Mode.NORMAL)
    try:
        return store, check(store)
    except BaseException:
        store.close()
        raise


def _cut_torn_tail(
    open_as: Callable[[Mode], FailStopStore],
    check: Callable[[Store], Examination],
    where: str,
    failpoint: Failpoint,
    refusal: StorageCorruptError,
) -> None:
    """Cut the write-ahead log where it is damaged, if everything promised lies before.

    Looking does not change the directory; only once the look has passed is the same recovery
    done for good, and its result compared with the look.
    """
    try:
        store = open_as(Mode.LOOK)
        try:
            seen = check(store)
        finally:
            store.close()
    except StorageCorruptError as error:
        raise StorageCorruptError(f"{error} (RocksDB says: {refusal})") from refusal
    failpoint("cut.before")
    store = open_as(Mode.CUT)
    try:
        if check(store) != seen:
            raise InvariantError(f"{where} was cut at another place than was looked at; {REBUILD}")
        store.sync()
    finally:
        store.close()
    failpoint("cut.after")


class RocksPlace(Place):
    """The Place port in a member's directory."""

    def __init__(self, member: Path, files: Files, failpoint: Failpoint) -> None:
        self._member = member
        self._files = files
        self._failpoint = failpoint
        self._path = member / STORE
        self._has_room: bool | None = None

    @property
    def where(self) -> str:
        """For a human."""
        return str(self._member)

    @property
    def aside(self) -> str:
        """What becomes of a store that is replaced, for a human."""
        if self.has_room:
            return f"and the old one is kept in {self._member / _DAMAGED}"
        return "and the old one is removed, as the disk has no room for both"

    @property
    def has_room(self) -> bool:
        """Whether a copy of it can be made and the original kept beside."""
        if self._has_room is None:  # what is said of it must stay true while the copy takes room
            size = self._files.size(self._path)
            self._has_room = self._files.free_bytes(self._member) >= _ROOM * size
        return self._has_room

    def open(self, check: Callable[[Store], Examination]) -> tuple[RocksStore, Examination]:
        """Open the store for good if it passes ``check``; a torn tail is cut if the rest does."""
        if not self._files.exists(self._path):
            corrupt(f"{self._path} is missing")
        missing = missing_batches(self._path, self._files)
        if missing is not None:
            corrupt(missing)
        return open_or_cut(self._open_as, check, str(self._path), self._failpoint)

    def _open_as(self, mode: Mode) -> RocksStore:
        if mode is Mode.NORMAL:
            return RocksStore(self._path, failpoint=self._failpoint)
        return RocksStore(self._path, mode)

    def look(self) -> RocksStore | None:
        """Open it for reading only, as far as it can be read; None if it cannot be at all."""
        if not self._files.exists(self._path):
            return None
        if missing_batches(self._path, self._files) is not None:
            return None
        try:
            return RocksStore(self._path, Mode.LOOK)
        except StorageCorruptError:
            return None

    def begin(self) -> RocksStore:
        """A new, empty store beside it; what was begun there before is gone."""
        self.sweep()
        return RocksStore(self._member / _MAKING, Mode.CREATE, failpoint=self._failpoint)

    def replace(self) -> None:
        """Let the new store, closed and complete, take the place."""
        making = self._member / _MAKING
        self._files.sync_directory(making)
        self._files.rename(making, self._member / _NEW)
        self._failpoint("replace.complete")
        self.finish()

    def finish(self) -> None:
        """Go on with a replacement that was complete; nothing to do if there is none."""
        new = self._member / _NEW
        if not self._files.exists(new):
            return
        damaged = self._member / _DAMAGED
        if self._files.exists(self._path):
            self._files.remove_tree(damaged)
            if self.has_room:
                self._files.rename(self._path, damaged)
            else:
                self._files.remove_tree(self._path)
        self._failpoint("replace.aside")
        self._files.rename(new, self._path)
        self._failpoint("replace.after")
        self.sweep()

    def sweep(self) -> None:
        """Remove what a replacement that was not complete has left."""
        for name in (_MAKING, _MAKING + "-options"):
            self._files.remove_tree(self._member / name)
