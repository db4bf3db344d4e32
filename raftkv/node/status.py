"""What a node tells about itself: a status on request, events as they happen."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from attrs import frozen

from raftkv.core.progress import ProgressState
from raftkv.core.types import Membership, Role
from raftkv.node.roster import Member
from raftkv.runtime.base import Waker

_log = logging.getLogger("raftkv.node")

_ALARMS_KEPT: Final = 16

# --- status -----------------------------------------------------------------------------------


@frozen(slots=True)
class PeerStatus:
    """Another member as this one sees it; the last three are known to a leader only."""

    id: int
    name: str
    address: str
    is_connected: bool
    match: int | None
    """The last entry it is known to have."""
    lag: int | None
    """How many entries it is behind our log."""
    state: ProgressState | None


@frozen(slots=True)
class MemberStatus:
    """One member as this one knows it. ``match`` and ``lag`` are known to a leader only."""

    id: int
    name: str
    address: str
    is_voter: bool
    """Whether its vote counts; else it is a learner, which only receives."""
    is_leader: bool
    is_connected: bool
    """Whether we are connected to it; of ourselves always true."""
    match: int | None
    """The last entry it is known to have."""
    lag: int | None
    """How many entries it is behind the log of the leader."""

    @property
    def is_learner(self) -> bool:
        """Whether it only receives."""
        return not self.is_voter


@frozen(slots=True)
class LoopStatus:
    """How late the event loop runs us: over the last ticks, and at worst since start."""

    lag_seconds: float
    lag_seconds_max: float


@frozen(slots=True)
class DiskStatus:
    """Durable writes: how many, and how long the last few hundred took."""

    syncs: int
    sync_seconds_p50: float
    sync_seconds_p99: float
    sync_seconds_max: float


@frozen(slots=True)
class RecoveryStatus:
    """A member that lost something, on its way back: it neither votes nor is counted."""

    what: str
    """What was found, where, and what becomes of it."""
    votes_known: bool
    """Whether only entries are lost. Else every other voter has to tell its term, too."""
    last_index: int
    goal_index: int | None
    """How far the log must reach, once that is known."""
    waits_for: tuple[str, ...]
    """The voters whose term was not heard yet."""


@frozen(slots=True)
class Status:
    """One moment of one node."""

    name: str
    id: int
    cluster_id: int
    boot: int
    role: Role
    leader: int
    """Its member id; 0 if no leader is known."""
    leader_name: str | None
    term: int
    commit: int
    applied: int
    first_index: int
    last_index: int
    log_bytes: int
    membership: Membership
    members: tuple[MemberStatus, ...]
    """The same with names and addresses, ourselves included, ascending by name."""
    peers: tuple[PeerStatus, ...]
    outstanding_commands: int
    outstanding_reads: int
    unapplied_commands: int
    loop: LoopStatus
    disk: DiskStatus
    recovering: RecoveryStatus | None = None
    """What this member lost, until it is whole again."""
    alarms: tuple[str, ...] = ()
    """What was alarmed since the node started: the newest, oldest first."""

    @property
    def is_leader(self) -> bool:
        """Whether this member believes to lead; only a read proves it."""
        return self.role is Role.LEADER


def disk_status(syncs: int, recent_ns: deque[int]) -> DiskStatus:
    """Percentiles of the recent syncs."""
    if not recent_ns:
        return DiskStatus(syncs, 0.0, 0.0, 0.0)
    ordered = sorted(recent_ns)
    last = len(ordered) - 1
    return DiskStatus(
        syncs,
        ordered[last // 2] / 1e9,
        ordered[last * 99 // 100] / 1e9,
        ordered[last] / 1e9,
    )


# --- events -----------------------------------------------------------------------------------


@frozen(slots=True)
class RoleChanged:
    """The member has another role, or the same in another term."""

    role: Role
    term: int


@frozen(slots=True)
class LeaderChanged:
    """Another leader is known, or none (0)."""

    leader: int
    name: str
    term: int


@frozen(slots=True)
class MembershipChanged:
    """A membership change took effect here; ``members`` tell names and addresses."""

    membership: Membership
    members: tuple[Member, ...] = ()


@frozen(slots=True)
class Alarm:
    """Something that a person should look at."""

    what: str


@frozen(slots=True)
class RecoveryChanged:
    """The member recovers from ``what`` it lost; empty: it is whole again."""

    what: str


@frozen(slots=True)
class EventsLost:
    """The listener was too slow: so many events before this one are gone; look at the status."""

    count: int


Event = RoleChanged | LeaderChanged | MembershipChanged | RecoveryChanged | Alarm | EventsLost


class Events:
    """The changes of one node, for one listener; an async iterator that ends with the node.

    Holds at most ``events_max`` of the settings; beyond, the oldest are replaced by an EventsLost.
    """

    def __init__(self, hub: EventHub, waker: Waker, events_max: int) -> None:
        self._hub = hub
        self._waker = waker
        self._events_max = events_max
        self._queue: deque[Event] = deque()
        self._lost = 0
        self._ended = False

    def __aiter__(self) -> Events:
        """Itself."""
        return self

    async def __anext__(self) -> Event:
        """The next event; ends when the node does. One task at a time."""
        while True:
            if self._lost:
                lost, self._lost = self._lost, 0
                return EventsLost(lost)
            if self._queue:
                return self._queue.popleft()
            if self._ended:
                raise StopAsyncIteration
            await self._waker.wait()

    def close(self) -> None:
        """Stop listening."""
        self._hub.forget(self)
        self.end()

    def put(self, event: Event) -> None:
        """For the node: something happened."""
        if len(self._queue) >= self._events_max:
            self._queue.popleft()
            self._lost += 1
        self._queue.append(event)
        self._waker.set()

    def end(self) -> None:
        """For the node: nothing more will happen."""
        self._ended = True
        self._waker.set()


class EventHub:
    """Hands each event to every listener."""

    def __init__(self, make_waker: Callable[[], Waker], events_max: int) -> None:
        self._make_waker = make_waker
        self._events_max = events_max
        self._listeners: list[Events] = []
        self._ended = False
        self.alarms: deque[str] = deque(maxlen=_ALARMS_KEPT)
        """What was alarmed, for those who did not listen."""

    def listen(self) -> Events:
        """A new listener, who hears what happens from now on."""
        events = Events(self, self._make_waker(), self._events_max)
        if self._ended:
            events.end()
        else:
            self._listeners.append(events)
        return events

    def forget(self, events: Events) -> None:
        """The listener is gone."""
        if events in self._listeners:
            self._listeners.remove(events)

    def alarm(self, what: str) -> None:
        """Something that a person should look at."""
        _log.error("%s", what)
        self.put(Alarm(what))

    def put(self, event: Event) -> None:
        """Something happened."""
        if isinstance(event, Alarm):
            self.alarms.append(event.what)
        for listener in self._listeners:
            listener.put(event)

    def end(self) -> None:
        """The node ends."""
        self._ended = True
        for listener in self._listeners:
            listener.end()
        self._listeners.clear()
