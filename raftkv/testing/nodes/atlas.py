"""Which disk may go wrong, where and when: so that what was committed stays on an intact one.

Two rules, for a run as a whole and for each moment of it. A run damages only some zones of some
members, another run others. And a member may lose something only while enough voters besides it
hold all they ever promised: every entry was committed by a majority, so one of those has it. That
is so for every membership that may come into force, too: a change under way is not taken back
because a disk failed, and two voters of whom one lost everything agree on nothing any more.

One run in twenty heeds neither. Then entries may be gone for good, and the cluster has to stand
still rather than decide anything anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from hashlib import blake2b
from typing import Final, Protocol

from attrs import frozen

from raftkv.testing.choices import Choices
from raftkv.testing.nodes.disk import PLACES, SimDisk, Zone
from raftkv.testing.nodes.store import Operation

_RECKLESS_PER_MILLE: Final = 50
_STALLS_MAX: Final = 5


class _Act(Protocol):
    def __call__(self, disk: SimDisk, choices: Choices, /) -> str | None: ...


@frozen(slots=True)
class DiskFault:
    """Something that a disk can do wrong."""

    name: str
    act: _Act
    """Does it, and says what was done; None if there was nothing to do it to."""
    zone: Zone | None = None
    """Where something may be lost for good; None: nothing is, beyond what a crash loses."""
    while_closed: bool = False
    """Only between the end of a process and the next opening."""


def _flip(zone: Zone) -> DiskFault:
    return DiskFault(f"flip: {zone.value}", lambda disk, choices: disk.flip(zone, choices), zone)


def _alter(zone: Zone) -> DiskFault:
    return DiskFault(f"alter: {zone.value}", lambda disk, choices: disk.alter(zone, choices), zone)


def _fail(operation: Operation) -> DiskFault:
    def act(disk: SimDisk, choices: Choices) -> str:
        disk.fail(operation)
        del choices
        return f"the next {operation.value} fails"

    return DiskFault(f"fails: {operation.value}", act)


def _stall(disk: SimDisk, choices: Choices) -> str:
    disk.troubles.stalls = 1 + choices.choose(_STALLS_MAX)
    return f"the next {disk.troubles.stalls} writes are put off"


def _fill(disk: SimDisk, _choices: Choices) -> str:
    disk.troubles.is_full = True
    return "is full"


DISK_FAULTS: Final = (
    *(_flip(zone) for zone in Zone),
    _alter(Zone.LOG),
    _alter(Zone.META),
    DiskFault("lost write", lambda disk, _choices: disk.lose_write(), Zone.WAL),
    DiskFault("misdirected write", lambda disk, choices: disk.misdirect(choices), Zone.WAL),
    DiskFault("stale read", lambda disk, choices: disk.read_stale(choices), Zone.WAL, True),
    DiskFault("log file lost", lambda disk, _choices: disk.lose_log_file(), Zone.WAL, True),
    DiskFault("store lost", lambda disk, _choices: disk.lose_store(), Zone.ROWS, True),
    DiskFault("copy made", lambda disk, _choices: disk.back_up()),
    DiskFault("copy put back", lambda disk, _choices: disk.put_back(), Zone.ROWS, True),
    *(_fail(operation) for operation in Operation),
    DiskFault("stall", _stall),
    DiskFault("full", _fill),
)
"""Everything an :class:`Atlas` picks from."""


class Atlas:
    """Where disks may be damaged in one run.

    ``is_whole`` tells whether a member is there, or comes back, with all it promised; of each of
    the ``electorates`` a majority has to be so. Drawing it takes two decisions; 0 for both: nothing
    is lost at all.
    """

    def __init__(
        self,
        choices: Choices,
        is_whole: Callable[[str], bool],
        electorates: Callable[[], Collection[Collection[str]]],
    ) -> None:
        self.is_reckless: Final = choices.chance(_RECKLESS_PER_MILLE)
        """Whether nothing is spared, so that the run may end in a standstill."""
        self._salt = choices.choose(PLACES)
        self._is_whole = is_whole
        self._electorates = electorates

    def allows(self, name: str, zone: Zone) -> bool:
        """Whether this zone of a member may be damaged now."""
        if self.is_reckless:
            return True
        return self._is_marked(name, zone) and self.spares_enough(name)

    def spares_enough(self, name: str) -> bool:
        """Whether majorities of the voters are whole without this member."""
        return all(
            2 * sum(one != name and self._is_whole(one) for one in voters) > len(voters)
            for voters in self._electorates()
        )

    def _is_marked(self, name: str, zone: Zone) -> bool:
        if not self._salt:
            return False
        drawn = blake2b(f"{self._salt} {name} {zone.value}".encode(), digest_size=1).digest()
        return drawn[0] % 2 == 1

    def draw(self, name: str, choices: Choices) -> DiskFault | None:
        """A fault for this member's disk; None if the one that was drawn is not allowed."""
        fault = DISK_FAULTS[choices.choose(len(DISK_FAULTS))]
        if fault.zone is not None and not self.allows(name, fault.zone):
            return None
        return fault
