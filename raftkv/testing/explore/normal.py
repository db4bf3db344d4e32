"""What two States may differ in without ever behaving differently, made equal.

Two worlds that behave alike in every future are one: without that no exploration would end, since
clocks and counters grow for ever. Each rule here says why it hides nothing; the tests step normal
States beside those they were made of.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve, frozen

from raftkv.core import Progress, Role, State
from raftkv.core.messages import Message, StorageAppendResponse
from raftkv.core.progress import new_progress
from raftkv.core.state import Told, Write


@frozen
class Normal:
    """The rules of one kind of world; ``snapshots``: logs are compacted, or members join."""

    snapshots: bool = False

    def state(self, state: State, numbers: Sequence[int]) -> State:
        """The normal form, the writes under way being those of the Readies of these numbers."""
        told, leading = state.told, state.leading
        # Who does not lead asks of progress only who is tracked, and who begins to lead resets it.
        peer = self._peer if state.role is Role.LEADER else _nothing_known
        if leading.uncommitted_bytes:  # asked whether there is too much of it: there is no limit
            leading = evolve(leading, uncommitted_bytes=0)
        return evolve(
            state,
            # Timers decide when inputs come, and here every input comes whenever it may. What else
            # asks them (leases, quorum checks) is off.
            election_elapsed=0,
            heartbeat_elapsed=0,
            timeout_ticks=state.config.election_ticks,
            rng=0,
            lead_ticks=0,
            hold_ticks=0,
            progress=tuple([peer(one) for one in state.progress]),
            leading=leading,
            # Readies are told apart by their order alone.
            told=Told(told.soft, told.hard, len(numbers), told.recovering),
            writes=_renumbered(state.writes, numbers),
        )

    def _peer(self, one: Progress) -> Progress:
        return evolve(
            one,
            # Asked by quorum checks, which are off, and before a snapshot is sent.
            active=one.active if self.snapshots else True,
            # Asked whether the window is full: it holds more than can ever be under way here.
            inflight=(),
            inflight_bytes=0,
            # Asked by leases and by the timeout of snapshots, which are off.
            acked_tick=0,
            snapshot_ticks=0,
        )


def _nothing_known(one: Progress) -> Progress:
    return new_progress(one.id, match=0, next_index=1, active=False)


def _renumbered(writes: Sequence[Write], numbers: Sequence[int]) -> tuple[Write, ...]:
    """Each numbered by its place in the queue; those that are reported together are one."""
    joined: dict[int, list[Message]] = {}
    for write in writes:
        place = next(place for place, number in enumerate(numbers, 1) if write.number <= number)
        own = joined.setdefault(place, [])
        for message in write.own:
            if isinstance(message, StorageAppendResponse):
                message = evolve(message, number=place)
            if message not in own:  # the disk says the same twice
                own.append(message)
    return tuple([Write(place, tuple(own)) for place, own in joined.items()])
