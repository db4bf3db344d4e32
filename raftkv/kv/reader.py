"""Reading keys now or at a past revision, from a store or a frozen view of it.

Functions over a :class:`~raftkv.storage.base.Reader` alone: the revision stands in the same view as
the rows, so whatever the view is, its answer is one moment of the store.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from raftkv.errors import CompactedError, FutureRevisionError
from raftkv.kv import rows
from raftkv.kv.engine import load
from raftkv.kv.model import KeyValue, RangeResult, Span
from raftkv.storage.base import Reader, Space

_MACHINE: Final = Space.MACHINE
_BYTES_MAX: Final = 256 * 1024

SEEK_AFTER: Final = 16
"""So many unwanted versions of one key are read one by one before the rest is jumped over."""

_Found = tuple[bytes, bytes]
_Scan = Generator[_Found | None, None, None]
_END: Final[_Found] = (b"", b"")


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
    """One range read, done in steps so that a large one does not hold the event loop.

    ``reader`` must stay the same moment between steps: a view, unless one step finishes the read.
    ``limit`` bounds the items (0: no bound). ``count_only`` gives no items and ignores the limit;
    ``counted=False`` stops at the limit instead of counting on; ``keys_only`` leaves values empty.
    Raises FutureRevisionError or CompactedError for a revision that cannot be read.
    """

    __slots__ = (
        "_count",
        "_counted",
        "_items",
        "_items_max",
        "_keys_only",
        "_reader",
        "_revision",
        "_scan",
    )

    def __init__(
        self,
        reader: Reader,
        span: Span,
        *,
        revision: int = 0,
        limit: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        counted: bool = True,
    ) -> None:
        head = read_head(reader)
        if revision:
            check_revision(head, revision)
        self._reader = reader
        self._revision = head.revision
        self._items: list[KeyValue] = []
        self._items_max = 0 if count_only else (limit or None)
        self._counted = counted or count_only
        self._keys_only = keys_only
        self._count = 0
        past = 0 < revision < head.revision
        self._scan = _at(reader, span, revision) if past else _now(reader, span)

    def advance(self, rows_max: int) -> bool:
        """Look at ``rows_max`` rows, fewer if their values are large; True once it is done."""
        size = 0
        for looked, found in enumerate(self._scan, 1):
            if found is not None:
                if self._is_full and not self._counted:
                    self._count += 1  # the one that shows that there are more
                    return True
                size += self._take(found)
            if looked >= rows_max or size >= _BYTES_MAX:
                return False
        return True

    def close(self) -> None:
        """Let go of the reader; needed if the read is given up or stopped at its limit."""
        self._scan.close()

    @property
    def result(self) -> RangeResult:
        """The answer, once :meth:`advance` returned True."""
        items = tuple(self._items)
        more = bool(self._items_max) and self._count > len(items)
        count = self._count if self._counted else len(items)
        return RangeResult(items, count, more, self._revision)

    @property
    def _is_full(self) -> bool:
        return self._items_max is not None and len(self._items) >= self._items_max

    def _take(self, found: _Found) -> int:
        self._count += 1
        if self._is_full:
            return 0
        key, row = found
        item = rows.key_value(key, row, with_value=not self._keys_only)
        if item is None:
            item = load(self._reader, key, row)
        self._items.append(item)
        return len(item.value)


def read_range(
    reader: Reader,
    span: Span,
    *,
    revision: int = 0,
    limit: int = 0,
    keys_only: bool = False,
    count_only: bool = False,
    counted: bool = True,
) -> RangeResult:
    """A whole :class:`RangeRead` in one go."""
    read = RangeRead(
        reader,
        span,
        revision=revision,
        limit=limit,
        keys_only=keys_only,
        count_only=count_only,
        counted=counted,
    )
    try:
        while not read.advance(1 << 30):
            pass
        return read.result
    finally:
        read.close()


# --- scans: rows in key order; None where a row was looked at in vain -----------------------------


def _now(reader: Reader, span: Span) -> _Scan:
    if span.is_empty:
        return
    for row_key, row in reader.scan(_MACHINE, *rows.current_bounds(span)):
        yield row_key[1:], row


def _at(reader: Reader, span: Span, revision: int) -> _Scan:
    """Merge the versions still in force with the ended ones: at most one of a key is right."""
    if span.is_empty:
        return
    ended = _ended(reader, span, revision)
    waiting = next(ended, _END)
    for row_key, row in reader.scan(_MACHINE, *rows.current_bounds(span)):
        key = row_key[1:]
        while waiting is not _END and (waiting is None or waiting[0] <= key):
            yield waiting
            waiting = next(ended, _END)
        yield (key, row) if rows.decode_version(row).mod_revision <= revision else None
    while waiting is not _END:
        yield waiting
        waiting = next(ended, _END)


def _ended(reader: Reader, span: Span, revision: int) -> _Scan:
    """Of each key in ``span`` the ended version that was in force at ``revision``, if there is one.

    Versions stand newest first. After a few that are too new, or older than the one wanted, it
    seeks.
    """
    cursor, stop = rows.history_bounds(span)
    while True:
        target = None
        prefix, skipped, settled = b"", 0, False
        for row_key, row in reader.scan(_MACHINE, cursor, stop):
            here, made = rows.split_history_key(row_key)
            if here != prefix:
                prefix, skipped, settled = here, 0, False
            if made <= revision and not settled:
                settled, skipped = True, 0
                yield _in_force(prefix, row, revision)
                continue
            skipped += 1
            yield None
            if skipped > SEEK_AFTER:
                # Behind the last version of the key, or at the newest one that is old enough.
                target = (
                    rows.behind_history(prefix) if settled else prefix + rows.newest_at(revision)
                )
                break
        if target is None:
            return
        cursor = target


def _ended_at(reader: Reader, key: bytes, revision: int) -> bytes | None:
    prefix = rows.history_prefix(key)
    start = prefix + rows.newest_at(revision)
    for _, row in reader.scan(_MACHINE, start, rows.behind_history(prefix)):
        found = _in_force(prefix, row, revision)
        return None if found is None else found[1]
    return None


def _in_force(prefix: bytes, row: bytes, revision: int) -> _Found | None:
    end, version = rows.decode_ended(row)
    if end <= revision:
        return None
    return rows.key_of_history_prefix(prefix), version
