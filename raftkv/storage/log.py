"""Raft's log, hard state and positions as records in any Store.

Format 1. Keys are a group id (4 bytes, 0 today, so that many groups can share a store later) and an
index (8 bytes) in the space ``log``, or a group id and a name in the space ``meta``; numbers in
keys are big-endian, so that byte order is log order. Each value begins with its format version and
ends with a CRC-32 of what lies between.

``cuts`` counts how often entries were replaced or a snapshot took the log's place. Within one
count the log only grows, so a witness that remembers the count and the last promised entry can
tell a log that lost its end from one whose end was replaced on purpose just before a crash (see
:mod:`raftkv.storage.witness`).

Batches must be written in the order in which they were given to this object: it keeps the log's
last index in memory.
"""

from __future__ import annotations

from typing import Final

from raftkv.core.types import Entry, HardState, Membership, Snapshot
from raftkv.encoding import encode_entry
from raftkv.errors import InvariantError
from raftkv.storage.base import (
    AppliedMark,
    Batch,
    Damage,
    LogStore,
    Loss,
    Recovered,
    Space,
    Store,
    WitnessRecord,
)
from raftkv.storage.reading import CUTS, HARD_STATE, LOG_KEY, LogReader, check_positions
from raftkv.storage.records import (
    FORMAT,
    encode_damage,
    encode_mark,
    encode_membership,
    seal,
)

_RECENT_TAILS_MAX: Final = (
    4096  # appends between a promise and its sync; beyond, oldest are dropped
)


class StoredLog(LogStore):
    """The LogStore port over any Store."""

    def __init__(self, store: Store, group: int = 0) -> None:
        self._store = store
        self._group = group
        self._read: Final = LogReader(store, group)
        self._keys: Final = self._read.keys
        self._known = False
        self._was_marked = False
        self._hard_state = HardState()
        self._base_index = 0
        self._last_index = 0
        self._cuts = 0
        # Chain value of each recent end of the log -> the count of cuts at that time.
        self._tails: dict[int, int] = {}
        self._membership = Membership()
        self._membership_bytes = encode_membership(self._membership)

    # --- reading back ---------------------------------------------------------------------------

    def recover(self) -> Recovered:
        """Read everything back, checking each record, the chain and that nothing is missing.

        Raises StorageCorruptError naming the record, StorageFormatError for a newer format.
        """
        read = self._read
        hard_state, snapshot, applied = read.hard_state(), read.snapshot(), read.applied()
        cuts = read.cuts()
        entries = tuple(read.entries(snapshot))
        check_positions(hard_state, snapshot, entries, applied)
        self._known = True
        self._hard_state = hard_state
        self._base_index = snapshot.index
        self._last_index = entries[-1].index if entries else snapshot.index
        self._cuts = cuts
        self._tails = {(entries[-1].chain if entries else snapshot.chain): cuts}
        damage, promised = read.damage()
        self._was_marked = self._was_marked or damage is not None
        return Recovered(hard_state, snapshot, entries, applied, damage, promised)

    def visible_loss(self) -> Loss | None:
        """The loss of the mark as it is written now. Any thread; costs nothing if never marked."""
        if not self._was_marked:
            return None
        damage, _ = self._read.damage()
        return None if damage is None else damage.loss

    @property
    def cuts(self) -> int:
        """How often entries were replaced, counting what was given to batches so far."""
        self._ensure_known()
        return self._cuts

    def cuts_at(self, last_chain: int) -> int:
        """The count of cuts when the log last ended with this chain value. Any thread."""
        return self._tails.get(last_chain, self._cuts)

    def _ensure_known(self) -> None:
        if not self._known:
            self.recover()

    # --- writing --------------------------------------------------------------------------------

    def save_hard_state(self, batch: Batch, hard_state: HardState) -> None:
        """Replace term, vote and commit."""
        self._hard_state = hard_state
        body = HARD_STATE.pack(hard_state.term, hard_state.vote, hard_state.commit)
        batch.put(Space.META, self._keys.hard_state, seal(body))

    def append(self, batch: Batch, entries: tuple[Entry, ...]) -> None:
        """Store entries; everything stored from the first one's index on is replaced."""
        if not entries:
            return
        self._ensure_known()
        first = entries[0].index
        if not self._base_index < first <= self._last_index + 1:
            raise InvariantError(
                f"entry {first} cannot follow a log of {self._base_index + 1}..{self._last_index}"
            )
        if first <= self._last_index:
            self._count_cut(batch)
            batch.delete_range(Space.LOG, self._key(first), self._key(self._last_index + 1))
        put, space, key = batch.put, Space.LOG, self._key
        for entry in entries:
            put(space, key(entry.index), encode_entry(entry, FORMAT))
        self._note_tail(entries[-1].index, entries[-1].chain)

    def install_snapshot(self, batch: Batch, snapshot: Snapshot) -> None:
        """Replace the whole log by a snapshot position; applied becomes the same.

        Term and commit are raised to the snapshot's if they are lower.
        """
        self._ensure_known()
        self._count_cut(batch)
        self._set_base(batch, snapshot, self._last_index)
        self.mark_applied(
            batch,
            AppliedMark(snapshot.index, snapshot.term, snapshot.chain, snapshot.membership),
        )
        self._note_tail(snapshot.index, snapshot.chain)

    def compact(self, batch: Batch, snapshot: Snapshot) -> None:
        """Forget entries up to and including ``snapshot.index``, the new compaction point."""
        self._ensure_known()
        if snapshot.index > self._last_index:
            raise InvariantError(
                f"entry {snapshot.index} cannot be compacted: the log ends at {self._last_index}"
            )
        self._set_base(batch, snapshot, snapshot.index)

    def mark_applied(self, batch: Batch, mark: AppliedMark) -> None:
        """Say how far the effects in this batch reach."""
        body = self._encode_mark(mark.index, mark.term, mark.chain, mark.membership)
        batch.put(Space.META, self._keys.applied, seal(body))

    def save_damage(
        self, batch: Batch, damage: Damage | None, promised: WitnessRecord | None = None
    ) -> None:
        """Mark this member as one that lost something, or with None as whole again."""
        if damage is None:
            batch.delete(Space.META, self._keys.damage)
        else:
            self._was_marked = True
            kept = promised if damage.loss is Loss.LOG else None
            batch.put(Space.META, self._keys.damage, seal(encode_damage(damage, kept)))

    def _set_base(self, batch: Batch, snapshot: Snapshot, forget_to: int) -> None:
        hard_state = self._hard_state
        if hard_state.commit < snapshot.index or hard_state.term < snapshot.term:
            # What a snapshot holds was committed; a new term is met with no vote given in it.
            new_term = snapshot.term > hard_state.term
            self.save_hard_state(
                batch,
                HardState(
                    max(hard_state.term, snapshot.term),
                    0 if new_term else hard_state.vote,
                    max(hard_state.commit, snapshot.index),
                ),
            )
        if forget_to > self._base_index:
            first, stop = self._key(self._base_index + 1), self._key(forget_to + 1)
            batch.delete_range(Space.LOG, first, stop)
        self._base_index = snapshot.index
        mark = self._encode_mark(snapshot.index, snapshot.term, snapshot.chain, snapshot.membership)
        batch.put(Space.META, self._keys.snapshot, seal(mark + snapshot.data))

    def _count_cut(self, batch: Batch) -> None:
        self._cuts += 1
        batch.put(Space.META, self._keys.cuts, seal(CUTS.pack(self._cuts)))

    def _note_tail(self, last_index: int, last_chain: int) -> None:
        self._last_index = last_index
        tails = self._tails
        if len(tails) >= _RECENT_TAILS_MAX:
            for chain in list(tails)[: _RECENT_TAILS_MAX // 2]:
                del tails[chain]
        tails[last_chain] = self._cuts

    def _key(self, index: int) -> bytes:
        return LOG_KEY.pack(self._group, index)

    def _encode_mark(self, index: int, term: int, chain: int, membership: Membership) -> bytes:
        if membership is not self._membership:  # it rarely changes, and CBOR is the dearest part
            self._membership_bytes = encode_membership(membership)
            self._membership = membership
        return encode_mark(index, term, chain, self._membership_bytes)
