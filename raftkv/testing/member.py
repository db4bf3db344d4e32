"""One member of a simulated cluster: its core, its disk, and its machine."""

from __future__ import annotations

from collections import deque
from enum import Enum
from struct import Struct
from typing import Final
from zlib import crc32

from attrs import evolve

from raftkv.core import (
    Config,
    Entry,
    Guard,
    HardState,
    Membership,
    Snapshot,
    SnapshotTaken,
    State,
    start,
    step,
)
from raftkv.testing.disk import Disk

_VALUE: Final = Struct("<I")


class MachineKind(Enum):
    """Where a machine's state survives a crash."""

    MEMORY = "memory"  # nowhere: it starts again from the newest image
    DURABLE = "durable"  # in the member's own writes, behind the log it stands on
    APART = "apart"  # on a disk of its own, which may be ahead of what the log's disk knows


class Machine:
    """A register of everything applied: its value is a checksum over all of it, in order."""

    __slots__ = ("chain", "index", "membership", "term", "value")

    def __init__(self, image: Snapshot) -> None:
        self.index = 0
        self.term = 0
        self.chain = 0
        self.value = 0
        self.membership = Membership()
        self.restore(image)

    def apply(self, entry: Entry) -> None:
        """Take the next entry."""
        self.index = entry.index
        self.term = entry.term
        self.chain = entry.chain
        self.value = crc32(entry.data, self.value)

    def image(self) -> Snapshot:
        """All of it, at where it stands."""
        data = _VALUE.pack(self.value)
        return Snapshot(self.index, self.term, self.chain, self.membership, data)

    def restore(self, image: Snapshot) -> None:
        """Become what the image was taken of."""
        self.index, self.term, self.chain = image.index, image.term, image.chain
        self.membership = image.membership
        self.value = _VALUE.unpack(image.data)[0] if image.data else 0


class Member:
    """A process on a machine of its own. While it is down, ``state`` is the last it had."""

    __slots__ = (
        "alive",
        "backup",
        "config",
        "disk",
        "forgot",
        "guard",
        "id",
        "incarnation",
        "installed",
        "kind",
        "last_image",
        "lost_to",
        "machine",
        "pages",
        "paused_until",
        "regressed",
        "retired",
        "snapshot_terms",
        "state",
        "tick_units",
    )

    def __init__(self, config: Config, image: Snapshot, kind: MachineKind) -> None:
        self.id = config.id
        self.config = config
        self.kind = kind
        self.disk = Disk.holding(image)
        self.machine = Machine(image)
        self.pages: deque[Entry] = deque()
        self.alive = True
        self.retired = False
        self.incarnation = 0
        self.paused_until = 0
        self.tick_units = 0
        self.last_image = image.index
        self.backup: Disk | None = None
        """An old copy of the disk, which somebody may put back."""
        self.regressed = False
        """The disk is an old copy, which only peers can tell."""
        self.forgot = False
        """It once lost its votes."""
        self.installed = 0
        """How many snapshots it has taken over."""
        self.snapshot_terms: set[int] = set()
        """In which terms it was sent snapshots."""
        self.lost_to = 0
        """While it recovers: where its log ended before."""
        self.state: State = self._opened()
        self.guard = Guard(self.state)

    @property
    def recovers(self) -> bool:
        """Whether it lost something and is not whole again, be it up or down."""
        if self.alive:
            return self.state.recovery is not None
        return self.disk.recovering is not None or self.regressed

    def crash(self, kept: int) -> None:
        """Lose everything but what is durable, and what of the oldest ``kept`` writes got there."""
        self.alive = False
        self.incarnation += 1
        self.disk.crash(kept)
        self.pages.clear()

    def restart(self) -> None:
        """Open the disk again."""
        self.alive = True
        self.paused_until = 0
        self.machine.restore(self.standing)
        self.last_image = self.disk.image.index
        self.state = self._opened()
        self.guard = Guard(self.state)

    @property
    def standing(self) -> Snapshot:
        """Where the machine would be after a restart."""
        return self.disk.image if self.kind is MachineKind.MEMORY else self.disk.applied

    def _opened(self) -> State:
        disk, machine = self.disk, self.standing
        config = self.config
        if disk.recovering is not None or self.regressed:
            # Another seed at each start: it names the recovery.
            config = evolve(config, seed=(self.id << 32) + self.incarnation)
        if not disk.base_index:  # it is to join and was told nothing yet, or has lost everything
            return start(
                config,
                hard_state=disk.hard_state,
                entries=tuple(disk.entries),
                recovering=disk.recovering,
                promised=disk.promised,
            )
        hard = disk.hard_state
        if not self.config.applied_bounds_commit and hard.commit < machine.index:
            # What the core does by itself with that setting: what is applied was committed.
            hard = HardState(hard.term, hard.vote, machine.index)
        base = Snapshot(disk.base_index, disk.base_term, disk.base_chain, machine.membership)
        state = start(
            config,
            hard_state=hard,
            snapshot=base,
            entries=tuple(disk.entries),
            applied=machine.index,
            membership=machine.membership,
            recovering=disk.recovering,
            promised=disk.promised,
        )
        return step(state, SnapshotTaken(machine))
