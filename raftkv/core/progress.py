"""One follower as the leader sees it: what it has, what to send next, how much is under way.

PROBE sends one append at a time to find where the logs agree; REPLICATE streams, bounded by a
window of appends in flight; SNAPSHOT waits for an installed snapshot. A :class:`Progress` is
frozen and lies in State; :class:`Peer` is its mutable twin for the length of one step.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from attrs import frozen

_new = object.__new__
_set_dict = object.__setattr__


class ProgressState(Enum):
    """How the leader sends to a peer."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


# To look a member of an enum up in its class costs 70 ns on CPython 3.11, an acknowledgement looks
# at four: the hot paths take them from here.
PROBE: Final = ProgressState.PROBE
REPLICATE: Final = ProgressState.REPLICATE
SNAPSHOT: Final = ProgressState.SNAPSHOT


@frozen(slots=False)
class Progress:
    """Positions and flow of one peer (RAFT_SEMANTICS section 4).

    Invariant: ``next > match``. ``inflight`` holds (last index, payload bytes) of each append
    under way.
    """

    id: int
    match: int
    next: int
    state: ProgressState
    flow_paused: bool
    pending_snapshot: int
    active: bool
    sent_commit: int
    inflight: tuple[tuple[int, int], ...]
    inflight_bytes: int
    snapshot_ticks: int
    """How long it has been in SNAPSHOT."""
    acked_tick: int
    """Leader's clock at the sending of the newest heartbeat it answered."""
    recovering: bool = False
    """It said that it lost some of what it acknowledged: ``match`` stays 0, it is not counted."""
    unproven: int = 0
    """While recovering: only what it acknowledges beyond this surely was said after its loss."""

    @property
    def is_paused(self) -> bool:
        """Whether no append may be sent now."""
        return self.flow_paused or self.state is ProgressState.SNAPSHOT

    def window_is_full(self, count_max: int, bytes_max: int) -> bool:
        """Whether the window holds as many appends, or (0: no limit) as many bytes, as allowed."""
        return len(self.inflight) >= count_max or 0 < bytes_max <= self.inflight_bytes


def new_progress(peer: int, *, match: int, next_index: int, active: bool) -> Progress:
    """A peer of whom nothing more is known: probed from ``next_index``."""
    return Progress(peer, match, next_index, ProgressState.PROBE, False, 0, active, 0, (), 0, 0, 0)


class Peer:
    """A Progress while it changes. Never leaves the step that thawed it."""

    id: int
    match: int
    next: int
    state: ProgressState
    flow_paused: bool
    pending_snapshot: int
    active: bool
    sent_commit: int
    inflight: tuple[tuple[int, int], ...]
    inflight_bytes: int
    snapshot_ticks: int
    acked_tick: int
    recovering: bool
    unproven: int

    def __init__(self, progress: Progress) -> None:
        # One copy of the dict, which becomes the next Progress's: as in raftkv.core.draft.
        self.__dict__ = {**progress.__dict__}

    def freeze(self) -> Progress:
        """The value it has become; this is void then."""
        progress = _new(Progress)
        _set_dict(progress, "__dict__", self.__dict__)
        return progress

    def _clear(self) -> None:
        self.flow_paused = False
        self.pending_snapshot = 0
        self.inflight = ()
        self.inflight_bytes = 0
        self.snapshot_ticks = 0

    def become_probe(self) -> None:
        """Find out where the logs agree; after a snapshot, not below it."""
        after = self.pending_snapshot if self.state is SNAPSHOT else 0
        self._clear()
        self.state = PROBE
        self.next = max(self.match, after) + 1
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        """Stream entries after what is known to match."""
        self._clear()
        self.state = REPLICATE
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """Wait for a snapshot at ``index`` to be installed."""
        self._clear()
        self.state = SNAPSHOT
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    def window_is_full(self, count_max: int, bytes_max: int) -> bool:
        """Whether the window holds as many appends, or (0: no limit) as many bytes, as allowed."""
        return len(self.inflight) >= count_max or 0 < bytes_max <= self.inflight_bytes

    def distrust(self, last_index: int) -> None:
        """It lost what it acknowledged: believe nothing of before, and probe it from the end."""
        self.unproven = last_index
        if self.recovering:
            return  # what is sent to it is under way already
        self.recovering = True
        self.acked_tick = 0
        self.match = 0
        self.become_probe()
        self.next = last_index + 1

    def sent(self, last_index: int, payload_bytes: int) -> None:
        """Put an append into the window."""
        self.next = last_index + 1
        self.inflight = (*self.inflight, (last_index, payload_bytes))
        self.inflight_bytes += payload_bytes

    def free_window(self, index: int) -> None:
        """Take every append that ends at or before ``index`` out of the window."""
        freed = 0
        for last_index, payload_bytes in self.inflight:
            if last_index > index:
                break
            freed += 1
            self.inflight_bytes -= payload_bytes
        if freed:
            self.inflight = self.inflight[freed:]

    def acknowledge(self, index: int) -> bool:
        """Raise ``match`` to ``index``; whether that told anything new."""
        if index <= self.match:
            return False
        self.match = index
        if self.next <= index:
            self.next = index + 1
        self.flow_paused = False
        return True

    def reject(self, index: int, hint: int) -> bool:
        """Step ``next`` back after a rejected probe at ``index``; False if the answer is stale."""
        if self.state is REPLICATE:
            if index <= self.match:
                return False
            self.next = self.match + 1
            self.sent_commit = min(self.sent_commit, self.next - 1)
            return True
        if index != self.next - 1:
            return False
        self.next = max(min(index, hint + 1), self.match + 1)
        self.sent_commit = min(self.sent_commit, self.next - 1)
        self.flow_paused = False
        return True
