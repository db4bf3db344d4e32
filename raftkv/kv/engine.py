"""What a slice of commands changes, and sees of its own changes before they are in the store.

The batch of a slice is written after its last command, yet each command must see the ones before
it. :class:`Slice` therefore keeps the current rows it wrote in an overlay: a read asks the overlay,
then the store; a range merges the two. It lives for one slice and holds no more than that slice
changed, so memory does not grow with the number of keys.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Final

from raftkv.errors import StorageCorruptError
from raftkv.kv import rows
from raftkv.kv.model import KeyValue, Span
from raftkv.storage.base import Batch, Reader, Space

_MACHINE: Final = Space.MACHINE

DELETE_RANGE_MIN: Final = 64
"""From this many keys on, a span is deleted by one range deletion instead of one deletion a key."""


def load(reader: Reader, key: bytes, row: bytes) -> KeyValue:
    """The version of ``key`` in ``row``, its value fetched from its own row if it is a long one."""
    found = rows.key_value(key, row)
    if found is not None:
        return found
    version = rows.decode_version(row)
    value = reader.get(_MACHINE, rows.value_key(version.mod_revision, version.sub))
    if value is None:
        raise StorageCorruptError(
            f"the KV value written at revision {version.mod_revision}.{version.sub} is missing; "
            "remove this member's data directory and let it join again, or restore a backup"
        )
    return with_value(key, version, value)


def with_value(key: bytes, version: rows.Version, value: bytes) -> KeyValue:
    """The public record of a version whose value was found elsewhere."""
    return KeyValue(
        key, value, version.create_revision, version.mod_revision, version.version, version.lease
    )


class Slice:
    """The writes of one slice of commands. Not thread-safe; drop it once the batch is written."""

    __slots__ = ("_batch", "_order", "_reader", "_rows", "_values")

    def __init__(self, reader: Reader, batch: Batch) -> None:
        self._reader = reader
        self._batch = batch
        self._rows: dict[bytes, bytes | None] = {}  # key -> its current row, None once deleted
        self._order: list[bytes] | None = None  # the overlay's keys, sorted once a range asked
        self._values: dict[bytes, bytes] = {}  # long values of this slice by their row's key

    # --- reading ---

    def current(self, key: bytes) -> bytes | None:
        """The row of the version of ``key`` in force, or None."""
        overlay = self._rows
        if key in overlay:
            return overlay[key]
        return self._reader.get(_MACHINE, b"K" + key)

    def scan(self, span: Span) -> Iterator[tuple[bytes, bytes]]:
        """Keys of ``span`` in order, each with the row in force when the scan began.

        Changing keys that were yielded already, while the scan goes on, is allowed.
        """
        if span.is_empty:
            return
        overlay = self._overlay_keys(span)
        position, count = 0, len(overlay)
        for row_key, row in self._reader.scan(_MACHINE, *rows.current_bounds(span)):
            key = row_key[1:]
            while position < count and overlay[position][0] < key:
                before, changed = overlay[position]
                position += 1
                if changed is not None:
                    yield before, changed
            if position == count or overlay[position][0] != key:
                yield key, row
                continue
            _, changed = overlay[position]
            position += 1
            if changed is not None:
                yield key, changed
        for key, changed in overlay[position:]:
            if changed is not None:
                yield key, changed

    def _overlay_keys(self, span: Span) -> list[tuple[bytes, bytes | None]]:
        order = self._order
        if order is None:
            order = self._order = sorted(self._rows)
        first = bisect_left(order, span.start)
        last = len(order) if span.stop is None else bisect_left(order, span.stop)
        return [(key, self._rows[key]) for key in order[first:last]]

    def key_value(self, key: bytes, row: bytes) -> KeyValue:
        """The version in ``row`` with its value, which may have been written in this slice."""
        if self._values:
            version = rows.decode_version(row)
            value = self._values.get(rows.value_key(version.mod_revision, version.sub))
            if value is not None:
                return with_value(key, version, value)
        return load(self._reader, key, row)

    # --- writing ---

    def put(self, key: bytes, value: bytes, lease: int, revision: int, sub: int) -> bytes | None:
        """Make ``value`` the version of ``key`` at that place; return the row it replaces, if any.

        The events of a revision are written by the caller, who knows all of them (:meth:`events`).
        """
        old = self.current(key)
        batch = self._batch
        row = rows.next_version(old, value, revision, sub, lease)
        if old is not None:
            batch.put(_MACHINE, rows.ended_key(key, old), rows.encode_ended(revision, old))
        if rows.is_long(value):
            place = rows.value_key(revision, sub)
            batch.put(_MACHINE, place, value)
            self._values[place] = value
        batch.put(_MACHINE, b"K" + key, row)
        self._remember(key, row)
        return old

    def delete(self, key: bytes, row: bytes, revision: int) -> None:
        """End the version in ``row``, which is the one in force."""
        self._end(key, row, revision)
        self._batch.delete(_MACHINE, b"K" + key)

    def delete_span(self, span: Span, found: list[tuple[bytes, bytes]], revision: int) -> None:
        """End all of ``found``, which is everything that :meth:`scan` gives for ``span``."""
        for key, row in found:
            self._end(key, row, revision)
        batch = self._batch
        if len(found) >= DELETE_RANGE_MIN:
            batch.delete_range(_MACHINE, *rows.current_bounds(span))
            return
        for key, _ in found:
            batch.delete(_MACHINE, b"K" + key)

    def events(self, revision: int, events: list[bytes]) -> None:
        """Write the encoded events of ``revision``, in order of their sub-revisions."""
        if len(events) == 1:
            self._batch.put(_MACHINE, rows.events_key(revision, 0), events[0])
            return
        for row_key, row in rows.pack_events(events, revision):
            self._batch.put(_MACHINE, row_key, row)

    def head(self, head: rows.Head) -> None:
        """Write where the store stands."""
        self._batch.put(_MACHINE, rows.HEAD_KEY, rows.encode_head(head))

    def _end(self, key: bytes, row: bytes, revision: int) -> None:
        self._batch.put(_MACHINE, rows.ended_key(key, row), rows.encode_ended(revision, row))
        self._remember(key, None)

    def _remember(self, key: bytes, row: bytes | None) -> None:
        if self._order is not None and key not in self._rows:
            insort(self._order, key)
        self._rows[key] = row
