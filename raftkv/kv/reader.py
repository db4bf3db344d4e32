"""Reading keys now or at a past revision, from a store or a frozen view of it.

Functions over a :class:`~raftkv.storage.base.Reader` alone: the current revision stands among the
rows, so whatever the reader is, the answer is one moment of the store.
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
_STEP_KEYS: Final = 4096

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
    """One range read, done in steps so that a large one does not hold the event loop.

    The first step fixes the revision; later ones read at that revision, whatever was written in
    between, so that nothing needs to be kept open. ``limit`` bounds the items (0: no bound).
    ``count_only`` gives no items and ignores the limit; ``counted=False`` stops at the limit
    instead of counting on; ``keys_only`` leaves values empty.
    """

    __slots__ = (
        "_at",
        "_count",
        "_counted",
        "_head",
        "_items",
        "_items_max",
        "_keys_only",
        "_rest",
    )

    def __init__(
        self,
        span: Span,
        *,
        revision: int = 0,
        limit: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        counted: bool = True,
    ) -> None:
        self._rest = span
        self._at = revision
        self._head: rows.Head | None = None
        self._items: list[KeyValue] = []
        self._items_max = 0 if count_only else (limit or None)
        self._counted = counted or count_only
        self._keys_only = keys_only
        self._count = 0

    def advance(self, reader: Reader, keys_max: int) -> bool:
        """Look at ``keys_max`` keys, fewer if their values are large; True once it is done.

        Raises FutureRevisionError or CompactedError for a revision that cannot be read, or can no
        longer be read.
        """
        head = read_head(reader)
        if self._head is None:
            self._head = head
            self._at = self._at or head.revision
        check_revision(head, self._at)
        is_now = self._at == head.revision
        scan = _now(reader, self._rest) if is_now else _past(reader, self._rest, self._at)
        size = 0
        try:
            for looked, (key, row) in enumerate(scan, 1):
                if row is not None:
                    if self._is_full and not self._counted:
                        self._count += 1  # the one that shows that there are more
                        return True
                    size += self._take(reader, key, row)
                if looked >= keys_max or size >= _BYTES_MAX:
                    self._rest = Span(key + b"\0", self._rest.stop)
                    return False
            return True
        finally:
            scan.close()

    @property
    def result(self) -> RangeResult:
        """The answer, once :meth:`advance` returned True."""
        items = tuple(self._items)
        more = bool(self._items_max) and self._count > len(items)
        count = self._count if self._counted else len(items)
        head = self._head
        return RangeResult(items, count, more, self._at if head is None else head.revision)

    @property
    def _is_full(self) -> bool:
        return self._items_max is not None and len(self._items) >= self._items_max

    def _take(self, reader: Reader, key: bytes, row: bytes) -> int:
        self._count += 1
        if self._is_full:
            return 0
        item = rows.key_value(key, row, with_value=not self._keys_only)
        if item is None:
            item = load(reader, key, row)
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
        span,
        revision=revision,
        limit=limit,
        keys_only=keys_only,
        count_only=count_only,
        counted=counted,
    )
    while not read.advance(reader, _STEP_KEYS):
        pass
    return read.result


# --- scans: each key of the span once, in order; no row if it did not exist then ---------------


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
