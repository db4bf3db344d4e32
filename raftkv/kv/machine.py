"""The KV as a replicated machine: commands in, rows and results out, the same on every member.

Revisions are counted as etcd counts them: a fresh store is at 1; every command that changes keys
makes one new revision, however many it touches, their sub-revisions in the order of its operations
and, within one, in key order (the expiry of several leases makes one for each); what changes no key
makes none. What is refused is refused alike everywhere and without any effect, also a command that
no version can read; one of a newer version stops the node (:mod:`raftkv.kv.commands`). What each
command means stands in a module of its own; here they come together: all rows of a slice, and the
head once, in one batch.

Cost of a command on the event loop: a put is one get and two rows (three if the key existed); a
delete of N keys is one scan and two rows a key, about 5 ms per 1,000 keys, in one go, as one
command is one revision. So that no command makes a member late for its heartbeats it may delete
only so many keys, a lease have only so many, and a transaction look at only so many
(:mod:`raftkv.kv.bounds`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, assert_never, cast, overload

from raftkv.errors import InvalidArgumentError, InvariantError, UsageError
from raftkv.kv import alarms, bounds, compaction, image, leases, rows, txn
from raftkv.kv.checks import check_put, check_txn
from raftkv.kv.commands import decode, is_once, is_put, parse_put
from raftkv.kv.engine import Slice
from raftkv.kv.model import KvResult, PutResult, Refused
from raftkv.kv.reader import read_head
from raftkv.kv.requests import (
    Checkpoint,
    Compact,
    DeleteOne,
    DeleteSpan,
    Expire,
    Grant,
    KvCommand,
    Once,
    OpenSession,
    Put,
    Revoke,
    SetAlarm,
    Sweep,
    TakeOver,
    Txn,
)
from raftkv.kv.sessions import Sessions
from raftkv.kv.sizes import measure
from raftkv.machine import Command, Early, Row
from raftkv.storage.base import Batch, Reader, Store

_PUT: Final = rows.PUT_EVENT


class KvMachine:
    """The ``DurableStateMachine[KvResult]`` to give to a node, and to the ``Kv`` that uses it.

    Loop thread only, except ``snapshot_durable``.
    """

    __slots__ = ("_head", "_sessions", "_store", "on_leases")

    def __init__(self) -> None:
        self._store: Store | None = None
        self._head = rows.Head()
        self._sessions = Sessions()
        self.on_leases: Callable[[Sequence[tuple[int, int, int]]], None] = _nobody
        """Told what became of leases in a slice (``Slice.leases``), before it is in the store."""

    def open(self, store: Store) -> None:
        """Take ``store`` and read where it stands.

        Raises StorageFormatError if its rows are of another format, StorageCorruptError if damaged.
        """
        head = read_head(store)
        if head.size == rows.UNMEASURED:
            head = rows.Head(head.revision, head.floor, measure(store), head.alarms)
        self._head = head
        self._sessions.open()
        self._store = store

    @property
    def store(self) -> Store:
        """The store it was opened on, for reading. Raises UsageError before that."""
        store = self._store
        if store is None:
            raise UsageError("the KV machine has no store yet; open the node it belongs to first")
        return store

    @property
    def head(self) -> rows.Head:
        """Where it stands after all that was applied, perhaps ahead of the store by a slice."""
        return self._head

    def apply_durable(self, commands: Sequence[Command], batch: Batch) -> Sequence[KvResult]:
        """Apply in order into ``batch``; one result per command.

        Stops early, before the next entry, once it holds much (:mod:`raftkv.kv.bounds`). Raises
        StorageFormatError for a command of a newer version of raftkv.
        """
        writes = Slice(self.store, self._head)
        apply = self._apply
        results: list[KvResult | int] = []
        for command in commands:
            if writes.held and _ends_before(command, writes):
                break
            writes.entry = command.index
            before = writes.revision
            results.append(apply(writes, command.data))
            if not before <= writes.revision <= before + 1:
                _check_revisions(command.data, before, writes.revision)
        if not self._head.floor <= writes.floor <= writes.revision:
            raise InvariantError(
                f"I30: the floor went from {self._head.floor} to {writes.floor} "
                f"at revision {writes.revision}"
            )
        self._sessions.flush(writes)
        self._head = writes.flush(batch)
        if writes.leases:
            self.on_leases(writes.leases)
        done = _Results(results)
        return done if len(done) == len(commands) else Early(done)

    def _apply(self, writes: Slice, data: bytes) -> KvResult | int:
        """One command; a plain put answers its revision alone."""
        try:
            if is_put(data):  # by far the commonest: without an object in between
                return _put(writes, *parse_put(data))
            if is_once(data):
                return self._sessions.once(writes, data, self._apply)
            command = decode(data)
            result = self._dispatch(writes, command)
        except InvalidArgumentError as error:
            return Refused(str(error))
        for session in writes.ended:
            self._sessions.end(writes, session)
        writes.ended.clear()
        return result

    def _dispatch(self, writes: Slice, command: KvCommand) -> KvResult:
        """Any command but one in a session. Raises InvalidArgumentError, before any effect."""
        if isinstance(command, Put):
            check_put(command)
        elif isinstance(command, Txn):
            check_txn(command)
        refusal = alarms.refuse(writes, command) if writes.alarms else None
        if refusal is not None:
            return refusal
        if bounds.may_hold(command) and bounds.is_over(writes):
            return bounds.not_now()
        match command:
            case Put():
                return txn.apply_put(writes, command)
            case DeleteOne() | DeleteSpan():
                return txn.apply_delete(writes, command)
            case Txn():
                return txn.apply_txn(writes, command)
            case Compact():
                return compaction.compact(writes, command)
            case Sweep():
                return compaction.sweep(writes, command)
            case Grant() | Revoke() | TakeOver() | Expire() | Checkpoint():
                return _lease(writes, command)
            case SetAlarm():
                return alarms.set_alarm(writes, command)
            case OpenSession():
                return self._sessions.begin(writes, command)
            case Once():
                raise InvariantError("a command in a session is taken out of it first")
            case _:
                assert_never(command)

    def snapshot_durable(self, reader: Reader) -> Iterator[bytes]:
        """All rows in ``reader`` as chunks of at most 1 MiB; see :mod:`raftkv.kv.image`."""
        return image.dump(reader)

    def restore_durable(self, chunk: bytes, carry: bytes) -> tuple[Sequence[Row], bytes]:
        """The rows of a snapshot's next chunk, and what the next call must know.

        Raises StorageCorruptError if the snapshot is damaged, StorageFormatError if a newer raftkv
        made it.
        """
        return image.restore(chunk, carry)

    def check_restored(self, carry: bytes) -> None:
        """Raise StorageCorruptError unless the chunks given were a whole snapshot."""
        image.check_whole(carry)

    def state_hash(self, reader: Reader | None = None) -> str:
        """A digest of all rows (of ``reader``, or of the store now), to compare members.

        Equal on all members at the same applied index, however their commands were sliced. Reads
        everything: on a large store, call it with a view in a worker.
        """
        return image.state_hash(self.store if reader is None else reader)


class _Results(Sequence[KvResult]):
    """One result per command, made when it is looked at: only the member that proposed looks.

    A plain put is kept as its revision.
    """

    __slots__ = ("_results",)

    def __init__(self, results: list[KvResult | int]) -> None:
        self._results = results

    def __len__(self) -> int:
        return len(self._results)

    def __iter__(self) -> Iterator[KvResult]:
        yield from map(_told, self._results)

    @overload
    def __getitem__(self, index: int) -> KvResult: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[KvResult]: ...
    def __getitem__(self, index: int | slice) -> KvResult | Sequence[KvResult]:
        if isinstance(index, slice):
            return _Results(self._results[index])
        return _told(self._results[index])


def _told(result: KvResult | int) -> KvResult:
    return PutResult(result) if type(result) is int else cast("KvResult", result)


def _ends_before(command: Command, writes: Slice) -> bool:
    """Whether the slice holds much, and an entry ends here."""
    return writes.held > bounds.HELD_BYTES_MAX and command.index != writes.entry


def _put(writes: Slice, key: bytes, value: bytes, lease: int, previous: bool) -> KvResult | int:
    if writes.alarms:
        refusal = alarms.refuse(writes, Put(key, value, lease, previous))
        if refusal is not None:
            return refusal
    if lease:
        refusal = leases.refuse_keys(writes, lease, (key,))
        if refusal is not None:
            return refusal
    if previous and bounds.is_over(writes):
        return bounds.not_now()
    revision = writes.revision + 1
    old = writes.put(key, value, lease, revision, 0)
    writes.events(revision, [rows.encode_event(_PUT, old, key)])
    writes.revision = revision
    if old is None or not previous:
        return revision
    room = bounds.Room()
    (before,) = room.previous(writes, ((key, old),))
    writes.hold(room.used)
    return PutResult(revision, before)


def _lease(writes: Slice, command: Grant | Revoke | TakeOver | Expire | Checkpoint) -> KvResult:
    match command:
        case Grant():
            return leases.grant(writes, command)
        case Revoke():
            return leases.revoke(writes, command)
        case TakeOver():
            return leases.take_over(writes, command)
        case Expire():
            return leases.expire(writes, command)
        case Checkpoint():
            return leases.checkpoint(writes, command)
        case _:
            assert_never(command)


def _check_revisions(data: bytes, before: int, after: int) -> None:
    """I26, I27: one revision for each command that changed something, and none taken back."""
    command = decode(data)
    if isinstance(command, Once):
        command = decode(command.command)
    most = len(command.leases) if isinstance(command, Expire) else 1
    if not before <= after <= before + most:
        raise InvariantError(
            f"I26: a {type(command).__name__} led from revision {before} to {after}"
        )


def _nobody(_leases: Sequence[tuple[int, int, int]]) -> None:
    pass
