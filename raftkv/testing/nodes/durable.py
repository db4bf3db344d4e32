"""What a member's storage has promised to keep, as seen from outside: the shipped storage, watched.

:func:`watched` wraps a :class:`~raftkv.storage.base.Storage` so that every batch and every sync is
noted. A :class:`Record` outlives openings, as the disk below does. It tells what is durable (for
invariants about what may leave a member), refuses what an opening reads back that cannot be left of
what was written, and keeps a digest of the machine's rows at every applied index.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import frozen

from raftkv.core.types import Entry, HardState, Snapshot
from raftkv.errors import StorageCorruptError
from raftkv.storage.base import (
    AppliedMark,
    Batch,
    Damage,
    HashedPieces,
    Identity,
    LogStore,
    Loss,
    Pieces,
    Reader,
    Recovered,
    Space,
    Storage,
    Store,
    View,
    WitnessRecord,
)
from raftkv.storage.batch import ADOPT, DELETE_RANGE, PUT, Change, ChangeList
from raftkv.testing.invariants import broken

Place = tuple[HardState, int, int, int]
"""Hard state, compaction point, last index, last chain value: what tells two logs apart."""

_Action = Callable[["Record"], None]


@frozen(slots=True)
class _Written:
    """A batch that was written, and perhaps not synced."""

    position: int
    actions: tuple[_Action, ...]
    after: Place
    """What the log is with it."""


class Record:
    """One member's disk, as its storage said it to be."""

    __slots__ = (
        "applied",
        "base_chain",
        "base_index",
        "chains",
        "excused",
        "forgot",
        "hard_state",
        "id",
        "is_new",
        "lost_to",
        "pending",
        "visible",
    )

    def __init__(self, member_id: int) -> None:
        self.id = member_id
        self.is_new = True
        self.hard_state = HardState()
        self.base_index = 0
        self.base_chain = 0
        self.chains: list[int] = []
        """Chain value of each durable entry, from ``base_index + 1`` on."""
        self.applied = 0
        self.pending: deque[_Written] = deque()
        self.visible: Place = self.place
        """What the log is, batches that are not synced included."""
        self.forgot = False
        """It once lost its votes."""
        self.lost_to = 0
        """Where the log ended that was damaged last."""
        self.excused = False
        """The disk was damaged on purpose since it was opened: anything may be missing."""

    @property
    def place(self) -> Place:
        """The durable log in short."""
        last = self.base_index + len(self.chains)
        return self.hard_state, self.base_index, last, self.last_chain

    @property
    def last_chain(self) -> int:
        """Chain value of the last durable entry."""
        return self.chains[-1] if self.chains else self.base_chain

    def excuse(self) -> None:
        """The disk is damaged, or found to be: it need not have any more what it had."""
        self.excused = True
        self.lost_to = max(self.lost_to, self.base_index + len(self.chains))

    def chain_at(self, index: int) -> int | None:
        """The chain value of the durable entry at ``index``; None if it is not here (any more)."""
        if index == self.base_index:
            return self.base_chain
        place = index - self.base_index - 1
        return self.chains[place] if 0 <= place < len(self.chains) else None

    # --- what batches do ------------------------------------------------------------------------

    def append(self, entries: tuple[Entry, ...]) -> None:
        """Entries replace everything from the first one's index on."""
        del self.chains[entries[0].index - self.base_index - 1 :]
        self.chains += [entry.chain for entry in entries]

    def install(self, snapshot: Snapshot) -> None:
        """A snapshot replaces the whole log."""
        self._raise(snapshot)
        self.chains.clear()
        self.base_index, self.base_chain = snapshot.index, snapshot.chain
        self.applied = snapshot.index

    def compact(self, snapshot: Snapshot) -> None:
        """Entries up to a point are forgotten."""
        self._raise(snapshot)
        del self.chains[: snapshot.index - self.base_index]
        self.base_index, self.base_chain = snapshot.index, snapshot.chain

    def _raise(self, snapshot: Snapshot) -> None:
        hard = self.hard_state
        if hard.commit < snapshot.index or hard.term < snapshot.term:
            vote = 0 if snapshot.term > hard.term else hard.vote
            self.hard_state = HardState(
                max(hard.term, snapshot.term), vote, max(hard.commit, snapshot.index)
            )

    # --- life -----------------------------------------------------------------------------------

    def synced(self, position: int) -> None:
        """Everything written up to there is durable."""
        pending = self.pending
        while pending and pending[0].position <= position:
            for action in pending.popleft().actions:
                action(self)

    def opened(self, recovered: Recovered) -> None:
        """An opening read this back: it must be what was durable, and perhaps more of the rest."""
        entries = recovered.entries
        last = entries[-1] if entries else recovered.snapshot
        found = (recovered.hard_state, recovered.snapshot.index, last.index, last.chain)
        if not self.is_new and not self.excused and recovered.damage is None:
            possible = [self.place, *(one.after for one in self.pending)]
            if found not in possible:
                raise broken(
                    "I9", f"n{self.id} reads back {found}, of {possible[0]} that was durable"
                )
        self.is_new = False
        self.excused = recovered.damage is not None
        if recovered.damage is not None:
            self.excuse()
            self.forgot = self.forgot or recovered.damage.loss is Loss.ALL
        self.pending.clear()
        self.hard_state = recovered.hard_state
        self.base_index = recovered.snapshot.index
        self.base_chain = recovered.snapshot.chain
        self.chains = [entry.chain for entry in entries]
        self.applied = recovered.applied.index
        self.visible = self.place


class _WatchedLog(LogStore):
    """The log, with a note of what each batch will do to it."""

    def __init__(self, log: LogStore, record: Record) -> None:
        self._log = log
        self._record = record
        self._shadow = Record(record.id)
        """As the record, and what is in batches already."""
        self.actions: list[_Action] = []
        """Of the batch that is open."""
        self.mark: AppliedMark | None = None
        """Where the machine is with that batch, if that changes."""

    def recover(self) -> Recovered:
        """Read everything back."""
        recovered = self._log.recover()
        self._record.opened(recovered)
        self._shadow.opened(recovered)
        return recovered

    def _note(self, action: _Action) -> None:
        self.actions.append(action)
        action(self._shadow)

    @property
    def place(self) -> Place:
        """The log with everything that is in batches."""
        return self._shadow.place

    def save_hard_state(self, batch: Batch, hard_state: HardState) -> None:
        """Replace term, vote and commit."""
        self._log.save_hard_state(batch, hard_state)

        def action(record: Record) -> None:
            record.hard_state = hard_state

        self._note(action)

    def append(self, batch: Batch, entries: tuple[Entry, ...]) -> None:
        """Store entries."""
        self._log.append(batch, entries)
        if entries:
            self._note(lambda record: record.append(entries))

    def install_snapshot(self, batch: Batch, snapshot: Snapshot) -> None:
        """Replace the whole log by a snapshot position."""
        self._log.install_snapshot(batch, snapshot)
        self._note(lambda record: record.install(snapshot))

    def compact(self, batch: Batch, snapshot: Snapshot) -> None:
        """Forget entries up to a point."""
        self._log.compact(batch, snapshot)
        self._note(lambda record: record.compact(snapshot))

    def mark_applied(self, batch: Batch, mark: AppliedMark) -> None:
        """Say how far the effects in this batch reach."""
        self._log.mark_applied(batch, mark)
        self.mark = mark

        def action(record: Record) -> None:
            record.applied = mark.index

        self._note(action)

    def save_damage(
        self, batch: Batch, damage: Damage | None, promised: WitnessRecord | None = None
    ) -> None:
        """Mark this member as one that lost something, or as whole again."""
        self._log.save_damage(batch, damage, promised)


class _WatchedStore:
    """The Store port: what is read goes straight to the store below."""

    def __init__(
        self,
        store: Store,
        log: _WatchedLog,
        record: Record,
        on_applied: Callable[[int, int, Reader], None],
    ) -> None:
        self._store = store
        self._log = log
        self._record = record
        self._on_applied = on_applied
        self._rows: int | None = None
        self.get = store.get
        self.scan = store.scan
        self.batch = store.batch
        self.view = store.view
        self.reclaim = store.reclaim
        self.close = store.close

    @property
    def written(self) -> int:
        """Position of the last write."""
        return self._store.written

    def write(self, batch: Batch) -> int:
        """Make the batch visible, and note what it did."""
        log, record = self._log, self._record
        rows = self._rows_after(batch) if log.mark is not None or self._rows is not None else None
        position = self._store.write(batch)
        if log.actions:
            actions, log.actions = tuple(log.actions), []
            record.visible = log.place
            record.pending.append(_Written(position, actions, record.visible))
        self._rows = rows
        mark, log.mark = log.mark, None
        if mark is not None:
            if rows is None:
                rows = self._rows = _rows_of(self._store)
            self._on_applied(mark.index, rows, self._store)
        return position

    def sync(self) -> int:
        """Make everything written before durable."""
        position = self._store.sync()
        self._record.synced(position)
        return position

    def _rows_after(self, batch: Batch) -> int | None:
        """The digest of the machine's rows with the batch; None if it has to be made anew."""
        rows = self._rows
        if rows is None or not isinstance(batch, ChangeList):
            return None
        fresh: dict[bytes, bytes | None] = {}
        for change in batch.changes:
            if change[1] is not Space.MACHINE:
                continue
            kind, _, key, value = change
            if kind == ADOPT or (kind == DELETE_RANGE and not self._is_empty(change)):
                return None
            if kind == DELETE_RANGE:
                continue
            old = fresh[key] if key in fresh else self._store.get(Space.MACHINE, key)
            if old is not None:
                rows ^= hash((key, old))
            new = fresh[key] = value if kind == PUT else None
            if new is not None:
                rows ^= hash((key, new))
        return rows

    def _is_empty(self, change: Change) -> bool:
        return next(iter(self._store.scan(Space.MACHINE, change[2], change[3])), None) is None


def _rows_of(store: Reader) -> int:
    # Python's own hash: it differs between processes, but is only compared within one.
    rows = 0
    for row in store.scan(Space.MACHINE):
        rows ^= hash(row)
    return rows


class WatchedStorage(Storage):
    """The Storage port over another storage."""

    def __init__(
        self, storage: Storage, record: Record, on_applied: Callable[[int, int, Reader], None]
    ) -> None:
        self._storage = storage
        self._record = record
        self._log = _WatchedLog(storage.log, record)
        self._store = _WatchedStore(storage.store, self._log, record, on_applied)

    @property
    def store(self) -> Store:
        """The spaces."""
        return self._store

    @property
    def log(self) -> LogStore:
        """Raft's part of them."""
        return self._log

    @property
    def identity(self) -> Identity:
        """Whose directory it is."""
        return self._storage.identity

    def sync(self, promised: WitnessRecord) -> int:
        """Make what was written before the call durable."""
        position = self._storage.sync(promised)
        self._record.synced(position)
        return position

    @property
    def corruption(self) -> StorageCorruptError | None:
        """Damage that a read met."""
        return self._storage.corruption

    def scrub(self, view: View) -> Pieces:
        """Reads every row of every space once."""
        return self._storage.scrub(view)

    def machine_hash(self, view: View) -> HashedPieces:
        """Reads the machine's rows once, for their hash."""
        return self._storage.machine_hash(view)

    def check_witness(self) -> str | None:
        """Read the witness again."""
        return self._storage.check_witness()

    def condemn(self, damage: Damage, *, keep_rows: bool = False) -> None:
        """Have the next opening begin this store anew."""
        self._record.excuse()
        self._storage.condemn(damage, keep_rows=keep_rows)

    def close(self) -> None:
        """Close store and witness."""
        self._storage.close()
