"""Forgetting the past: first the floor moves, then the rows below it go, some at a time.

:class:`~raftkv.kv.requests.Compact` moves the floor and nothing else: one small command, however
much history there is. From then on what is below cannot be read, watched or hashed by anybody,
whether or not its rows are still there. :class:`~raftkv.kv.requests.Sweep` removes rows, so many
events' worth at a time, the same ones on every member.

A version is superfluous once the revision that ended it is not above the floor: no revision that
can be read has it in force. So of each key the newest version at or below the floor stays, unless
the key was deleted by then, in which case nothing of it stays. The sweep finds superfluous versions
without a search: each was ended by an event at or below the floor, and the event points to it. So
it walks the events, oldest first, and costs what happened since the last compaction, not what the
store holds.

Events below the floor go, too. Those of the floor itself stay, deletions among them: a watch may
start there (etcd loses the deletions: etcd#18089, etcd#19179). What they replaced is below the
floor; who watches from there gets no previous version.

How far the sweep has come is one row: for which floor, and the place of the next event to look at.
At the floor's own revision versions are removed and events are kept; a later sweep, for a higher
floor, begins with that revision again, finds no versions there, and removes the events.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from attrs import frozen

from raftkv.errors import InvariantError, StorageCorruptError
from raftkv.kv import rows
from raftkv.kv.engine import Slice
from raftkv.kv.model import FIRST_REVISION, CompactResult, Done, KvResult, Refusal, Refused
from raftkv.kv.requests import Compact, Sweep
from raftkv.kv.sizes import EVENT_BYTES, VERSION_BYTES, value_bytes_of
from raftkv.storage.base import Reader, Space

_MACHINE: Final = Space.MACHINE
_CURSOR: Final = struct.Struct("<QQI")  # floor, revision, sub-revision


def compact(writes: Slice, command: Compact) -> KvResult:
    """Move the floor. As in etcd, a store that was never compacted may be compacted at 0."""
    revision, floor = command.revision, writes.floor
    if revision > writes.revision:
        return Refused(
            f"required revision is a future revision: {revision} to be compacted, "
            f"the store is at {writes.revision}",
            Refusal.FUTURE_REVISION,
            writes.revision,
        )
    if revision < floor or revision == floor != 0:
        return Refused(
            f"required revision has been compacted: {revision} to be compacted, "
            f"the oldest that can be read is {floor}",
            Refusal.COMPACTED,
            floor,
        )
    writes.floor = revision
    return CompactResult(writes.revision, revision)


def unswept(reader: Reader) -> int:
    """Through how many revisions the sweep still has to go; 0 if nothing is superfluous."""
    head = rows.decode_head(reader.get(_MACHINE, rows.HEAD_KEY))
    return _resume(reader, head.floor).left


def sweep(writes: Slice, command: Sweep) -> KvResult:
    """Look at the next events, remove what is superfluous, and say what is left to do.

    Nothing is done, and 0 left, where nothing is superfluous.
    """
    cursor = _resume(writes, writes.floor)
    if cursor.left:
        cursor = _walk(writes, cursor, command.events)
        writes.put_row(rows.SWEEP_KEY, _CURSOR.pack(cursor.floor, cursor.revision, cursor.sub))
    return Done(writes.revision, cursor.left)


@frozen(slots=True)
class _Cursor:
    """All events up to and excluding that place were swept for ``floor``."""

    floor: int
    revision: int
    sub: int

    @property
    def left(self) -> int:
        return max(0, self.floor + 1 - self.revision)


def _resume(reader: Reader, floor: int) -> _Cursor:
    """Where to go on for ``floor``, which may have risen since."""
    row = reader.get(_MACHINE, rows.SWEEP_KEY)
    if row is None:
        return _Cursor(floor, FIRST_REVISION, 0)
    if len(row) != _CURSOR.size:
        raise StorageCorruptError(
            f"the row of the KV's sweep has {len(row)} bytes instead of {_CURSOR.size}; "
            "remove this member's data directory and let it join again, or restore a backup"
        )
    cursor = _Cursor(*_CURSOR.unpack(row))
    if cursor.floor == floor:
        return cursor
    if cursor.revision >= cursor.floor:
        # The events of the former floor itself were kept.
        return _Cursor(floor, cursor.floor, 0)
    return _Cursor(floor, cursor.revision, cursor.sub)


def _walk(writes: Slice, cursor: _Cursor, events_max: int) -> _Cursor:
    looked = 0
    for row_key, row in _events(writes, cursor):
        revision, sub = rows.split_events_key(row_key)
        size = 0
        for event in rows.decode_events(row):
            if (revision, sub) >= (cursor.revision, cursor.sub):
                if looked >= events_max:
                    return _Cursor(cursor.floor, revision, sub)
                looked += 1
                _remove_previous(writes, event, cursor.floor)
            size += EVENT_BYTES + len(event.key)
            sub += 1
        if revision < cursor.floor:
            writes.delete_row(row_key)
            writes.size -= size
    return _Cursor(cursor.floor, cursor.floor + 1, 0)


def _events(reader: Reader, cursor: _Cursor) -> Iterator[tuple[bytes, bytes]]:
    """The rows of events from the cursor's place to the floor. It may lie inside a row."""
    start = rows.events_key(cursor.revision, cursor.sub)
    first = rows.events_key(cursor.revision, 0)
    for row_key, _ in reader.scan(_MACHINE, first, start + b"\0", reverse=True):
        start = row_key
        break
    return reader.scan(_MACHINE, start, rows.events_key(cursor.floor + 1, 0))


def _remove_previous(writes: Slice, event: rows.EventRecord, floor: int) -> None:
    """The version that this event ended, unless it was removed before."""
    if not event.previous_revision:
        return
    if event.previous_revision == floor:
        return  # the same revision put it: the event of that, too, stays until the floor rises
    place = rows.history_key(event.key, event.previous_revision, event.previous_sub)
    row = writes.get(_MACHINE, place)
    if row is None:
        return
    end, version = rows.decode_ended(row)
    if end > floor:
        raise InvariantError(
            f"I30: the sweep for revision {floor} met a version that ended in revision {end}"
        )
    writes.size -= VERSION_BYTES + len(event.key) + value_bytes_of(writes, version)
    if rows.decode_version(version).long:
        value = rows.value_key(event.previous_revision, event.previous_sub)
        writes.delete_row(value)
    writes.delete_row(place)
