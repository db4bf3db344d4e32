"""Reading keys now or at a past revision, from a store or a frozen view of it.

Functions over a :class:`~raftkv.storage.base.Reader` alone: the current revision stands among the
rows, so whatever the reader is, the answer is one moment of the store.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from attrs import evolve

from raftkv.errors import CompactedError, FutureRevisionError
from raftkv.kv import rows
from raftkv.kv.model import KeyValue, RangeResult, Span
from raftkv.kv.requests import Range, SortOrder, SortTarget
from raftkv.kv.sorting import Sorter
from raftkv.kv.values import load
from raftkv.storage.base import Reader, Space

_MACHINE: Final = Space.MACHINE
_BYTES_MAX: Final = 256 * 1024
_STEP_KEYS: Final = 4096
_ITEM_BYTES: Final = 256  # what an item takes beside its key and value

SEEK_AFTER: Final = 16
"""So many unwanted versions of one key are read one by one before the rest is jumped over."""

_Scan = Generator[tuple[bytes, bytes | None], None, None]


def read_head(reader: Reader) -> rows.Head:
    """Where the store stands."""
    return rows.decode_head(reader.get(_MACHINE, rows.HEAD_KEY))


def read_key(reader: Reader, key: bytes, revision: int = 0) -> KeyValue | None:
    """``key`` now, or as it was right after ``revision`` (0: now); None if it did not exist.

    Raises FutureRevisionError or CompactedError for a revision that cannot be read.
    """
    if revision:
        check_revision(read_head(reader), revision)
    row = reader.get(_MACHINE, b"K" + key)
    if revision and (row is None or rows.decode_version(row).mod_revision > revision):
        row = _ended_at(reader, key, revision)
    return None if row is None else load(reader, key, row)


def check_revision(head: rows.Head, revision: int) -> None:
    """Refuse a revision that the store has not reached or does not remember."""
    if revision > head.revision:
        raise FutureRevisionError(
            f"required revision is a future revision: {revision} asked for, "
            f"the store is at {head.revision}; read without a revision or wait for it",
            head.revision,
        )
    if revision < head.floor:
        raise CompactedError(
            f"required revision has been compacted: {revision} asked for, "
            f"the oldest that can be read is {head.floor}",
            head.floor,
        )


class RangeRead:
    """One :class:`~raftkv.kv.requests.Range`, read in steps so that a large one holds nobody up.

    The first step fixes the revision; later ones read at that revision, whatever was written in
    between, so that nothing needs to be kept open.

    In etcd's order of things: ``count`` is that of the span, before everything else; then the
    bounds on revisions; then order and limit; ``keys_only`` last. A target without an order has
    etcd's oddity: the limit takes the first in key order, and only those are then sorted (unless
    there are bounds, which are applied before the limit). ``count_only`` gives no items and
    ignores the limit. With ``counted=False`` it stops as soon as it knows the items.
    """

    __slots__ = (
        "_at",
        "_bytes",
        "_count",
        "_counted",
        "_head",
        "_is_bounded",
        "_is_scanned",
        "_items",
        "_items_max",
        "_looked",
        "_matched",
        "_rest",
        "_sorter",
        "_wanted",
    )

    def __init__(self, wanted: Range, *, counted: bool = True) -> None:
        self._wanted = wanted
        self._rest = wanted.span
        self._at = wanted.revision
        self._head: rows.Head | None = None
        self._counted = counted or wanted.count_only
        self._is_bounded = any(
            (
                wanted.mod_revision_min,
                wanted.mod_revision_max,
                wanted.create_revision_min,
                wanted.create_revision_max,
            )
        )
        self._items: list[KeyValue] = []
        self._bytes = 0  # of keys and values that were read
        self._count = 0  # keys in the span
        self._matched = 0  # of them within the bounds
        self._looked = 0  # at keys of the span, those included that did not exist then
        self._is_scanned = False
        self._sorter: Sorter | None = None
        self._items_max = wanted.limit  # to take in key order; 0: all
        if wanted.count_only:
            return
        by_key = wanted.target is SortTarget.KEY
        if wanted.order is SortOrder.DESCEND or not by_key:
            descending = wanted.order is SortOrder.DESCEND
            self._sorter = Sorter(wanted.target, descending=descending, limit=wanted.limit)
            is_odd = wanted.order is SortOrder.NONE and not self._is_bounded
            # One more than the limit, as etcd does: the greatest of them is then cut off.
            self._items_max = wanted.limit + 1 if is_odd and wanted.limit else 0

    def advance(self, reader: Reader, keys_max: int) -> bool:
        """Look at ``keys_max`` keys, fewer if their values are large; True once it is done.

        Raises FutureRevisionError or CompactedError for a revision that cannot be read, or can no
        longer be read.
        """
        sorter = self._sorter
        if self._is_scanned:
            return sorter is None or sorter.finish(keys_max)
        if sorter is not None and not sorter.settle(keys_max):
            return False
        head = read_head(reader)
        if self._head is None:
            self._head = head
            self._at = self._at or head.revision
        check_revision(head, self._at)
        if not self._scan(reader, head, keys_max):
            return False
        self._is_scanned = True
        return sorter is None or sorter.finish(keys_max)

    @property
    def result(self) -> RangeResult:
        """The answer, once :meth:`advance` returned True."""
        wanted = self._wanted
        items = self._items if self._sorter is None else self._sorter.items
        if wanted.keys_only and wanted.target is SortTarget.VALUE:
            items = [evolve(item, value=b"") for item in items]  # they were needed to sort by
        more = bool(wanted.limit) and not wanted.count_only and self._matched > wanted.limit
        count = self._count if self._counted else len(items)
        head = self._head
        revision = self._at if head is None else head.revision
        return RangeResult(tuple(items), count, more, revision)

    @property
    def held_bytes(self) -> int:
        """Roughly what the items found so far take; of a sorted few, their share of all read."""
        if self._wanted.count_only:
            return 0
        limit, found = self._wanted.limit, self._matched
        held = min(found, limit) if limit else found
        return held * _ITEM_BYTES + (self._bytes * held // found if found else 0)

    @property
    def looked(self) -> int:
        """At how many keys it has looked; each counts once more for every KiB it had to read."""
        return self._looked + (self._bytes >> 10)

    @property
    def _is_full(self) -> bool:
        return 0 < self._items_max <= self._matched

    def _scan(self, reader: Reader, head: rows.Head, keys_max: int) -> bool:
        scan = versions_at(reader, self._rest, self._at, head)
        size = looked = 0
        try:
            for looked, (key, row) in enumerate(scan, 1):
                if row is not None:
                    size += len(key) + self._look(reader, key, row)
                    if not self._counted and self._knows_all:
                        return True
                if looked >= keys_max or size >= _BYTES_MAX:
                    self._rest = Span(key + b"\0", self._rest.stop)
                    return False
            return True
        finally:
            self._bytes += size
            self._looked += looked
            scan.close()

    @property
    def _knows_all(self) -> bool:
        """Whether no further key can change the items, nor whether there are more of them."""
        limit = self._wanted.limit
        return 0 < limit < self._matched and (self._sorter is None or self._items_max > 0)

    def _look(self, reader: Reader, key: bytes, row: bytes) -> int:
        """A key of the span. Returns how many bytes of value were read."""
        self._count += 1
        wanted = self._wanted
        if wanted.count_only or (self._is_bounded and not _is_within(wanted, row)):
            return 0
        was_full = self._is_full
        self._matched += 1
        if was_full:
            return 0
        by_value = wanted.target is SortTarget.VALUE
        with_value = by_value or not wanted.keys_only
        sorter = self._sorter
        if sorter is None:
            item = _item(reader, key, row, with_value)
            self._items.append(item)
            return len(item.value)
        item = _item(reader, key, row, by_value)
        if not sorter.wants(item):
            return len(item.value)
        if with_value and not by_value:
            item = _item(reader, key, row, with_value)
        sorter.add(item)
        return len(item.value)


def read_range(reader: Reader, wanted: Range, *, counted: bool = True) -> RangeResult:
    """A whole :class:`RangeRead` in one go."""
    read = RangeRead(wanted, counted=counted)
    while not read.advance(reader, _STEP_KEYS):
        pass
    return read.result


def _is_within(wanted: Range, row: bytes) -> bool:
    """Whether the version in ``row`` is within the bounds, all inclusive, 0 for none."""
    found = rows.decode_version(row)
    made, changed = found.create_revision, found.mod_revision
    return (
        wanted.mod_revision_min <= changed
        and changed <= (wanted.mod_revision_max or changed)
        and wanted.create_revision_min <= made
        and made <= (wanted.create_revision_max or made)
    )


def _item(reader: Reader, key: bytes, row: bytes, with_value: bool) -> KeyValue:
    found = rows.key_value(key, row, with_value=with_value)
    return load(reader, key, row) if found is None else found


# --- scans: each key of the span once, in order; no row if it did not exist then ---------------


def versions_at(reader: Reader, span: Span, revision: int, head: rows.Head) -> _Scan:
    """The keys of ``span`` in order, each with the row of its version in force at ``revision``.

    No row for a key that did not exist then; each counts all the same as a key looked at. ``head``
    is the reader's, ``revision`` one that can be read.
    """
    return _now(reader, span) if revision == head.revision else _past(reader, span, revision)


def _now(reader: Reader, span: Span) -> _Scan:
    if span.is_empty:
        return
    for row_key, row in reader.scan(_MACHINE, *rows.current_bounds(span)):
        yield row_key[1:], row


def _past(reader: Reader, span: Span, revision: int) -> _Scan:
    """Merge the versions still in force with the ended ones: at most one of a key is right."""
    if span.is_empty:
        return
    ended = _ended(reader, span, revision)
    waiting = next(ended, None)
    for row_key, row in reader.scan(_MACHINE, *rows.current_bounds(span)):
        key = row_key[1:]
        while waiting is not None and waiting[0] < key:
            yield waiting
            waiting = next(ended, None)
        found = row if rows.decode_version(row).mod_revision <= revision else None
        if waiting is not None and waiting[0] == key:
            found = found or waiting[1]
            waiting = next(ended, None)
        yield key, found
    while waiting is not None:
        yield waiting
        waiting = next(ended, None)


def _ended(reader: Reader, span: Span, revision: int) -> _Scan:
    """Of each key in ``span`` the ended version that was in force at ``revision``, if there is one.

    Versions stand newest first. After a few that are too new, or older than the one wanted, it
    seeks: behind the last version of the key, or to the newest one that is old enough.
    """
    cursor, stop = rows.history_bounds(span)
    prefix, skipped, settled = b"", 0, True
    while True:
        for row_key, row in reader.scan(_MACHINE, cursor, stop):
            here, made = rows.split_history_key(row_key)
            if here != prefix:
                if not settled:
                    yield rows.key_of_history_prefix(prefix), None
                prefix, skipped, settled = here, 0, False
            if made <= revision and not settled:
                skipped, settled = 0, True
                yield rows.key_of_history_prefix(here), _in_force(row, revision)
                continue
            skipped += 1
            if skipped > SEEK_AFTER:
                break
        else:
            if not settled:
                yield rows.key_of_history_prefix(prefix), None
            return
        skipped = 0
        cursor = rows.behind_history(prefix) if settled else prefix + rows.newest_at(revision)


def _ended_at(reader: Reader, key: bytes, revision: int) -> bytes | None:
    prefix = rows.history_prefix(key)
    start = prefix + rows.newest_at(revision)
    for _, row in reader.scan(_MACHINE, start, rows.behind_history(prefix)):
        return _in_force(row, revision)
    return None


def _in_force(row: bytes, revision: int) -> bytes | None:
    end, version = rows.decode_ended(row)
    return version if end > revision else None
