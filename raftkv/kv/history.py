"""What happened, revision by revision: Changes out of the events rows, for watches and replays.

The rows ``R`` hold what each revision changed, in order (:mod:`raftkv.kv.rows`). A :class:`Page`
is a run of them, decoded once for everybody who reads there, and a :class:`Walk` is one reader's
way from page to page: it picks what is :class:`Wanted` and gives one :class:`Change` a revision.
What is delivered as it happens and what is read later comes out of the same rows by the same code,
so that nobody can tell the two apart.

History is readable from the store's floor on. A version that ended at the floor or before may be
swept at any time, so an event of the floor's own revision shows no previous version, swept or not.

Functions over a :class:`~raftkv.storage.base.Reader`, in steps of bounded work; the callers decide
what else runs in between.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from attrs import frozen

from raftkv.errors import CompactedError, StorageCorruptError
from raftkv.kv import rows
from raftkv.kv.model import FIRST_REVISION, Change, EventKind, KeyEvent, KeyValue, Span
from raftkv.kv.values import load
from raftkv.storage.base import Reader, Space

_MACHINE: Final = Space.MACHINE

PAGE_EVENTS: Final = 512
PAGE_BYTES: Final = 256 * 1024
"""A page ends with the row that reaches one of these."""

FRAGMENT_BYTES_MAX: Final = 1536 * 1024
"""Where fragments are asked for, no Change is larger, unless a single event is (etcd's size)."""

_EVENT_BYTES: Final = 256
"""What an event takes beside its keys and values, generously."""

Place = tuple[int, int]
"""A revision and a sub-revision: where an event stands in the order of all."""


@frozen(slots=True)
class Wanted:
    """What a reader asks for."""

    span: Span
    previous: bool = False
    puts: bool = True
    deletes: bool = True
    fragment_bytes: int = 0
    """A Change of more comes in pieces; 0: in one, however large."""

    def has(self, kind: int) -> bool:
        """Whether events of that kind (as it stands in rows) are asked for."""
        return self.puts if kind == rows.PUT_EVENT else self.deletes


def event_bytes(event: KeyEvent) -> int:
    """Roughly what an event takes in memory."""
    size = _EVENT_BYTES + len(event.kv.key) + len(event.kv.value)
    return size if event.previous is None else size + len(event.previous.value)


def change_bytes(change: Change) -> int:
    """Roughly what a Change takes in memory."""
    events = change.events
    if len(events) == 1:
        return _EVENT_BYTES + event_bytes(events[0])
    return _EVENT_BYTES + sum(map(event_bytes, events))


# --- pages ----------------------------------------------------------------------------------------


class Page:
    """All events from ``first`` up to and excluding ``stop``, shared by all who read there."""

    __slots__ = ("_by_key", "_made", "_reader", "events", "first", "made_bytes", "stop")

    def __init__(
        self,
        reader: Reader,
        first: Place,
        stop: Place,
        events: list[tuple[int, int, rows.EventRecord]],
    ) -> None:
        self._reader = reader
        self.first = first
        self.stop = stop
        self.events = events
        """Revision, sub-revision and record of each, in order."""
        self.made_bytes = 0
        """What the events made so far take, which are kept for the next who wants them."""
        self._made: dict[int, KeyEvent] = {}  # by number, or its complement: with what was before
        self._by_key: list[tuple[bytes, int]] | None = None

    def matching(self, span: Span, place: Place) -> list[int]:
        """Which events, by their number in the page, are of keys in ``span``, from ``place`` on."""
        keys = self._by_key
        if keys is None:
            found = ((event[2].key, number) for number, event in enumerate(self.events))
            keys = self._by_key = sorted(found)
        start = bisect_left(keys, (span.start, 0))
        stop = len(keys) if span.stop is None else bisect_left(keys, (span.stop, 0))
        numbers = sorted(number for _, number in keys[start:stop])
        if place > self.first:
            first = bisect_left(self.events, place)
            return numbers[bisect_left(numbers, first) :]
        return numbers

    def event(self, number: int, *, previous: bool, floor: int) -> KeyEvent:
        """The event of that number; made once. Its versions are read from the store.

        ``floor`` is the store's, and not above the event. Raises StorageCorruptError.
        """
        place = ~number if previous else number
        made = self._made.get(place)
        if made is None:
            made = _event(self._reader, *self.events[number], previous=previous, floor=floor)
            self._made[place] = made
            self.made_bytes += event_bytes(made)
        return made

    def forget(self) -> None:
        """Let go of the events that were made."""
        self._made.clear()
        self.made_bytes = 0


def read_page(
    reader: Reader,
    start: Place,
    until: int,
    *,
    floor: int,
    events_max: int = PAGE_EVENTS,
    bytes_max: int = PAGE_BYTES,
) -> Page:
    """The events from ``start`` on (or a little before) of revisions below ``until``.

    At least those of one row; no more rows once there are ``events_max`` events or ``bytes_max``
    bytes. ``floor`` is the store's: below it rows may be missing. Raises StorageCorruptError if
    they are above.
    """
    first = _row_with(reader, start) if start[1] else start
    stop = (until, 0)
    events: list[tuple[int, int, rows.EventRecord]] = []
    size = 0
    due = max(first, (FIRST_REVISION + 1, 0))  # a fresh store's revision has no events
    for row_key, row in reader.scan(_MACHINE, rows.events_key(*first), rows.events_key(until, 0)):
        place = rows.split_events_key(row_key)
        _check_gap(due, place, floor)
        if len(events) >= events_max or size >= bytes_max:
            stop = place
            break
        revision, sub = place
        for record in rows.decode_events(row):
            events.append((revision, sub, record))
            sub += 1
        size += len(row)
        due = (revision, sub)
    else:
        _check_gap(due, stop, floor)
    return Page(reader, first, stop, events)


def _row_with(reader: Reader, place: Place) -> Place:
    """Where the row begins that the event at ``place`` stands in."""
    start, stop = rows.events_key(place[0], 0), rows.events_key(*place) + b"\0"
    for row_key, _ in reader.scan(_MACHINE, start, stop, reverse=True):
        return rows.split_events_key(row_key)
    raise _missing(place[0])


def _check_gap(due: Place, place: Place, floor: int) -> None:
    """Behind the events up to ``due`` the next are at ``place``: see that none are missing.

    A revision's events go on, or the next one's begin. Below the floor anything may be missing.
    """
    if place == due or (due[1] and place == (due[0] + 1, 0)):
        return
    last = place[0] if place[1] else place[0] - 1
    if last >= floor:
        raise _missing(last)


def _missing(revision: int) -> StorageCorruptError:
    return StorageCorruptError(
        f"the KV events of revision {revision} are missing; "
        "remove this member's data directory and let it join again, or restore a backup"
    )


def _event(
    reader: Reader, revision: int, sub: int, record: rows.EventRecord, *, previous: bool, floor: int
) -> KeyEvent:
    key = record.key
    before = None
    if previous and record.previous_revision and revision > floor:
        before = _ended(reader, key, record.previous_revision, record.previous_sub)
    if record.kind == rows.DELETE_EVENT:
        return KeyEvent(EventKind.DELETE, KeyValue(key, b"", 0, revision, 0), before)
    row = reader.get(_MACHINE, rows.current_key(key))
    if row is not None:
        now = rows.key_value(key, row)  # None: a long value, which may be that of a later version
        if now is None and rows.mod_revision_of(row) == revision:
            now = load(reader, key, row)
        if now is not None and now.mod_revision == revision:
            return KeyEvent(EventKind.PUT, now, before)
    return KeyEvent(EventKind.PUT, _ended(reader, key, revision, sub), before)


def _ended(reader: Reader, key: bytes, revision: int, sub: int) -> KeyValue:
    """The version of ``key`` made at that place, which has ended since."""
    row = reader.get(_MACHINE, rows.history_key(key, revision, sub))
    if row is None:
        raise StorageCorruptError(
            f"the KV version written at revision {revision}.{sub} is missing; "
            "remove this member's data directory and let it join again, or restore a backup"
        )
    return load(reader, key, rows.decode_ended(row)[1])


# --- changes --------------------------------------------------------------------------------------


class Gathering:
    """Puts events together to Changes: whole revisions, or pieces of one that is too large."""

    __slots__ = ("_events", "_fragment_bytes", "_size", "revision")

    def __init__(self, fragment_bytes: int) -> None:
        self._fragment_bytes = fragment_bytes
        self._events: list[KeyEvent] = []
        self._size = 0
        self.revision = 0
        """Of the events that were added and not given; 0: there are none."""

    def add(self, revision: int, event: KeyEvent) -> Change | None:
        """The next event, in order; what came before it, if it cannot go into the same Change."""
        size = event_bytes(event)
        done = None
        if self.revision != revision:
            done = self.end()
        elif self._events and 0 < self._fragment_bytes < self._size + size:
            done = Change(revision, tuple(self._events), is_fragment=True)
            self._events, self._size = [], 0
        self.revision = revision
        self._events.append(event)
        self._size += size
        return done

    def end(self) -> Change | None:
        """The revision is complete: its (last) Change, if there is anything in it."""
        if not self.revision:
            return None
        done = Change(self.revision, tuple(self._events))
        self._events, self._size, self.revision = [], 0, 0
        return done


def changes_of(revision: int, events: list[KeyEvent], fragment_bytes: int) -> list[Change]:
    """The Changes of one revision, all of whose events, as far as they are wanted, are known."""
    if not fragment_bytes or len(events) <= 1:
        return [Change(revision, tuple(events))] if events else []
    gathering = Gathering(fragment_bytes)
    pieces = [gathering.add(revision, event) for event in events]
    return [piece for piece in (*pieces, gathering.end()) if piece is not None]


class Walk:
    """One reader's way through history. ``next`` is the place that it has not looked at yet."""

    __slots__ = ("_gathering", "_skip", "_wanted", "next")

    def __init__(self, wanted: Wanted, start: Place) -> None:
        self._wanted = wanted
        self._gathering = Gathering(wanted.fragment_bytes)
        self._skip = 0
        self.next = start

    def go_to(self, revision: int, skip: int = 0) -> None:
        """Go on at ``revision``, of which the first ``skip`` events that are wanted are known."""
        self.next = (revision, 0)
        self._skip = skip

    def advance(self, page: Page, floor: int, *, events_max: int, bytes_max: int) -> list[Change]:
        """The Changes that ``page``, which holds ``next``, completes.

        Stops inside the page after so many events or bytes: their versions had to be read.
        """
        wanted, gathering = self._wanted, self._gathering
        changes: list[Change] = []
        count = size = 0
        for number in page.matching(wanted.span, self.next):
            revision, sub, record = page.events[number]
            if not wanted.has(record.kind):
                continue
            if self._skip:
                self._skip -= 1
                continue
            if count >= events_max or size >= bytes_max:
                self.next = (revision, sub)
                return changes
            event = page.event(number, previous=wanted.previous, floor=floor)
            count += 1
            size += event_bytes(event)
            done = gathering.add(revision, event)
            if done is not None:
                changes.append(done)
        self.next = page.stop
        if gathering.revision < page.stop[0]:
            done = gathering.end()
            if done is not None:
                changes.append(done)
        return changes


def check_readable(revision: int, floor: int) -> None:
    """Raise CompactedError if the history from ``revision`` on is not whole any more."""
    if revision < floor:
        raise CompactedError(
            f"required revision has been compacted: the history from {revision} on is asked for, "
            f"the oldest that can be read is {floor}; read the keys anew and go on from there",
            floor,
        )


def changes_between(
    reader: Reader, wanted: Wanted, start: int, until: int, *, floor: int
) -> Iterator[Change]:
    """All Changes from revision ``start`` up to and excluding ``until``, which must be written.

    Lazily, a page at a time. Raises CompactedError if ``start`` is below the store's ``floor``.
    """
    check_readable(start, floor)
    reading = Walk(wanted, (start, 0))
    while reading.next < (until, 0):
        page = read_page(reader, reading.next, until, floor=floor)
        yield from reading.advance(page, floor, events_max=PAGE_EVENTS, bytes_max=PAGE_BYTES)
