"""What of a damaged store is provably intact, copied into a new one.

The new store has the same identity, the term and vote that are known, and a mark that says what was
lost; on top of that it keeps what is of use and proven:

- the machine's rows with their mark, if each row of every space could be read with its checksum;
- the entries of the log, each by its CRC and chain: those from the compaction point to the first
  damage, or, where the damage lies below what the machine has applied, those after the applied one;
- with no rows, no entries either: they continue a state that is not there. Then the store knows
  nothing but who it is and how it voted, and a leader sends it everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from attrs import frozen

from raftkv.core.types import Entry, HardState, Snapshot
from raftkv.errors import StorageStallError
from raftkv.storage.base import (
    AppliedMark,
    Batch,
    Damage,
    Reader,
    Space,
    Store,
    WitnessRecord,
)
from raftkv.storage.log import StoredLog
from raftkv.storage.reading import LogReader, check_positions

_BATCH_BYTES: Final = 1024 * 1024
_LOG_PREFIX: Final = bytes(4)  # the log's own records in the space meta begin with its group
_IDENTITY_KEY: Final = b"identity"  # which every store has its own of


@frozen(slots=True)
class Intact:
    """A consistent state that a damaged store still holds: rows up to ``applied``, and a log."""

    snapshot: Snapshot
    applied: AppliedMark
    entries: tuple[Entry, ...]

    @property
    def last_index(self) -> int:
        """Where its log ends."""
        return self.snapshot.index + len(self.entries)


def intact_part(old: Reader) -> Intact:
    """What the marks of a store and its log still prove; the rows are checked when copied.

    Raises StorageCorruptError if that is nothing.
    """
    read = LogReader(old)
    snapshot, applied = read.snapshot(), read.applied()
    entries, damage = read.intact_entries(snapshot)
    if damage is not None and snapshot.index + len(entries) < applied.index:
        # The machine has what the damaged entries did: the log may as well begin there.
        snapshot = Snapshot(applied.index, applied.term, applied.chain, applied.membership)
        entries, _ = read.intact_entries(snapshot, is_inside=True)
    return Intact(snapshot, applied, entries)


def fill(
    new: Store,
    old: Reader | None,
    hard_state: HardState,
    damage: Callable[[Intact | None], Damage],
    promised: WitnessRecord | None,
) -> None:
    """Make an empty store what is left of ``old`` (None: nothing), marked as damaged.

    Raises StorageCorruptError if ``old`` turns out to be damaged in what was to be copied: ``new``
    is of no use then.
    """
    log = StoredLog(new)
    kept = None if old is None else intact_part(old)
    known = HardState(hard_state.term, hard_state.vote)
    if old is not None and kept is not None:
        commit = min(max(hard_state.commit, kept.applied.index), kept.last_index)
        known = HardState(hard_state.term, hard_state.vote, commit)
        check_positions(known, kept.snapshot, kept.entries, kept.applied)
        _copy_rows(old, new)
        batch = new.batch()
        log.install_snapshot(batch, kept.snapshot)
        log.mark_applied(batch, kept.applied)
        write_patiently(new, batch)
        _copy_entries(log, kept.entries, new)
    batch = new.batch()
    log.save_hard_state(batch, known)
    log.save_damage(batch, damage(kept), promised)
    write_patiently(new, batch)


def write_patiently(store: Store, batch: Batch) -> None:
    """Write however long RocksDB is behind: each try waits for a sync, which paces it."""
    while True:
        try:
            store.write(batch)
            return
        except StorageStallError:
            store.sync()


def _copy_rows(old: Reader, new: Store) -> None:
    batch = new.batch()
    for space in Space:
        if space is Space.LOG:
            continue
        for key, value in _rows(old, space):
            batch.put(space, key, value)
            if batch.size_bytes >= _BATCH_BYTES:
                write_patiently(new, batch)
                batch = new.batch()
    write_patiently(new, batch)


def _rows(old: Reader, space: Space) -> Iterator[tuple[bytes, bytes]]:
    if space is not Space.META:
        return old.scan(space)
    return (
        (key, value)
        for key, value in old.scan(space)
        if key != _IDENTITY_KEY and not key.startswith(_LOG_PREFIX)
    )


def _copy_entries(log: StoredLog, entries: tuple[Entry, ...], new: Store) -> None:
    batch = new.batch()
    for entry in entries:
        log.append(batch, (entry,))
        if batch.size_bytes >= _BATCH_BYTES:
            write_patiently(new, batch)
            batch = new.batch()
    write_patiently(new, batch)


def newest(stored: HardState, promised: WitnessRecord | None) -> HardState:
    """Term and vote as the later of the two has them; the commit index is the store's."""
    if promised is None or stored.term > promised.term:
        return stored
    if stored.term == promised.term:
        return HardState(stored.term, promised.vote or stored.vote, stored.commit)
    return HardState(promised.term, promised.vote, stored.commit)
