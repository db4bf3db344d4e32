"""One member of a simulated cluster: its core, its disk, and its machine."""

from __future__ import annotations

from collections import deque
from enum import Enum
from struct import Struct
from typing import Final
from zlib import crc32

from raftkv.core import (
    Config,
    Entry,
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
        "config",
        "disk",
        "id",
        "incarnation",
        "kind",
        "last_image",
        "machine",
        "pages",
        "paused_until",
        "retired",
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
        self.state: State = self._opened()

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
        self.machine.restore(self._standing())
        self.last_image = self.disk.image.index
        self.state = self._opened()

    def _standing(self) -> Snapshot:
        return self.disk.image if self.kind is MachineKind.MEMORY else self.disk.applied

    def _opened(self) -> State:
        disk, machine = self.disk, self._standing()
        if not disk.base_index:  # a member that is to join, and was told nothing yet
            return start(self.config, hard_state=disk.hard_state, entries=tuple(disk.entries))
        hard = disk.hard_state
        if not self.config.applied_bounds_commit and hard.commit < machine.index:
            # What the core does by itself with that setting: what is applied was committed.
            hard = HardState(hard.term, hard.vote, machine.index)
        base = Snapshot(disk.base_index, disk.base_term, disk.base_chain, machine.membership)
        state = start(
            self.config,
            hard_state=hard,
            snapshot=base,
            entries=tuple(disk.entries),
            applied=machine.index,
            membership=machine.membership,
        )
        return step(state, SnapshotTaken(machine))
