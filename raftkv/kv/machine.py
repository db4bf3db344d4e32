"""The KV as a replicated machine: commands in, rows and results out, the same on every member.

Revisions are counted as etcd counts them: a fresh store is at 1; every command that changes
something makes one new revision, however many keys it touches, their sub-revisions in key order; a
delete that matches nothing changes nothing. A command that no version can read is refused alike
everywhere; one of a newer version stops the node (:mod:`raftkv.kv.commands`).

Cost of a command on the event loop: a put is one get and two rows (three if the key existed); a
delete of N keys is one scan and one row a key, about 5 ms per 1,000 keys, in one go, as one command
is one revision. Who deletes far more than 10,000 keys at once makes the member late for its
heartbeats by that time, and does better with several smaller spans.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, assert_never, cast, overload

from raftkv.errors import InvalidArgumentError, InvariantError, UsageError
from raftkv.kv import image, rows
from raftkv.kv.commands import decode, is_put, parse_put
from raftkv.kv.engine import Slice
from raftkv.kv.model import DeleteResult, KvResult, PutResult, Refused
from raftkv.kv.reader import read_head
from raftkv.kv.requests import DeleteOne, DeleteSpan, Put
from raftkv.machine import Command, Row
from raftkv.storage.base import Batch, Reader, Store

_PUT: Final = rows.PUT_EVENT
_DELETE: Final = rows.DELETE_EVENT


class KvMachine:
    """The ``DurableStateMachine[KvResult]`` to give to a node, and to the ``Kv`` that uses it.

    Loop thread only, except ``snapshot_durable``.
    """

    __slots__ = ("_head", "_store")

    def __init__(self) -> None:
        self._store: Store | None = None
        self._head = rows.Head()

    def open(self, store: Store) -> None:
        """Take ``store`` and read where it stands.

        Raises StorageFormatError if its rows are of another format, StorageCorruptError if damaged.
        """
        self._head = read_head(store)
        self._store = store

    @property
    def store(self) -> Store:
        """The store it was opened on, for reading. Raises UsageError before that."""
        store = self._store
        if store is None:
            raise UsageError("the KV machine has no store yet; open the node it belongs to first")
        return store

    def apply_durable(self, commands: Sequence[Command], batch: Batch) -> Sequence[KvResult]:
        """Apply in order into ``batch``; one result per command.

        Raises StorageFormatError for a command of a newer version of raftkv.
        """
        before = self._head
        writes = Slice(self.store, batch)
        revision = before.revision
        results: list[KvResult | int] = []
        for command in commands:
            result = _apply(writes, command.data, revision)
            if isinstance(result, int):
                revision = result
            elif not isinstance(result, Refused):
                revision = result.revision
            results.append(result)
        if not before.revision <= revision <= before.revision + len(commands):
            # I26, I27: one revision for each command that changed something, and none taken back.
            raise InvariantError(
                f"I26: {len(commands)} commands led from revision {before.revision} to {revision}"
            )
        if revision != before.revision:
            self._head = rows.Head(revision, before.floor)
            writes.head(self._head)
        return _Results(results)

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
        for result in self._results:
            yield PutResult(result) if type(result) is int else cast("KvResult", result)

    @overload
    def __getitem__(self, index: int) -> KvResult: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[KvResult]: ...
    def __getitem__(self, index: int | slice) -> KvResult | Sequence[KvResult]:
        return list(self)[index]


def _apply(writes: Slice, data: bytes, revision: int) -> KvResult | int:
    """One command on a store at ``revision``; a plain put answers its revision alone."""
    try:
        if is_put(data):  # by far the commonest: without an object in between
            return _put(writes, *parse_put(data), revision)
        command = decode(data)
    except InvalidArgumentError as error:
        return Refused(str(error))
    match command:
        case Put():
            return _put(
                writes, command.key, command.value, command.lease, command.previous, revision
            )
        case DeleteOne():
            return _delete_one(writes, command, revision)
        case DeleteSpan():
            return _delete_span(writes, command, revision)
        case _:
            assert_never(command)


def _put(
    writes: Slice, key: bytes, value: bytes, lease: int, previous: bool, revision: int
) -> KvResult | int:
    if lease:
        return Refused(f"requested lease not found: {lease:x}; grant it first")
    revision += 1
    old = writes.put(key, value, 0, revision, 0)
    writes.events(revision, [rows.encode_event(_PUT, old, key)])
    if old is None or not previous:
        return revision
    return PutResult(revision, writes.key_value(key, old))


def _delete_one(writes: Slice, command: DeleteOne, revision: int) -> KvResult:
    key = command.key
    row = writes.current(key)
    if row is None:
        return DeleteResult(revision, 0)
    previous = (writes.key_value(key, row),) if command.previous else ()
    revision += 1
    writes.delete(key, row, revision)
    writes.events(revision, [rows.encode_event(_DELETE, row, key)])
    return DeleteResult(revision, 1, previous)


def _delete_span(writes: Slice, command: DeleteSpan, revision: int) -> KvResult:
    found = list(writes.scan(command.span))
    if not found:
        return DeleteResult(revision, 0)
    previous = tuple(writes.key_value(*pair) for pair in found) if command.previous else ()
    revision += 1
    writes.delete_span(command.span, found, revision)
    writes.events(revision, [rows.encode_event(_DELETE, row, key) for key, row in found])
    return DeleteResult(revision, len(found), previous)
