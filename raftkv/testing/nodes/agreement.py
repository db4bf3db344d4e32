"""Whether a simulated disk is as bad as a real one: the same steps, and what a crash may leave.

A list of steps is given to a store on a simulated disk and to RocksDB. As long as both run, they
show the same. When the power is cut, the simulated disk says all that may be left of the real one
(:meth:`SimulatedSide.outcomes`), and what RocksDB then shows has to be among it. Otherwise what is
proved on simulated disks would be proved of a fiction.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from random import Random
from struct import Struct
from typing import Final, TypeAlias

from attrs import frozen

from raftkv.errors import StorageCorruptError
from raftkv.storage.base import Batch, Reader, Space, Store
from raftkv.storage.batch import ADOPT, DELETE, DELETE_RANGE, PUT, Change
from raftkv.storage.rocks import RocksStore
from raftkv.storage.rocks_options import Mode
from raftkv.testing.choices import ReplayedChoices
from raftkv.testing.nodes.image import StoreImage
from raftkv.testing.nodes.store import Life, SimStore, Troubles

_LENGTHS: Final = Struct("<II")
_KEYS: Final = (b"", b"a", b"ab", b"b", b"\x00", b"\xff", b"\xff\xff", b"key")
_SIZES: Final = (0, 1, 30, 300, 300, 5_000, 40_000)


@frozen(slots=True)
class Write:
    """A batch."""

    changes: tuple[Change, ...]


@frozen(slots=True)
class Sync:
    """All batches so far."""


@frozen(slots=True)
class Reopen:
    """An orderly close, and an opening."""


@frozen(slots=True)
class WriteBack:
    """The kernel writes out what it has cached, without being asked."""


Step: TypeAlias = Write | Sync | Reopen | WriteBack


@frozen(slots=True)
class Outcome:
    """What an opening after a crash finds."""

    is_refused: bool
    """RocksDB refuses its write-ahead log, and is told to cut it where it is damaged."""
    content: bytes
    """A hash of all rows that are left."""


def draw_steps(random: Random, count: int) -> list[Step]:
    """So many steps; most are batches, and a good part of those is synced."""
    steps: list[Step] = []
    for _ in range(count):
        kind = random.random()
        if kind < 0.6:
            steps.append(Write(_draw_changes(random)))
        elif kind < 0.85:
            steps.append(Sync())
        elif kind < 0.95:
            steps.append(WriteBack())
        else:
            steps.append(Reopen())
    return steps


def _draw_changes(random: Random) -> tuple[Change, ...]:
    changes: list[Change] = []
    spaces = tuple(Space)
    for _ in range(random.randint(1, 6)):
        kind = random.choice((PUT, PUT, PUT, PUT, DELETE, DELETE_RANGE, ADOPT))
        space, key = random.choice(spaces), random.choice(_KEYS)
        if kind == PUT:
            changes.append((PUT, space, key, random.randbytes(random.choice(_SIZES))))
        elif kind == DELETE_RANGE:
            changes.append((DELETE_RANGE, space, key, random.choice(_KEYS)))
        elif kind == DELETE:
            changes.append((DELETE, space, key, b""))
        elif all(one[0] != ADOPT for one in changes):
            changes.append((ADOPT, Space.MACHINE, b"", b""))
    return tuple(changes)


def fill(batch: Batch, changes: tuple[Change, ...]) -> None:
    """Put changes into a batch by the port's own methods."""
    for kind, space, key, value in changes:
        if kind == PUT:
            batch.put(space, key, value)
        elif kind == DELETE:
            batch.delete(space, key)
        elif kind == ADOPT:
            batch.adopt_staged()
        else:
            batch.delete_range(space, key, value)


def write(store: Store, changes: tuple[Change, ...]) -> None:
    """One batch, unsynced."""
    batch = store.batch()
    fill(batch, changes)
    store.write(batch)


def content_of(reader: Reader) -> bytes:
    """A hash of all rows."""
    made = blake2b(digest_size=16)
    for space in Space:
        made.update(space.value.encode())
        for key, value in reader.scan(space):
            made.update(_LENGTHS.pack(len(key), len(value)))
            made.update(key)
            made.update(value)
    return made.digest()


class SimulatedSide:
    """A store on a simulated disk."""

    def __init__(self, memtable_bytes: int = 64 * 1024) -> None:
        self._image = StoreImage()
        self._memtable_bytes = memtable_bytes
        self.store = self._opened(self._image, Mode.CREATE)

    def _opened(self, image: StoreImage, mode: Mode) -> SimStore:
        return SimStore(
            image,
            mode,
            where="the simulated disk",
            troubles=Troubles(),
            life=Life(),
            memtable_bytes=self._memtable_bytes,
        )

    def take(self, step: Step) -> None:
        """Do one step."""
        match step:
            case Write(changes):
                write(self.store, changes)
            case Sync():
                self.store.sync()
            case Reopen():
                self.store.close()
                self.store = self._opened(self._image, Mode.NORMAL)
            case WriteBack():
                pass  # what may be left after a cut includes everything that was written

    def outcomes(self) -> dict[Outcome, str]:
        """Everything that a power cut may leave now, and in words how."""
        found: dict[Outcome, str] = {}
        for lost in range(self._image.unsynced + 1):
            for torn in (0, 1):
                image, choices = self._image.copied(), ReplayedChoices(((lost, torn),))
                choices.begin()
                told = image.lose_power(choices, is_harsh=True)
                found.setdefault(self._looked(image), told)
        return found

    def _looked(self, image: StoreImage) -> Outcome:
        is_refused = False
        try:
            store = self._opened(image, Mode.NORMAL)
        except StorageCorruptError:
            is_refused = True
            store = self._opened(image, Mode.CUT)
        try:
            return Outcome(is_refused, content_of(store))
        finally:
            store.close()

    def close(self) -> None:
        """The end."""
        self.store.close()


def look(path: Path) -> Outcome:
    """Open what a crash left of a RocksDB directory, as an opening of a member does.

    Raises StorageCorruptError where even a look, or what is left after the cut, is damaged.
    """
    try:
        store = RocksStore(path)
    except StorageCorruptError:
        return _cut(path)
    try:
        return Outcome(False, content_of(store))
    finally:
        store.close()


def _cut(path: Path) -> Outcome:
    store = RocksStore(path, Mode.LOOK)
    try:
        seen = content_of(store)
    finally:
        store.close()
    store = RocksStore(path, Mode.CUT)
    try:
        kept = content_of(store)
    finally:
        store.close()
    if kept != seen:
        raise StorageCorruptError(f"{path} was cut at another place than was looked at")
    return Outcome(True, kept)
