"""Watchers, and the log that those who want the same share.

A group keeps each Change once, until the last of its watchers has taken it, and a watcher is a
place in that log. So a write costs a group the same however many watch, and what waits for ten
readers takes the memory of one. Where the log has no room for more, the slowest fall behind.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol, TypeAlias

from attrs import define

from raftkv.errors import Error, InvariantError
from raftkv.kv.client.ringing import Bell, Parked
from raftkv.kv.history import Walk, Wanted, change_bytes
from raftkv.kv.model import Change
from raftkv.kv.settings import KvSettings
from raftkv.runtime.base import Promise

Queued: TypeAlias = tuple[Change, int]
"""A Change as it waits to be taken, and its size in bytes."""


@define(slots=True)
class Budget:
    """What waits for all watchers of a node together, in bytes, and how much may."""

    bytes_max: int
    used_bytes: int = 0


class Group:
    """Synced watchers that want the same, from the same revision on."""

    __slots__ = (
        "_budget",
        "_bytes_max",
        "_count_max",
        "_hub",
        "_log",
        "_readers",
        "_size",
        "_sizes",
        "bell",
        "end",
        "first",
        "parked",
        "start",
        "wanted",
        "watchers",
    )

    def __init__(
        self, hub: Hub, wanted: Wanted, start: int, settings: KvSettings, budget: Budget, bell: Bell
    ) -> None:
        self._hub = hub
        self._count_max = settings.watch_buffer_revisions_max
        self._bytes_max = settings.watch_buffer_bytes_max
        self._budget = budget
        # Numbers beside the log, not in it: what stands in tuples the garbage collector looks at.
        self._log: deque[Change] = deque()
        self._sizes: deque[int] = deque()
        self._readers = deque([0])  # how many watchers stand at each place, and at the end
        self._size = 0
        self.bell = bell
        self.wanted = wanted
        self.start = start
        """The first revision that concerns them, if that is in the future; else 0."""
        self.watchers: dict[Watcher, None] = {}  # not a set: their order is certain
        self.parked: Parked = {}
        """Whose readers wait, having taken everything."""
        self.first = self.end = 0
        """The places of the oldest Change in the log, and of the next to come."""

    def offer(self, revision: int, changes: list[Change]) -> None:
        """What happened in ``revision``; who leaves no room for all of it falls behind."""
        if revision < self.start:
            return
        sizes = [change_bytes(change) for change in changes]
        size = sum(sizes)
        if not self._has_room(len(changes), size):
            self._drop_slow()
            if not self._has_room(len(changes), size):
                self.fall_behind(revision)
            if not self.watchers:
                return
        self._log += changes
        self._sizes += sizes
        self._readers += [0] * len(changes)
        self.end += len(changes)
        self._count(size)
        parked = self.parked
        if parked:
            self.parked = {}
            self.bell.ring(parked)

    def take(self, place: int) -> Change:
        """The Change at ``place``, for one of the watchers, whose place is behind it then."""
        number = place - self.first
        change = self._log[number]
        readers = self._readers
        readers[number] -= 1
        readers[number + 1] += 1
        if not readers[0]:
            self._trim()
        return change

    def fall_behind(self, revision: int) -> None:
        """None of them was handed ``revision``."""
        parked = self.parked
        if parked:
            self.parked = {}
            self.bell.ring(parked)
        self._leave_behind([*self.watchers], revision)

    def revision_at(self, place: int) -> int:
        """Of which revision the Change at ``place`` is."""
        return self._log[place - self.first].revision

    def join(self, watcher: Watcher) -> int:
        """One more of them; returns its place, behind all that there is."""
        self.watchers[watcher] = None
        self._readers[-1] += 1
        return self.end

    def leave(self, watcher: Watcher, place: int) -> None:
        """A watcher that stood at ``place`` is not one of them any more."""
        del self.watchers[watcher]
        self._readers[place - self.first] -= 1
        self._trim()
        if not self.watchers:
            self._hub.dismiss(self)

    def _has_room(self, count: int, size: int) -> bool:
        budget = self._budget
        return (
            self.end - self.first + count <= self._count_max
            and self._size + size <= self._bytes_max
            and budget.used_bytes + size <= budget.bytes_max
        )

    def _drop_slow(self) -> None:
        """Leave the slowest behind, so that the log is half as full as it may be.

        Half, so that it is long until they have to be looked for again.
        """
        place, size = self.first, self._size
        for change_size in self._sizes:
            if self.end - place <= self._count_max // 2 and size <= self._bytes_max // 2:
                break
            place += 1
            size -= change_size
        self._leave_behind([one for one in self.watchers if one.place < place], 0)

    def _leave_behind(self, slow: list[Watcher], revision: int) -> None:
        """Let go of ``slow``, all at once, for there may be thousands.

        Those who have taken everything have to read from ``revision`` on.
        """
        watchers, readers, first = self.watchers, self._readers, self.first
        for watcher in slow:
            del watchers[watcher]
            readers[watcher.place - first] -= 1
            watcher.left_behind(self, revision)
        self._trim()
        if slow and not watchers:
            self._hub.dismiss(self)

    def _trim(self) -> None:
        log, readers = self._log, self._readers
        while log and not readers[0]:
            log.popleft()
            readers.popleft()
            self._count(-self._sizes.popleft())
            self.first += 1

    def _count(self, size: int) -> None:
        self._size += size
        self._budget.used_bytes += size


class Hub(Protocol):
    """What a watcher needs of its hub."""

    revision: int

    def step(self, watcher: Watcher, walk: Walk) -> None:
        """Lead it on through history."""
        ...

    def dismiss(self, group: Group) -> None:
        """Nobody is in it any more."""
        ...

    def forget(self, watcher: Watcher) -> None:
        """It was closed."""
        ...


class Watcher:
    """One watch's place in the hub. Made by :meth:`Hub.watch`; loop thread only."""

    __slots__ = (
        "_bell",
        "_berth",
        "_budget",
        "_hub",
        "_is_woken",
        "_known",
        "_mark_place",
        "_mark_revision",
        "_own",
        "_promise",
        "_size",
        "_skip",
        "_start",
        "_walk",
        "failure",
        "group",
        "is_closed",
        "mark_wanted",
        "place",
        "wanted",
    )

    def __init__(self, hub: Hub, bell: Bell, budget: Budget, wanted: Wanted, start: int) -> None:
        self._hub = hub
        self._bell = bell
        self._budget = budget
        # Where it would begin to read history, behind how many events; while it does, its walk.
        self._start, self._skip = start, 0
        self._walk: Walk | None = None
        # What it read there, and marks; comes first. A deque would take more than all else of it.
        self._own: list[Queued] = []
        self._size = 0
        self._known = 0  # events taken of a revision whose other pieces are still to come
        self._mark_place = -1  # a mark comes before the Change at that place of the group's log
        self._mark_revision = 0
        self._promise: Promise[object] | None = None
        self._berth: Parked | None = None  # where it stands to be woken
        self._is_woken = False
        self.wanted = wanted
        self.group: Group | None = None
        """Those whose log it shares, while it is synced."""
        self.place = 0
        """The next Change to take of the group's log, while it is synced."""
        self.is_closed = False
        self.mark_wanted = False
        self.failure: Error | None = None
        """Why history could not be read on; nothing comes behind what is queued."""

    @property
    def is_synced(self) -> bool:
        """Whether what happens next is handed to it."""
        return self.group is not None

    @property
    def queued(self) -> int:
        """How many Changes and marks can be taken."""
        group = self.group
        pending = 0 if group is None else group.end - self.place
        return len(self._own) + pending + (self._mark_place >= 0)

    def take(self) -> Change | None:
        """The next Change that waits here; None if none does."""
        group = self.group
        if self._own:
            change, size = self._own.pop(0)
            self._count(-size)
        elif group is None:
            return None
        elif self._mark_place == self.place:
            return self._take_mark()
        elif self.place < group.end:
            change = group.take(self.place)
            self.place += 1
        else:
            return None
        if change.is_fragment:
            self._known += len(change.events)
        elif self._known and change.events:
            self._known = 0
        return change

    def ask_mark(self) -> None:
        """Ask for a progress mark: it comes behind all that happened until now."""
        self.mark_wanted = True
        if self.group is not None:
            self._mark(self.group)
            self._ring(self.group)

    def step(self) -> None:
        """Read on in history, a bounded piece. For who is behind and has taken all there was."""
        if self.group is None and not self.is_closed and self.failure is None:
            walk = self._walk
            if walk is None:
                walk = self._walk = Walk(self.wanted, (self._start, 0))
                walk.go_to(self._start, self._skip)
            self._hub.step(self, walk)

    def close(self) -> None:
        """Nothing more is wanted. Idempotent."""
        if not self.is_closed:
            self.is_closed = True
            if self.group is not None:
                self.group.leave(self, self.place)
                self.group = None
            self._hub.forget(self)
            self._own.clear()
            self._count(-self._size)
            self._mark_place = -1
            self.ring_now()

    # --- its reader -----------------------------------------------------------------------------

    @property
    def is_awaited(self) -> bool:
        """Whether there is a reader that waits, or was woken or cancelled and has not run yet."""
        return self._promise is not None

    def park(self, promise: Promise[object]) -> None:
        """A reader waits by ``promise``, for it is synced and there is nothing to take."""
        group = self.group
        if group is None:
            raise InvariantError("a reader waits for a watcher that has to read history")
        self._promise = promise
        self._berth = group.parked
        group.parked[self] = None

    def line_up(self, promise: Promise[object]) -> None:
        """A reader waits by ``promise`` for its turn, though there is something to take."""
        self._promise = promise
        self._ring_alone()

    def unpark(self) -> None:
        """The reader runs again, woken or cancelled."""
        self._promise = None
        if self._is_woken:
            self._is_woken = False
            self._bell.ran()
        elif self._berth is not None:
            self._berth.pop(self, None)
        self._berth = None

    def wake(self) -> bool:
        """For the bell, which has taken it out of its berth: wake the reader."""
        self._berth = None
        promise = self._promise
        if promise is None or promise.done():
            return False
        self._is_woken = True
        promise.set_result(None)
        return True

    def ring_now(self) -> None:
        """Wake the reader, if one waits, out of turn."""
        if self._berth is not None:
            del self._berth[self]
            self._bell.ring_now(self)

    # --- for the hub ----------------------------------------------------------------------------

    def queue(self, changes: list[Change]) -> None:
        """What a step through history gave."""
        for change in changes:
            self._put(change, change_bytes(change))

    def admitted(self, group: Group) -> None:
        """Everything that was handed out has been read: it is synced."""
        self.group, self.place = group, group.join(self)
        self._walk = None
        if self.mark_wanted:
            self._mark(group)

    def left_behind(self, group: Group, revision: int) -> None:
        """From ``revision`` on, or from what it has not taken, it has to read for itself.

        Its ``group`` has let it go, and woken its reader.
        """
        skip = 0
        if self.place < group.end:
            revision = group.revision_at(self.place)
            skip = 0 if self._own else self._known
        self._start, self._skip = max(revision, group.start), skip
        if self._mark_place >= 0:
            self._mark_place, self.mark_wanted = -1, True
        self.group = None

    def _ring(self, group: Group) -> None:
        """There is something for the reader: wake it in its turn."""
        if self._berth is group.parked:
            del group.parked[self]
            self._ring_alone()

    def _ring_alone(self) -> None:
        alone: Parked = {self: None}
        self._berth = alone
        self._bell.ring(alone)

    def _put(self, change: Change, size: int) -> None:
        self._own.append((change, size))
        self._count(size)

    def _mark(self, group: Group) -> None:
        """Put a mark behind what waits; it takes the place of one that is the last there."""
        if self._mark_place == group.end:
            self._mark_revision = self._hub.revision
        elif self.place == group.end:
            if self._own and not self._own[-1][0].events:
                self._count(-self._own.pop()[1])
            mark = Change(self._hub.revision, ())
            self._put(mark, change_bytes(mark))
        elif self._mark_place < 0:
            self._mark_place, self._mark_revision = group.end, self._hub.revision
        else:
            return  # once the one that comes before is taken
        self.mark_wanted = False

    def _take_mark(self) -> Change:
        mark = Change(self._mark_revision, ())
        self._mark_place = -1
        if self.mark_wanted and self.group is not None:
            self._mark(self.group)
        return mark

    def _count(self, size: int) -> None:
        self._size += size
        self._budget.used_bytes += size
