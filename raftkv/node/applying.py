"""The machine's part of a turn: apply what is committed, take images, forget what is contained.

Slices go on until all is applied or a few milliseconds are over; then the loop runs first. While
the image of an in-memory machine is taken, piece by piece, nothing is applied: its memory is not
doubled, and what is committed meanwhile waits within the bounds of the settings.
"""

from __future__ import annotations

from typing import Final, Protocol

from raftkv.core import (
    Applied,
    ApplyChange,
    Compact,
    Input,
    Snapshot,
    SnapshotTaken,
    State,
)
from raftkv.node.applier import Applier
from raftkv.node.changes import Changes
from raftkv.node.disk import Disk
from raftkv.node.images import Images, snapshot_of
from raftkv.node.retention import (
    History,
    excess,
    forget_memberships,
    is_long,
    membership_at,
    needed,
)
from raftkv.node.sending import Sender
from raftkv.node.settings import Settings
from raftkv.node.status import EventHub, MembershipChanged
from raftkv.node.upkeep import Upkeep
from raftkv.node.waiters import Reads
from raftkv.runtime.base import Clock, Waker
from raftkv.storage.base import AppliedMark

_LITTLE_COMMANDS: Final = 4


class Holder(Protocol):
    """Who holds the core's State."""

    @property
    def state(self) -> State:
        """The State now."""
        ...

    def step(self, given: Input) -> None:
        """Give the core an input."""
        ...


class Applying:
    """Drives one machine. Loop thread only."""

    def __init__(
        self,
        core: Holder,
        settings: Settings,
        clock: Clock,
        waker: Waker,
        disk: Disk,
        applier: Applier,
        images: Images,
        sender: Sender,
        reads: Reads,
        events: EventHub,
        memberships: History,
        upkeep: Upkeep,
        changes: Changes,
    ) -> None:
        self._core = core
        self._settings = settings
        self._apply_ns = round(settings.apply_seconds_max * 1e9)
        self._clock = clock
        self._waker = waker
        self._disk = disk
        self._applier = applier
        self._images = images
        self._sender = sender
        self._reads = reads
        self._events = events
        self._memberships = memberships
        self._upkeep = upkeep
        self._changes = changes

    @property
    def has_work(self) -> bool:
        """Whether there is anything to apply, or an image or a hash to go on with."""
        return self._applier.has_work or self._images.is_taking or self._upkeep.hashes.is_taking

    @property
    def has_little(self) -> bool:
        """Whether there is something to apply, and all of it takes a fraction of a sync's time."""
        applier = self._applier
        return (
            applier.has_work and applier.commands <= _LITTLE_COMMANDS and not self._images.is_taking
        )

    async def turn(self) -> None:
        """Slices until all is applied or the time is up; then the loop gets its turn first."""
        until = self._clock.monotonic_ns() + self._apply_ns
        before = self._applier.mark.index
        while self.has_work:
            if self._images.is_taking:
                taken = self._images.advance(self._disk.batch)
                await self._disk.write()
                if taken:
                    self._core.step(SnapshotTaken(snapshot_of(self._images.taken)))
                    self._compact_if_long()
            elif self._upkeep.hashes.is_taking:
                self._upkeep.hashes.advance()
            else:
                self._apply_next()
                await self._disk.write()
                self._applier.release()
            if self._clock.monotonic_ns() >= until:
                self._waker.set()
                break
        index = self._applier.mark.index
        if index != before:
            self._core.step(Applied(index))
            self._reads.resolve(index)
            self._compact_if_long()

    def offer_image(self) -> None:
        """A peer needs an image and the core knows of none that is new enough."""
        if self._images.must_take:
            self._images.begin(self._applier.mark)
        else:
            self._core.step(SnapshotTaken(snapshot_of(self._applier.mark)))
        self._waker.set()

    def replaced(self, snapshot: Snapshot) -> None:
        """An image takes the machine's place, in the open batch."""
        mark = AppliedMark(snapshot.index, snapshot.term, snapshot.chain, snapshot.membership)
        self._applier.reset(mark)
        self._upkeep.replaced(mark)
        self._memberships[:] = [(snapshot.index, snapshot.membership)]
        self._changes.replaced(snapshot.data, self._core.state, self._disk.batch)

    def _apply_next(self) -> None:
        applier, batch = self._applier, self._disk.batch
        change = applier.next_change()
        if change is None:
            note = applier.next_note()
            if note is None:
                applier.apply_slice(batch)
            else:
                self._upkeep.heed(note, applier)
            return
        self._core.step(ApplyChange(change))
        membership = self._core.state.membership
        applier.changed(membership, batch)
        index = applier.mark.index
        self._memberships.append((index, membership))
        self._changes.applied(index, change, self._core.state, batch)
        self._events.put(MembershipChanged(membership, self._changes.roster.members))

    def _compact_if_long(self) -> None:
        """Forget applied entries beyond the retention; an in-memory machine's image comes first."""
        state, mark, images = self._core.state, self._applier.mark, self._images
        log = state.log
        if not is_long(log, mark.index, self._settings):
            return
        to = excess(log, mark.index, self._settings, needed(state, self._sender.oldest_index()))
        if not to:
            return
        if images.must_take:
            if to > images.taken.index:
                images.begin(mark)
                self._waker.set()
                return
        else:
            self._core.step(SnapshotTaken(snapshot_of(mark)))
        point = Snapshot(
            to, log.term_at(to), log.chain_at(to), membership_at(self._memberships, to)
        )
        self._core.step(Compact(to))
        if self._core.state.log.base_index != to:
            return
        self._disk.compact(point)
        forget_memberships(self._memberships, to)
