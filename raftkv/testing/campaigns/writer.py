"""A member writing as a node does, and what it promised: the oracle beside a storage.

The oracle is a list. It says what each acknowledged batch amounted to; what a storage reads back
must be one of the states the writer passed through, none before the last acknowledged one.
"""

from __future__ import annotations

from hashlib import blake2b

from raftkv.core.log import chain_of
from raftkv.core.types import Entry, EntryKind, HardState, Membership, Snapshot
from raftkv.runtime.base import Rng
from raftkv.storage.base import (
    AppliedMark,
    Batch,
    Reader,
    Recovered,
    Space,
    Storage,
    Store,
    WitnessRecord,
)

CLUSTER, MEMBER = 0xC1, 7
VOTERS = Membership(voters=(7, 8, 9))


class FixedRng(Rng):
    """Chance that repeats: every token is a function of the one before."""

    def __init__(self, seed: int = 0) -> None:
        self._state = seed.to_bytes(8, "big")

    def below(self, bound: int) -> int:
        """A number below ``bound``."""
        return int.from_bytes(self.token(8), "big") % bound

    def token(self, size_bytes: int) -> bytes:
        """Bytes that look like chance."""
        self._state = blake2b(self._state).digest()
        return (self._state * (size_bytes // 64 + 1))[:size_bytes]


def follow(previous: Entry | Snapshot, term: int, data: bytes) -> Entry:
    """The entry after ``previous``."""
    index = previous.index + 1
    kind = EntryKind.NORMAL
    return Entry(term, index, kind, data, chain_of(previous.chain, term, index, kind, data))


def row_of(entry: Entry) -> tuple[bytes, bytes]:
    """The machine row that applying ``entry`` writes."""
    return entry.index.to_bytes(8, "big"), entry.chain.to_bytes(8, "big") + entry.data[:64]


class Writer:
    """Writes turns as a node does: log, hard state, rows and applied mark in one batch."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        recovered = storage.log.recover()
        self.hard_state = recovered.hard_state
        self.snapshot = recovered.snapshot
        self.entries = list(recovered.entries)
        self.applied = recovered.applied

    @property
    def last(self) -> Entry | Snapshot:
        """The end of the log."""
        return self.entries[-1] if self.entries else self.snapshot

    def state(self) -> Recovered:
        """What would be read back now."""
        return Recovered(self.hard_state, self.snapshot, tuple(self.entries), self.applied)

    def promise(self) -> WitnessRecord:
        """What syncing now promises."""
        hard, last = self.hard_state, self.last
        identity = self.storage.identity
        return WitnessRecord(identity, hard.term, hard.vote, last.index, last.term, last.chain)

    def write(self, batch: Batch) -> int:
        """Write the batch, unsynced."""
        return self.storage.store.write(batch)

    def sync(self) -> int:
        """Sync and promise."""
        return self.storage.sync(self.promise())

    # Each of these adds to a batch and to the oracle.

    def vote(self, batch: Batch, term: int, vote: int) -> None:
        """A new term, with or without a vote."""
        self.hard_state = HardState(term, vote, self.hard_state.commit)
        self.storage.log.save_hard_state(batch, self.hard_state)

    def append(self, batch: Batch, payloads: list[bytes], replace: int = 0) -> None:
        """Entries in the current term, the last ``replace`` uncommitted ones dropped first."""
        if replace:
            del self.entries[-replace:]
        new: list[Entry] = []
        for data in payloads:
            entry = follow(self.last, self.hard_state.term, data)
            self.entries.append(entry)
            new.append(entry)
        self.storage.log.append(batch, tuple(new))

    def commit(self, batch: Batch, index: int) -> None:
        """Move the commit index and apply up to it: rows and mark in the same batch."""
        self.hard_state = HardState(self.hard_state.term, self.hard_state.vote, index)
        self.storage.log.save_hard_state(batch, self.hard_state)
        for entry in self.entries:
            if self.applied.index < entry.index <= index:
                batch.put(Space.MACHINE, *row_of(entry))
                self.applied = AppliedMark(entry.index, entry.term, entry.chain, VOTERS)
        self.storage.log.mark_applied(batch, self.applied)

    def compact(self, batch: Batch, index: int) -> None:
        """Forget applied entries up to ``index``."""
        at = self.entries[index - self.snapshot.index - 1]
        snapshot = Snapshot(at.index, at.term, at.chain, VOTERS)
        self.storage.log.compact(batch, snapshot)
        del self.entries[: index - self.snapshot.index]
        self.snapshot = snapshot

    def install(self, batch: Batch, index: int, term: int, chain: int) -> None:
        """A snapshot from a leader takes the place of everything."""
        snapshot = Snapshot(index, term, chain, VOTERS)
        hard = self.hard_state
        vote = 0 if term > hard.term else hard.vote
        self.hard_state = HardState(max(term, hard.term), vote, index)
        self.storage.log.save_hard_state(batch, self.hard_state)
        self.storage.log.install_snapshot(batch, snapshot)
        batch.delete_range(Space.MACHINE, b"", b"\xff" * 9)
        self.snapshot, self.entries = snapshot, []
        self.applied = AppliedMark(index, term, chain, VOTERS)

    @property
    def uncommitted(self) -> int:
        """How many entries may still be replaced."""
        return self.last.index - max(self.hard_state.commit, self.snapshot.index)


def everything(reader: Reader) -> dict[Space, list[tuple[bytes, bytes]]]:
    """All rows of a store or view, but for its identity record, which every opening changes."""
    return {space: [row for row in reader.scan(space) if row[0] != b"identity"] for space in Space}


def rows_match(store: Store, recovered: Recovered) -> bool:
    """Whether every applied entry that is still in the log has its row, and none beyond has one."""
    rows = dict(store.scan(Space.MACHINE))
    applied = [entry for entry in recovered.entries if entry.index <= recovered.applied.index]
    wanted = dict(row_of(entry) for entry in applied)
    beyond = (recovered.applied.index + 1).to_bytes(8, "big")
    return all(rows.get(key) == value for key, value in wanted.items()) and not any(
        key >= beyond for key in rows
    )
