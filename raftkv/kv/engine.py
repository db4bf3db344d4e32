"""What a slice of commands changes, and sees of its own changes before they are in the store.

The batch of a slice is written after its last command, yet each command must see the ones before
it. :class:`Slice` therefore keeps every row it wrote in an overlay and is a ``Reader`` itself: a
read asks the overlay, then the store; a scan merges the two. So whatever reads a store (a range at
a past revision, a walk over events, over the keys of a lease) reads a slice just as well, and what
a command does cannot depend on where a slice ended. It lives for one slice and holds no more than
that slice changed, so memory does not grow with the number of keys.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import islice
from typing import Final, cast

from raftkv.errors import InvariantError
from raftkv.kv import rows
from raftkv.kv.model import KeyValue, Span
from raftkv.kv.sizes import EVENT_BYTES, PUT_BYTES
from raftkv.kv.values import load
from raftkv.storage.base import Batch, Reader, Space

_MACHINE: Final = Space.MACHINE
_DELETE: Final = rows.DELETE_EVENT
_PUT: Final = rows.PUT_EVENT

DELETE_RANGE_MIN: Final = 64
"""From this many keys on, a span is deleted by one range deletion instead of one deletion a key."""

_DELETED_BYTES: Final = 512  # what the rows and the event of a deletion take, beside key and row
_INSERT_MAX: Final = 16  # so many new rows are put in their place one by one; more are sorted


class Slice(Reader):
    """The writes of one slice of commands. Not thread-safe; drop it once the batch is written.

    ``revision``, ``floor``, ``size`` and ``alarms`` are the head's, as the commands so far left
    them. ``ended`` are the client sessions whose leases ended since it was emptied last. ``leases``
    is what became of leases so far: id, seconds and which grant it was; of one that ended its id
    and zeros.

    ``entry`` is the index of the entry whose commands are applied, and ``held`` about how many
    bytes the slice must hold beside those of its commands: results, and rows of what was deleted.
    """

    __slots__ = (
        "_before",
        "_covered",
        "_held_by",
        "_order",
        "_ranges",
        "_reader",
        "_rows",
        "alarms",
        "ended",
        "entry",
        "floor",
        "held",
        "leases",
        "revision",
        "size",
    )

    def __init__(self, reader: Reader, head: rows.Head) -> None:
        self._reader = reader
        self._before = head
        self.revision = head.revision
        self.floor = head.floor
        self.size = head.size
        self.alarms = head.alarms
        self.ended: list[int] = []
        self.leases: list[tuple[int, int, int]] = []
        self.entry = 0
        self.held = 0
        self._held_by = (0, 0)  # an entry, and how much of that its commands hold
        self._rows: dict[bytes, bytes | None] = {}  # row key -> row, None once deleted
        self._order: list[bytes] = []  # the keys of _rows, sorted, as far as a scan needed them
        self._ranges: list[tuple[bytes, bytes]] = []  # what was deleted by range in the store
        self._covered: set[bytes] = set()  # the keys of _rows that lie in one of them

    @property
    def head(self) -> rows.Head:
        """Where the store stands after the commands so far."""
        return rows.Head(self.revision, self.floor, self.size, self.alarms)

    # --- what it holds ---

    def hold(self, size: int) -> None:
        """The command that is applied has it hold about so many bytes more."""
        if size:
            self._held_by = (self.entry, self.held_by_entry + size)
            self.held += size

    @property
    def held_by_entry(self) -> int:
        """How much of it the commands so far of this entry have it hold, wherever it began."""
        entry, held = self._held_by
        return held if entry == self.entry else 0

    # --- reading ---

    def get(self, space: Space, key: bytes) -> bytes | None:
        """The row as the commands so far left it, or None; the head is that of the moment."""
        if space is not _MACHINE:
            return self._reader.get(space, key)
        if key in self._rows:
            return self._rows[key]
        if key == rows.HEAD_KEY:
            return rows.encode_head(self.head)
        return self._reader.get(_MACHINE, key)

    def scan(
        self, space: Space, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows between the bounds as they were when the scan began, without the head.

        Changing rows that were yielded already, while the scan goes on, is allowed.
        """
        stored = self._reader.scan(space, start, stop, reverse=reverse)
        changed = self._changed(start, stop) if space is _MACHINE else []
        if not changed:
            yield from stored
            return
        if not reverse:
            changed.reverse()  # the next one is the last
        for key, row in stored:
            while changed and (
                changed[-1][0] > key if reverse else changed[-1][0] < key
            ):  # what the store does not have
                before, own = changed.pop()
                if own is not None:
                    yield before, own
            if not changed or changed[-1][0] != key:
                yield key, row
                continue
            own = changed.pop()[1]
            if own is not None:
                yield key, own
        for key, own in reversed(changed):
            if own is not None:
                yield key, own

    def current(self, key: bytes) -> bytes | None:
        """The row of the version of ``key`` in force, or None."""
        place = b"K" + key
        if place in self._rows:
            return self._rows[place]
        return self._reader.get(_MACHINE, place)

    def scan_current(self, span: Span) -> Iterator[tuple[bytes, bytes]]:
        """Keys of ``span`` in order, each with the row in force when the scan began."""
        if not span.is_empty:
            for row_key, row in self.scan(_MACHINE, *rows.current_bounds(span)):
                yield row_key[1:], row

    def key_value(self, key: bytes, row: bytes) -> KeyValue:
        """The version in ``row`` with its value."""
        return load(self, key, row)

    def _changed(self, start: bytes, stop: bytes | None) -> list[tuple[bytes, bytes | None]]:
        own, order = self._rows, self._order
        missing = len(own) - len(order)  # rows are never taken out of the overlay
        if missing > _INSERT_MAX:
            order += islice(own, len(order), None)
            order.sort()
        elif missing:
            for key in list(islice(own, len(order), None)):
                insort(order, key)
        first = bisect_left(order, start)
        last = len(order) if stop is None else bisect_left(order, stop)
        return [(key, own[key]) for key in order[first:last]]

    # --- writing ---

    def put_row(self, key: bytes, row: bytes) -> None:
        """Set any row."""
        self._rows[key] = row

    def delete_row(self, key: bytes) -> None:
        """Remove any row; no error if there is none."""
        self._rows[key] = None

    def put(self, key: bytes, value: bytes, lease: int, revision: int, sub: int) -> bytes | None:
        """Make ``value`` the version of ``key`` at that place; return the row it replaces, if any.

        ``lease`` must exist, or be 0. The caller writes the events of the revision, of which it
        knows all (:meth:`events`), but their size is counted here.
        """
        place = b"K" + key
        own = self._rows
        old = own[place] if place in own else self._reader.get(_MACHINE, place)
        row = rows.next_version(old, value, revision, sub, lease)
        before = 0
        if old is not None:
            own[rows.ended_key(key, old)] = rows.encode_ended(revision, old)
            before = rows.lease_of(old)
        if rows.is_long(value):
            own[rows.value_key(revision, sub)] = value
        own[place] = row
        if before != lease:
            if before:
                self._detach(key, before)
            if lease:
                self._attach(key, lease)
        self.size += PUT_BYTES + 2 * len(key) + len(value)
        return old

    def delete(self, key: bytes, row: bytes, revision: int) -> None:
        """End the version in ``row``, which is the one in force. As for events, see :meth:`put`."""
        own = self._rows
        own[rows.ended_key(key, row)] = rows.encode_ended(revision, row)
        own[b"K" + key] = None
        lease = rows.lease_of(row)
        if lease:
            self._detach(key, lease)
        self.size += EVENT_BYTES + len(key)

    def delete_span(self, span: Span, found: list[tuple[bytes, bytes]], revision: int) -> None:
        """End all of ``found``, which is everything that :meth:`scan_current` gives for it."""
        for key, row in found:
            self.delete(key, row, revision)
        if len(found) >= DELETE_RANGE_MIN:
            self._ranges.append(rows.current_bounds(span))
            self._covered.update(b"K" + key for key, _ in found)

    def _attach(self, key: bytes, lease: int) -> None:
        self._rows[rows.attached_key(lease, key)] = b""
        self._weigh(lease, rows.weight_of(key))

    def _detach(self, key: bytes, lease: int) -> None:
        self._rows[rows.attached_key(lease, key)] = None
        self._weigh(lease, -rows.weight_of(key))

    def _weigh(self, lease: int, weight: int) -> None:
        place = rows.lease_key(lease)
        row = self.get(_MACHINE, place)
        if row is None:
            raise InvariantError(f"I43: a key has lease {lease:x}, which there is not")
        self._rows[place] = rows.with_keys(row, weight)

    def events(self, revision: int, events: list[bytes]) -> None:
        """Write the encoded events of ``revision``, in order of their sub-revisions."""
        if len(events) == 1:
            self._rows[rows.events_key(revision, 0)] = events[0]
            return
        for row_key, row in rows.pack_events(events, revision):
            self._rows[row_key] = row

    def flush(self, batch: Batch) -> rows.Head:
        """Write everything into ``batch``; return the head as it is then."""
        for start, stop in self._ranges:
            batch.delete_range(_MACHINE, start, stop)
        gone = [key for key, row in self._rows.items() if row is None]
        for key in gone:
            del self._rows[key]
            if key not in self._covered:
                batch.delete(_MACHINE, key)
        batch.put_rows(_MACHINE, cast("dict[bytes, bytes]", self._rows).items())
        head = self.head
        if head == self._before:
            return head
        if head == rows.Head():
            # As at first, perhaps again: no row, whether or not a slice ended in between.
            batch.delete(_MACHINE, rows.HEAD_KEY)
        else:
            batch.put(_MACHINE, rows.HEAD_KEY, rows.encode_head(head))
        return head


class Revision:
    """One revision in the making: operations write into it, in order of their sub-revisions.

    Its number is the slice's from its first change on. Without a change there is no revision.
    """

    __slots__ = ("_events", "_held", "_number", "_writes")

    def __init__(self, writes: Slice) -> None:
        self._writes = writes
        self._number = writes.revision + 1
        self._events: list[bytes] = []
        self._held = 0

    def put(self, key: bytes, value: bytes, lease: int) -> bytes | None:
        """Make ``value`` the version of ``key``; return the row it replaces, if any."""
        old = self._writes.put(key, value, lease, self._number, len(self._events))
        self._changed(rows.encode_event(_PUT, old, key))
        return old

    def delete(self, key: bytes, row: bytes) -> None:
        """End the version in ``row``, which is the one in force."""
        self._writes.delete(key, row, self._number)
        self._deleted(key, row)

    def delete_span(
        self, span: Span, found: list[tuple[bytes, bytes]] | None = None
    ) -> list[tuple[bytes, bytes]]:
        """End every version in ``span``; return the keys with their rows, in key order.

        ``found`` is that already, if who asks knows it.
        """
        if found is None:
            found = list(self._writes.scan_current(span))
        self._writes.delete_span(span, found, self._number)
        for key, row in found:
            self._deleted(key, row)
        return found

    def _deleted(self, key: bytes, row: bytes) -> None:
        self._held += _DELETED_BYTES + len(key) + len(row)
        self._changed(rows.encode_event(_DELETE, row, key))

    def _changed(self, event: bytes) -> None:
        self._writes.revision = self._number
        self._events.append(event)

    def close(self) -> int:
        """Write what happened; return the store's revision now."""
        self._writes.hold(self._held)
        if self._events:
            self._writes.events(self._number, self._events)
        return self._writes.revision
