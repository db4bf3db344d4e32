"""A member's simulated disk: below the shipped storage, so that all of its recovery runs as it is.

:class:`SimDisk` outlives the processes that open it. :meth:`SimDisk.open` is what ``open_rocks`` is
to a directory: the same opening with the same witness, quarantine, torn tails and notes, on files
that are a model (:mod:`raftkv.testing.nodes.image`). :meth:`SimDisk.crash` is the end of a process
by a power cut. Everything else here is what disks do wrong.

Every choice of a crash or a fault is asked of :class:`~raftkv.testing.choices.Choices`, 0 being the
harmless one: a crash that keeps all that was written is the end of the process alone. A fault's
method answers what was done, for the story of the run, or None if there was nothing to do it to.
Where a choice picks a row or record, it is one of :data:`PLACES` numbers whatever there is to pick
from: the decisions of a run mean the same on a real RocksDB directory
(:mod:`raftkv.testing.nodes.rocks`), where the rows lie differently.

**What is never done,** because no recovery could tell it from an ordinary crash, and raftkv says
so: a store is not damaged as long as the witness is older than it, which takes a power cut that
caught it between two syncs (:mod:`raftkv.storage.witness`), or damaged itself; and a copy is not
put back while the boot it was taken in is the newest one (:mod:`raftkv.node.disks`).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from enum import Enum
from errno import ENOSPC
from hashlib import blake2b
from typing import Final

from attrs import frozen

from raftkv.errors import StorageFailedError, StorageFullError, StorageLockedError
from raftkv.storage.base import Identity, Space
from raftkv.storage.batch import PUT, Change
from raftkv.storage.member import Failpoint, MemberStorage, no_failpoint
from raftkv.storage.memory import apply_changes
from raftkv.storage.opening import BOOT_TOKEN_BYTES, Opening, first_identity, open_member
from raftkv.storage.reading import GROUP, LogKeys
from raftkv.storage.witness import SLOT_BYTES, WITNESS_BYTES, FileWitness
from raftkv.testing.choices import Choices
from raftkv.testing.nodes.image import Image, Mark, StoreImage
from raftkv.testing.nodes.store import (
    Life,
    Operation,
    SimNotes,
    SimPlace,
    SimStore,
    SimWitness,
    Troubles,
)

PLACES: Final = 1 << 16
"""From so many numbers a fault picks where it strikes."""

_PERSON: Final = b"raftkv sim disk"
_LOG_PREFIX: Final = GROUP.pack(0)
_DAMAGE_KEY: Final = LogKeys(0).damage


class Zone(Enum):
    """A part of a member's disk that can be damaged by itself."""

    WAL = "write-ahead log"  # records that were synced, and are in no table yet
    LOG = "log"  # entries in tables
    META = "positions"  # hard state, marks and identity in tables
    ROWS = "rows"  # the machine's, in tables
    WITNESS = "witness"
    NOTES = "notes"


_SPACES: Final = {
    Zone.LOG: (Space.LOG,),
    Zone.META: (Space.META,),
    Zone.ROWS: (Space.MACHINE, Space.IMAGE, Space.STAGED),
}


@frozen(kw_only=True)
class DiskOptions:
    """How a disk behaves."""

    is_harsh: bool = False
    """Whether a power cut may also tear the first batch it loses, and order no sectors."""
    memtable_bytes: int = 16 * 1024
    """How much the write-ahead log holds before it goes into tables."""


class SimDisk:
    """One member's disk. ``number`` tells it from every other disk of the run."""

    def __init__(self, options: DiskOptions | None = None, *, number: int = 0) -> None:
        self.options = DiskOptions() if options is None else options
        self.troubles = Troubles()
        """What it does wrong until told otherwise."""
        self._number = number
        self._made = 0
        self._openings = 0
        self._image = Image()
        self._backup: Image | None = None
        self._is_old = False
        self._life: Life | None = None
        self._place: SimPlace | None = None

    # --- what a process does with it --------------------------------------------------------------

    def open(
        self,
        cluster_id: int,
        member_id: int,
        *,
        can_recover: bool = True,
        has_others: bool = True,
        failpoint: Failpoint = no_failpoint,
    ) -> MemberStorage:
        """Open it for a member, as ``open_rocks`` opens a directory, and with its errors."""
        if self.is_open:
            raise StorageLockedError(f"{self.where} is open already: close its storage first")
        image, life, troubles = self._image, Life(), self.troubles
        self._openings += 1
        expected = Identity(cluster_id, member_id, b"", 0)
        place = self._new_place(image, life, failpoint)
        self._life, self._place = life, place
        witness = FileWitness(SimWitness(image.witness, troubles, life), self.where)
        try:
            with _named(self.where):
                if image.is_new:
                    self._make(expected, place, witness)
                storage = open_member(
                    Opening(
                        place=place,
                        witness=witness,
                        notes=SimNotes(image.notes, troubles, life),
                        expected=expected,
                        can_recover=can_recover,
                        has_others=has_others,
                        new_token=self._token,
                        failpoint=failpoint,
                        release=lambda: self._release(life),
                    )
                )
        except BaseException:
            place.die()
            self._release(life)
            raise
        image.boot = storage.identity.boot
        return storage

    def _new_place(self, image: Image, life: Life, failpoint: Failpoint) -> SimPlace:
        memtable_bytes = self.options.memtable_bytes
        return SimPlace(image, self.where, self.troubles, life, memtable_bytes, failpoint)

    def _make(self, expected: Identity, place: SimPlace, witness: FileWitness) -> None:
        uuid = self._hash("disk", self._made)
        identity = Identity(expected.cluster_id, expected.member_id, uuid, 0)
        store = place.begin()
        try:
            first_identity(store, witness, identity)
        finally:
            store.close()
        place.replace()
        self._image.is_new = False

    def _token(self) -> bytes:
        return self._hash("opening", self._openings)[:BOOT_TOKEN_BYTES]

    def _hash(self, what: str, count: int) -> bytes:
        name = f"{self._number} {what} {count}".encode()
        return blake2b(name, digest_size=16, person=_PERSON).digest()

    def _release(self, life: Life) -> None:
        life.is_over = True
        if self._life is life:
            self._life = None

    @property
    def where(self) -> str:
        """For a human."""
        return f"simulated disk {self._number}"

    @property
    def is_open(self) -> bool:
        """Whether a process has it open."""
        return self._life is not None

    @property
    def unsynced(self) -> int:
        """How many batches a power cut may lose."""
        store = self._image.store
        return 0 if store is None else store.unsynced

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong with what it holds, known to its member or not."""
        store = self._image.store
        if store is None:
            return self._image.is_new
        return (
            store.is_intact
            and not store.is_old
            and store.meta(_DAMAGE_KEY) is None
            and not self._image.witness.damaged
            and not self.troubles.lost_writes
            and self.troubles.misdirected is None
        )

    # --- the end of a process ---------------------------------------------------------------------

    def crash(self, choices: Choices) -> str:
        """The power is cut: the process is gone, and so is what chance takes of what is not synced.

        Choosing 0 throughout is the end of the process alone.
        """
        if self._place is not None:
            self._place.die()
        if self._life is not None:
            self._release(self._life)
        image, told = self._image, "nothing is lost"
        if image.store is not None:
            told = image.store.lose_power(choices, is_harsh=self.options.is_harsh)
        if image.store is not None and not image.store.is_intact:
            image.witness.sync()
        else:
            image.witness.lose_power(choices, is_harsh=self.options.is_harsh)
        return told

    # --- what disks do wrong ----------------------------------------------------------------------

    def fail(self, operation: Operation, *, for_ever: bool = False) -> None:
        """Have an operation fail with an I/O error, once or from now on."""
        self.troubles.failing[operation] = for_ever

    def mend(self) -> None:
        """From now on nothing new goes wrong."""
        self.troubles.failing.clear()
        self.troubles.is_full = False
        self.troubles.stalls = self.troubles.lost_writes = 0
        self.troubles.misdirected = None

    def lose_write(self) -> str | None:
        """The next batch is lost, though the disk says that it has it, also when asked to sync."""
        if self._is_taxed:
            return None
        self.troubles.lost_writes = 1
        return "will lose the next batch"

    def misdirect(self, choices: Choices) -> str | None:
        """The next batch lands on one that was synced before, and is not where it should be."""
        if self._is_taxed:
            return None
        self.troubles.misdirected = choices.choose(PLACES)
        return "will put the next batch into the place of another one"

    def flip(self, zone: Zone, choices: Choices) -> str | None:
        """Change a bit in a zone; checksums tell whoever reads it."""
        place = choices.choose(PLACES)
        if zone is Zone.WAL:
            return self._flip_record(place)
        if zone is Zone.WITNESS:
            return self._flip_witness(place)
        if zone is Zone.NOTES:
            return self._flip_note(place)
        found = self._exposed_row(zone, place)
        store = self._image.store
        if found is None or store is None or self._is_taxed:
            return None
        self._rot(store, found, place)
        return f"a bit flips in row {found[1].hex()} of {found[0].value}"

    def _rot(self, store: StoreImage, row: tuple[Space, bytes], _place: int) -> None:
        store.unreadable[row] = None
        if self._open_store is not None:
            self._open_store.reading.unreadable[row] = None

    def alter(self, zone: Zone, choices: Choices) -> str | None:
        """Change a bit before RocksDB's checksum is made: only ours can tell. LOG and META only.

        And only rows that have one: those of the log itself.
        """
        place = choices.choose(PLACES)
        sealed = zone in (Zone.LOG, Zone.META)
        found = self._exposed_row(zone, place, _LOG_PREFIX) if sealed else None
        store = self._image.store
        if found is None or store is None or self._is_taxed:
            return None
        space, key = found
        value = store.tables.rows[space].values[key]
        at = 1 + place % (len(value) - 1)  # behind the byte that says which format it is
        changed = value[:at] + bytes([value[at] ^ 1 << place % 8]) + value[at + 1 :]
        change: Change = (PUT, space, key, changed)
        apply_changes(store.tables.rows, (change,))
        store.wrong[found] = None
        if self._open_store is not None:
            apply_changes(self._open_store.visible, (change,))
        return f"row {key.hex()} of {space.value} is not what was written"

    def read_stale(self, choices: Choices) -> str | None:
        """The next opening sees the write-ahead log as it was a while ago."""
        place = choices.choose(PLACES)
        store = self._image.store
        if store is None or self._is_taxed or not store.wal or self.is_open:
            return None
        count = 1 + place * len(store.wal) // PLACES
        store.forget(count)
        return f"the last {count} batches are not seen"

    def lose_log_file(self) -> str | None:
        """RocksDB's newest write-ahead log is gone. Between two openings only."""
        store = self._image.store
        if store is None or self._is_taxed or not store.wal or self.is_open:
            return None
        store.forget(len(store.wal))
        return f"the write-ahead log with {len(store.wal)} batches is gone"

    def lose_store(self) -> str | None:
        """All of RocksDB's files are gone; witness and notes are there. Between openings only."""
        if self._image.store is None or self.is_open or self._is_taxed:
            return None
        self._image.store = None
        return "the store is gone"

    def wipe(self) -> str | None:
        """Another, empty disk is in its place. Between two openings only."""
        if self.is_open:
            return None
        self._made += 1
        self._image = Image()
        return "an empty disk is in its place"

    def back_up(self) -> str | None:
        """Copy what is on it; the copy before is forgotten."""
        if self._image.is_new or not self.is_whole:
            return None
        self._backup = self._image.copied()
        return f"a copy is made in boot {self._image.boot}"

    def put_back(self) -> str | None:
        """The copy takes the place of what is there. Between two openings only."""
        copy = self._backup
        if copy is None or copy.store is None or self.is_open or copy.boot >= self._image.boot:
            return None
        self._image = copy.copied()
        assert self._image.store is not None
        self._image.store.is_old = True
        return f"a copy made in boot {copy.boot} is put back"

    # --- where faults strike ----------------------------------------------------------------------

    @property
    def _open_store(self) -> SimStore | None:
        store = self._place.opened[-1] if self._place is not None and self.is_open else None
        return store if isinstance(store, SimStore) else None

    @property
    def _is_taxed(self) -> bool:
        """Whether another fault would be one more than any recovery can tell from none."""
        return self._image.witness.is_behind or bool(self._image.witness.damaged)

    def _flip_record(self, place: int) -> str | None:
        store = self._image.store
        if store is None or self._is_taxed:
            return None
        synced = [one for one in store.wal if one.is_synced]
        if not synced:
            return None
        number = place * len(synced) // PLACES
        store.spoil(synced[number], Mark.TORN)
        return f"a bit flips in synced batch {number + 1} of {len(synced)} in the write-ahead log"

    def _flip_witness(self, place: int) -> str | None:
        store, sectors = self._image.store, self._image.witness
        if store is None or not store.is_intact or sectors.is_behind:
            return None
        start = place * WITNESS_BYTES // PLACES
        if len(sectors.content()) <= start:
            return None
        sectors.damage(start, 1 << place % 8)
        return f"a bit flips in sector {start // SLOT_BYTES + 1} of the witness"

    def _flip_note(self, place: int) -> str | None:
        notes = self._image.notes
        if not notes:
            return None
        name = sorted(notes)[place * len(notes) // PLACES]
        note = notes[name]
        at = place % len(note)
        notes[name] = note[:at] + bytes([note[at] ^ 1 << place % 8]) + note[at + 1 :]
        return f"a bit flips in the note {name!r}"

    def _exposed_row(
        self, zone: Zone, place: int, prefix: bytes = b""
    ) -> tuple[Space, bytes] | None:
        store = self._image.store
        if store is None:
            return None
        rows = [
            (space, key)
            for space in _SPACES[zone]
            for key in store.exposed(space)
            if key.startswith(prefix)
        ]
        return rows[place * len(rows) // PLACES] if rows else None


@contextmanager
def _named(where: str) -> Generator[None]:
    """Give the operating system's errors our names."""
    try:
        yield
    except OSError as error:
        kind = StorageFullError if error.errno == ENOSPC else StorageFailedError
        raise kind(f"opening {where} failed ({error}); repair it and open it again") from error
