"""Where watchers meet what happens: one hub on each node, fed once for each slice written.

A watcher is *synced* or *behind*. What a slice changed is read from its rows, once, and handed to
the synced watchers of each key through an index of the spans watched, so that a write costs what it
touches, however many watchers there are.

What is handed out waits in the log that watchers of the same keys share, which is bounded. A
watcher that does not keep up falls behind: its owner reads on from history where it is, page by
page, as does a watcher that begins in the past. Pages are shared by all who read there. Who has
read everything that was handed out is synced again. So a watcher that nobody asks for changes keeps
nothing and costs nothing.

Nothing here waits, and everything runs between two turns of the node: whoever looks sees all of a
slice or nothing of it. Only rows that are written are looked at, never the machine, which is ahead
of them while a slice is applied.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from raftkv.errors import Error, InvariantError, StorageCorruptError, TooManyRequestsError
from raftkv.kv.client.ringing import Bell
from raftkv.kv.client.watchers import Budget, Group, Watcher
from raftkv.kv.history import (
    PAGE_BYTES,
    PAGE_EVENTS,
    Page,
    Place,
    Walk,
    Wanted,
    changes_of,
    check_readable,
    read_page,
)
from raftkv.kv.machine import KvMachine
from raftkv.kv.model import Change, KeyEvent
from raftkv.kv.reader import read_head
from raftkv.kv.rows import Head
from raftkv.kv.settings import KvSettings
from raftkv.kv.spans import SpanIndex
from raftkv.runtime.base import Runtime
from raftkv.storage.base import Store

_KIB: Final = 1024
_MIB: Final = 1024 * 1024


@frozen(slots=True, kw_only=True)
class Limits:
    """What a hub does in one go, and keeps."""

    buffers_bytes: int = 64 * _MIB
    """What waits for all watchers of a node together, and an event for each beside it; who has no
    room reads from history later."""
    live_events: int = 1024
    live_bytes: int = 4 * _MIB
    """A slice that changed more is handed to nobody: everybody reads it from history, in steps."""
    step_events: int = 256
    step_bytes: int = 256 * _KIB
    """A step through history ends once it has made so many events, or so many bytes of them."""
    page_events: int = PAGE_EVENTS
    page_bytes: int = PAGE_BYTES
    """A page of history has no more rows once it has so many events, or so many bytes of rows."""
    page_revisions: int = 128
    """Pages begin at multiples of it, where they can: so readers near each other share them."""
    page_made_bytes: int = _MIB
    """A page keeps the events that were made of it for the next reader, up to so many bytes."""
    pages: int = 8
    """So many pages are kept."""
    wakes: int = 64
    """So many readers are woken at once; the next when these have run."""


class _Watched:
    """A span that synced watchers watch, in groups by what they want of it, and from when on."""

    __slots__ = ("groups",)

    def __init__(self) -> None:
        self.groups: dict[tuple[Wanted, int], Group] = {}


class Hub:
    """The ``Audience`` of a node that runs the KV. Loop thread only."""

    def __init__(
        self,
        machine: KvMachine,
        settings: KvSettings,
        runtime: Runtime,
        limits: Limits | None = None,
    ) -> None:
        self._machine = machine
        self._settings = settings
        self._limits = limits or Limits()
        self._budget = Budget(self._limits.buffers_bytes)
        self.bell = Bell(runtime.clock, runtime.waker, self._limits.wakes)
        self._watchers: dict[Watcher, None] = {}
        self._spans: SpanIndex[_Watched] = SpanIndex()
        self._pages: list[Page] = []  # the one used last at the end
        self.revision = 0
        """Everything up to it was handed out; kept while there are watchers."""
        self.is_ended = False

    @property
    def count(self) -> int:
        """How many watchers there are."""
        return len(self._watchers)

    @property
    def behind(self) -> int:
        """How many of them have to read history."""
        return sum(not watcher.is_synced for watcher in self._watchers)

    @property
    def buffered_bytes(self) -> int:
        """What waits for all watchers together."""
        return self._budget.used_bytes

    # --- the node tells -----------------------------------------------------------------------

    def rows_written(self) -> None:
        """Hand out what was written since the last call."""
        self.bell.written()
        if not self._watchers:
            return
        head = read_head(self._store)
        first, self.revision = self.revision + 1, head.revision
        if head.revision < first:
            if head.revision < first - 1:
                raise InvariantError(
                    f"I38: revisions up to {first - 1} were handed to watchers, but the store is"
                    f" at {head.revision}"
                )
            return
        if not len(self._spans):
            return  # nobody is synced
        page = self._whole(first, head)
        if page is not None:
            self._hand_out(page, head.floor)
            return
        for group in dict.fromkeys(watcher.group for watcher in self._watchers):
            if group is not None:
                group.fall_behind(first)

    def ended(self) -> None:
        """Wake everybody: the node says why."""
        self.is_ended = True
        for watcher in self._watchers:
            watcher.ring_now()

    # --- watchers -----------------------------------------------------------------------------

    def watch(self, wanted: Wanted, start: int) -> Watcher:
        """A watcher from revision ``start`` on; 0: from behind what is written now.

        Raises CompactedError if the history from there on is not whole, TooManyRequestsError if
        there are too many watchers.
        """
        if len(self._watchers) >= self._settings.watchers_max:
            raise TooManyRequestsError(
                f"{len(self._watchers)} watchers on this member (watchers_max): close some, or"
                " watch prefixes instead of single keys"
            )
        head = read_head(self._store)
        if not self._watchers:
            self.revision = head.revision
        start = start or self.revision + 1
        check_readable(start, head.floor)
        watcher = Watcher(self, self.bell, self._budget, wanted, start)
        self._watchers[watcher] = None
        if start > self.revision:
            self._admit(watcher, start)
        return watcher

    def forget(self, watcher: Watcher) -> None:
        """The watcher was closed."""
        del self._watchers[watcher]
        if not self._watchers:
            self._pages.clear()

    def dismiss(self, group: Group) -> None:
        """The last of its watchers has left the group."""
        span = group.wanted.span
        watched = self._spans.get(span)
        if watched is None:
            raise InvariantError("a synced watcher is not among those of its keys")
        del watched.groups[group.wanted, group.start]
        if not watched.groups:
            self._spans.remove(span)

    def step(self, watcher: Watcher, walk: Walk) -> None:
        """Lead a watcher on through history, and back to the synced ones at its end."""
        end = (self.revision + 1, 0)
        if walk.next < end:
            store = self._store
            floor = read_head(store).floor
            limits = self._limits
            # Without room one event at a time, so that nobody stands still for good.
            is_full = self._budget.used_bytes >= limits.buffers_bytes
            events_max = 1 if is_full else limits.step_events
            try:
                check_readable(walk.next[0], floor)
                page = self._page_at(walk.next, floor)
                changes = walk.advance(
                    page, floor, events_max=events_max, bytes_max=limits.step_bytes
                )
            except Error as error:  # for good: what the walk had come by in this step is lost
                watcher.failure = error
                return
            if page.made_bytes > limits.page_made_bytes:
                page.forget()
            watcher.queue(changes)
        if walk.next >= end:
            self._admit(watcher, walk.next[0])

    # --- inside -------------------------------------------------------------------------------

    @property
    def _store(self) -> Store:
        return self._machine.store

    def _admit(self, watcher: Watcher, start: int) -> None:
        """All before ``start`` was handed out: from here on it is handed what happens."""
        wanted = watcher.wanted
        watched = self._spans.get(wanted.span)
        if watched is None:
            watched = _Watched()
            self._spans.put(wanted.span, watched)
        start = start if start > self.revision + 1 else 0
        group = watched.groups.get((wanted, start))
        if group is None:
            group = Group(self, wanted, start, self._settings, self._budget, self.bell)
            watched.groups[wanted, start] = group
        watcher.admitted(group)

    def _whole(self, first: int, head: Head) -> Page | None:
        """Everything from revision ``first`` on, if it is all there and not too much at once."""
        limits = self._limits
        if head.revision - first >= limits.live_events:
            return None
        try:
            page = read_page(
                self._store,
                (first, 0),
                head.revision + 1,
                floor=first,
                events_max=limits.live_events,
                bytes_max=limits.live_bytes,
            )
        except StorageCorruptError:
            if first < head.floor:
                return None  # written, compacted and swept in one slice: watchers are told so
            raise
        return page if page.stop[0] > head.revision else None

    def _hand_out(self, page: Page, floor: int) -> None:
        """The events of ``page``, which holds whole revisions, to all synced watchers."""
        at = self._spans.at
        touched: dict[_Watched, list[int]] = {}
        current = page.first[0]
        for number, (revision, _, record) in enumerate(page.events):
            if revision != current:
                if touched:
                    self._deliver(page, current, touched, floor)
                    touched = {}
                current = revision
            for watched in at(record.key):
                touched.setdefault(watched, []).append(number)
        if touched:
            self._deliver(page, current, touched, floor)

    def _deliver(
        self, page: Page, revision: int, touched: dict[_Watched, list[int]], floor: int
    ) -> None:
        """One revision to the watchers that it touches."""
        for watched, numbers in touched.items():
            for group in tuple(watched.groups.values()):
                made = self._make(page, revision, numbers, group.wanted, floor)
                if made is None:
                    group.fall_behind(revision)
                elif made:
                    group.offer(revision, made)

    def _make(
        self, page: Page, revision: int, numbers: list[int], wanted: Wanted, floor: int
    ) -> list[Change] | None:
        """The Changes of one revision; None: they have to be read from history."""
        events: list[KeyEvent] = []
        for number in numbers:
            if not wanted.has(page.events[number][2].kind):
                continue
            if page.made_bytes > self._limits.live_bytes:
                return None
            try:
                events.append(page.event(number, previous=wanted.previous, floor=floor))
            except StorageCorruptError:
                if revision < floor:
                    return None  # compacted and half swept in the same slice: they are told so
                raise
        return changes_of(revision, events, wanted.fragment_bytes)

    # --- pages of history -----------------------------------------------------------------------

    def _page_at(self, place: Place, floor: int) -> Page:
        """The page that holds ``place``, which was handed out."""
        for number in range(len(self._pages) - 1, -1, -1):
            page = self._pages[number]
            if page.first <= place < page.stop:
                self._pages.append(self._pages.pop(number))
                return page
        aligned = place[0] - place[0] % self._limits.page_revisions
        page = self._read_page((max(aligned, floor), 0), floor)
        if page.stop <= place:
            page = self._read_page(place, floor)
        self._pages.append(page)
        if len(self._pages) > self._limits.pages:
            del self._pages[0]
        return page

    def _read_page(self, start: Place, floor: int) -> Page:
        limits = self._limits
        return read_page(
            self._store,
            start,
            self.revision + 1,
            floor=floor,
            events_max=limits.page_events,
            bytes_max=limits.page_bytes,
        )
