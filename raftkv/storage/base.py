"""PORT: where a node keeps its log, its hard state and its machine's rows.

Two ports, one above the other. A :class:`Store` is named spaces of ordered bytes with atomic
batches and one sync position for everything: RocksDB or memory. A :class:`LogStore` is raft's
state written through such batches. The node opens one batch per turn and hands it to the log and
to an on-disk machine, so that log, hard state, rows, applied index and membership change together.

The only durable write is ``write(batch)`` (unsynced) and then ``sync()`` in the ``wal`` worker:
one sync covers every batch written before it began.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Protocol

from attrs import frozen

from raftkv.core.types import Entry, HardState, Membership, Snapshot
from raftkv.errors import StorageCorruptError


class Space(Enum):
    """The named spaces of a store. Their names are on disk: they never change."""

    LOG = "log"  # entries by index
    META = "meta"  # identity, hard state, snapshot position, applied, membership
    MACHINE = "machine"  # an on-disk machine's rows
    IMAGE = "image"  # chunks of an in-memory machine's newest snapshot
    STAGED = "staged"  # rows of an on-disk machine's image while it arrives, unseen by the machine

    # Members are looked up for every row: Enum's own hash is Python code and costs 0.3 us a time.
    __hash__ = object.__hash__


class Batch(Protocol):
    """Changes that become visible, and durable, together or not at all. Later ones win."""

    def put(self, space: Space, key: bytes, value: bytes) -> None:
        """Set ``key`` to ``value``."""
        ...

    def delete(self, space: Space, key: bytes) -> None:
        """Remove ``key``; no error if absent."""
        ...

    def delete_range(self, space: Space, start: bytes, stop: bytes) -> None:
        """Remove every key from ``start`` up to and excluding ``stop``."""
        ...

    def put_rows(self, space: Space, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Set each key to its value: as ``put`` for each, at half its cost."""
        ...

    def adopt_staged(self) -> None:
        """Let the rows of ``staged`` become those of ``machine``, whose own are removed.

        ``staged`` is empty then. Costs the same however many rows there are. Once per batch.
        """
        ...

    @property
    def size_bytes(self) -> int:
        """Roughly what the batch will cost in the write-ahead log; 0 when empty."""
        ...


class Reader(Protocol):
    """A consistent view: the store itself, or a frozen moment of it."""

    def get(self, space: Space, key: bytes) -> bytes | None:
        """The value, or None. Raises StorageCorruptError rather than answer wrongly."""
        ...

    def scan(
        self, space: Space, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows from ``start`` up to and excluding ``stop`` (None: to the end), in byte order.

        Raises StorageCorruptError where rows are unreadable; never ends short in silence.
        """
        ...


class View(Reader, Protocol):
    """A frozen moment of a store, readable until closed from any thread, but one at a time."""

    def close(self) -> None:
        """Release it; the store cannot close before."""
        ...


class Store(Reader, Protocol):
    """Named spaces of ordered bytes. Loop thread only, except ``sync`` and views."""

    def batch(self) -> Batch:
        """A new empty batch."""
        ...

    def write(self, batch: Batch) -> int:
        """Make the batch visible, and return its position: durable once ``sync`` answers as much.

        Does not wait for the disk. Raises StorageStallError if RocksDB would stall (nothing was
        written; try the same batch again), anything else poisons the store for good.
        """
        ...

    def sync(self) -> int:
        """Wait until all that was written before the call is durable; answer the newest position.

        Blocks: call it in the ``wal`` worker. Raises StorageFailedError, which poisons the store
        for good.
        """
        ...

    def view(self, *, cached: bool = True) -> View:
        """A frozen moment: what is visible now.

        Not ``cached``: reading it leaves the block cache to others, for who reads everything once.
        """
        ...

    def reclaim(self, space: Space) -> None:
        """Give the room that removed rows of ``space`` still take back to the disk.

        Blocks: call it in a worker. Cheap where a whole space was removed, as by ``adopt_staged``.
        """
        ...

    def close(self) -> None:
        """Release files and lock; needs all views closed. Later calls raise ClosedError."""
        ...

    @property
    def written(self) -> int:
        """Position of the last write; 0 at first."""
        ...


@frozen(slots=True)
class Identity:
    """Whose data this is. ``boot`` counts the openings of this directory, from 1.

    ``boot_token`` is random and new at each opening: two openings with the same count are of two
    copies of the directory.
    """

    cluster_id: int
    member_id: int
    disk_uuid: bytes
    boot: int
    boot_token: bytes = bytes(16)


@frozen(slots=True)
class AppliedMark:
    """How far the machine's durable state reaches, with the membership in force there."""

    index: int = 0
    term: int = 0
    chain: int = 0
    membership: Membership = Membership()  # noqa: RUF009 (frozen)


@frozen(slots=True)
class WitnessRecord:
    """What was last promised to others, kept beside the store to notice that the store lost it."""

    identity: Identity
    term: int
    vote: int
    last_index: int
    last_term: int
    last_chain: int


class Loss(Enum):
    """How much of what this member promised to others cannot be proven any more."""

    LOG = "log"  # the log is behind its promise; term and vote are known from the witness
    ALL = "all"  # nothing proves which votes were given: the witness is gone too, or an old copy


@frozen(slots=True)
class Damage:
    """A member that lost something: until it is whole again it must not vote, nor be counted.

    ``what`` is for a human: what was found, where, and what raftkv or the operator does now.
    """

    loss: Loss
    what: str


@frozen(slots=True)
class Recovered:
    """What a log store reads back on start.

    ``snapshot`` is the compaction point (index, term, chain) with the membership there;
    ``entries`` follow it without gap. ``applied`` is the mark of the last batch that carried
    effects.

    ``damage`` is None for a whole store. Otherwise what is given here is true but not all: the
    store is marked durably, and stays so over any number of openings, until ``save_damage`` removes
    the mark. A store that had to be begun anew knows no membership, as that of a new directory, and
    is told from one by its damage. ``promised``, which only comes with ``Loss.LOG``, is what must
    be there again: with term and vote of ``hard_state`` and an exact repair up to ``last_index``,
    ending in ``last_chain``, nothing is missing any more.
    """

    hard_state: HardState
    snapshot: Snapshot
    entries: tuple[Entry, ...]
    applied: AppliedMark
    damage: Damage | None = None
    promised: WitnessRecord | None = None


class LogStore(Protocol):
    """Raft's state in a store: every method but ``recover`` only adds to the batch given."""

    def recover(self) -> Recovered:
        """Read everything back, checking each record and the chain. Raises StorageCorruptError."""
        ...

    def save_hard_state(self, batch: Batch, hard_state: HardState) -> None:
        """Replace term, vote and commit."""
        ...

    def append(self, batch: Batch, entries: tuple[Entry, ...]) -> None:
        """Store entries; everything stored from the first one's index on is replaced."""
        ...

    def install_snapshot(self, batch: Batch, snapshot: Snapshot) -> None:
        """Replace the whole log by a snapshot position; applied becomes the same."""
        ...

    def compact(self, batch: Batch, snapshot: Snapshot) -> None:
        """Forget entries up to and including ``snapshot.index``, the new compaction point."""
        ...

    def mark_applied(self, batch: Batch, mark: AppliedMark) -> None:
        """Say how far the effects in this batch reach."""
        ...

    def save_damage(
        self, batch: Batch, damage: Damage | None, promised: WitnessRecord | None = None
    ) -> None:
        """Mark this member as one that lost something, or with None as whole again.

        The mark is replaced as a whole, ``promised`` with it. Whole means that others may count on
        this member once the batch is synced: it may not be said before everything that the mark
        asks for is durable, in this batch or an earlier one.
        """
        ...


@frozen(slots=True)
class Piece:
    """What one step of reading did: rows and bytes read, and whether that was all."""

    rows: int
    bytes: int
    done: bool


class Pieces(Protocol):
    """Rows of a view, read for their own sake and in pieces. Any thread, one at a time."""

    def step(self, bytes_max: int) -> Piece:
        """Read on for about ``bytes_max`` bytes, at least one row, and block meanwhile.

        Raises StorageCorruptError that names what is damaged, and so does every later call.
        """
        ...


class HashedPieces(Pieces, Protocol):
    """Rows that are read for their hash."""

    def digest(self) -> bytes:
        """A hash of the rows read so far: equal rows, equal hash, on every member and store."""
        ...


class Storage(Protocol):
    """One member's data directory, open: store, log, identity, and the witness beside them."""

    @property
    def store(self) -> Store:
        """The spaces."""
        ...

    @property
    def log(self) -> LogStore:
        """Raft's part of them."""
        ...

    @property
    def identity(self) -> Identity:
        """Whose directory it is."""
        ...

    def sync(self, promised: WitnessRecord) -> int:
        """``store.sync()``, then make the witness remember ``promised``.

        ``promised`` is what the batches written before the call amount to: term, vote, and the last
        entry they hold. Answers the newest durable position. Blocks: ``wal`` worker only.
        """
        ...

    @property
    def corruption(self) -> StorageCorruptError | None:
        """Damage that a read met, whoever read; None while all is well."""
        ...

    def scrub(self, view: View) -> Pieces:
        """Reads every row of every space once; the log's records and chain are checked, too."""
        ...

    def machine_hash(self, view: View) -> HashedPieces:
        """Reads the machine's rows once, for their hash."""
        ...

    def check_witness(self) -> str | None:
        """Read the witness again; what was wrong with it, which is mended, or None.

        Blocks: ``wal`` worker only. Raises StorageFailedError if the disk refuses.
        """
        ...

    def condemn(self, damage: Damage, *, keep_rows: bool = False) -> None:
        """Have the next opening begin this store anew, marked with at least this damage.

        For damage that is found while the node runs: a read that fails, rows that differ from those
        of the other members. Durable when it returns; the store goes on, so stop serving it.
        ``keep_rows``: what the next opening can read with its checksums is kept. Without it the
        rows, which may be readable and yet wrong, are dropped. Blocks; any thread.
        """
        ...

    def close(self) -> None:
        """Close store and witness. Idempotent."""
        ...
