"""When a member that was removed may hear it, and go for good.

A change of membership counts once it is committed, but that it is committed is known, at first, to
its leader alone. Whoever does not know it yet may still need the vote of the one who is leaving:
of two voters one that lost its power in between, or of three a pair that lost the leader. So nobody
ends because it sees its own removal. It stays, answers those who still ask it, and tells them what
is committed; and it goes when it is refused as one who was removed. Members refuse it so only when
the removal is *settled*: known for good, on their disks, to a majority of those who remain.

The leader finds that out. An entry that it appends once it has applied a removal reaches others
together with a commit index that covers the removal, and they store both at once. So when such an
entry is committed, and it has led all the time, the removal is settled. It tells the others, and
whoever knows it tells those that connect::

    SETTLED  41 u8 | index u64     every change of membership up to this index is settled
"""

from __future__ import annotations

from struct import Struct
from typing import Final, Protocol

from raftkv.core import EntryKind, Input, Payload, Propose, Role, State

# The number is on the wire: it never changes.
SETTLED: Final = 41
_FRAME: Final = Struct("<BQ")
_NOTHING: Final = (Payload(EntryKind.NORMAL, b""),)


class Core(Protocol):
    """Who holds the core's State."""

    @property
    def state(self) -> State:
        """The State now."""
        ...

    def step(self, given: Input) -> None:
        """Give the core an input."""
        ...


class Settling:
    """What one member knows of it. Loop thread only."""

    __slots__ = ("_removal_index", "_settled_index", "_since")

    def __init__(self, removal_index: int) -> None:
        self._removal_index = removal_index
        """Of the newest change that removed somebody, or of a later one."""
        self._settled_index = 0
        self._since = (0, 0, 0)  # term, removal, and the end of the log when we led and knew of it

    @property
    def is_settled(self) -> bool:
        """Whether all that were removed may be told so."""
        return self._settled_index >= self._removal_index

    @property
    def frame(self) -> bytes:
        """What to tell others; no bytes: nothing."""
        return _FRAME.pack(SETTLED, self._settled_index) if self._settled_index else b""

    def removed(self, index: int) -> None:
        """The change at ``index`` removed somebody, and is applied here."""
        self._removal_index = max(self._removal_index, index)

    def hear(self, frame: bytes) -> None:
        """Another member tells."""
        if len(frame) == _FRAME.size:
            self._settled_index = max(self._settled_index, _FRAME.unpack(frame)[1])

    def tick(self, core: Core) -> bool:
        """Time passed. Whether the removals that are known have just been settled by us."""
        state = core.state
        removal = self._removal_index
        if state.role is not Role.LEADER or not state.membership.removed:
            return False
        if self.is_settled or state.commit < removal:
            return False
        if self._since[:2] != (state.term, removal):
            self._since = (state.term, removal, state.log.last_index)
        last = self._since[2]
        if state.commit > last:
            self._settled_index = removal
            return True
        if state.log.last_index == last:
            core.step(Propose(_NOTHING))
        return False
