"""One member's disk: what is durable, and numbered writes on their way there, in order.

Deliberately plain (a list of entries, not the core's Log), because it is what the core is judged
by.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from attrs import define, evolve, frozen

from raftkv.core.messages import Message, PeerMessage
from raftkv.core.ready import RecoveringChanged
from raftkv.core.types import Entry, HardState, Promise, Recovering, Snapshot


@frozen(slots=True)
class Write:
    """One atomic batch."""

    number: int
    """Of the Ready that asked for it; 0: the machine did."""
    hard_state: HardState | None = None
    entries: tuple[Entry, ...] = ()
    snapshot: Snapshot | None = None
    """Received: replaces the whole log."""
    after: tuple[PeerMessage, ...] = ()
    """May be sent once this is durable."""
    responses: tuple[Message, ...] = ()
    synced: bool = True
    """Whether somebody waits for it."""
    image: Snapshot | None = None
    """Of the member's own machine; the log may be compacted to it."""
    applied: Snapshot | None = None
    """The durable machine moved here."""
    recovering: RecoveringChanged | None = None


@define(slots=True, eq=False)
class Disk:
    """What would be found after a crash, and what might be found beside it."""

    image: Snapshot
    """Where a machine that lives in memory starts from; at or above ``base``."""
    applied: Snapshot
    """Where the durable machine stands."""
    base_index: int
    base_term: int
    base_chain: int
    entries: list[Entry]
    hard_state: HardState
    queue: deque[Write]
    recovering: Recovering | None = None
    """The mark of a loss that is not made good."""
    promised: Promise | None = None
    """Beside the mark: where the log ended when it was last acknowledged."""

    @classmethod
    def holding(cls, image: Snapshot) -> Disk:
        """A disk with nothing but a machine; position 0 is an empty one."""
        hard_state = HardState(term=image.term, commit=image.index)
        place = (image.index, image.term, image.chain)
        return cls(image, image, *place, [], hard_state, deque())

    @property
    def last_index(self) -> int:
        """Index of the last durable entry."""
        return self.base_index + len(self.entries)

    def chain_at(self, index: int) -> int | None:
        """The chain value of the durable entry at ``index``; None if it is not here (any more)."""
        if index == self.base_index:
            return self.base_chain
        place = index - self.base_index - 1
        return self.entries[place].chain if 0 <= place < len(self.entries) else None

    def copied(self) -> Disk:
        """A copy of what is durable."""
        return evolve(self, entries=[*self.entries], queue=deque[Write]())

    def submit(self, write: Write) -> None:
        """Put a batch behind those under way."""
        self.queue.append(write)

    def complete(self, count: int) -> list[Write]:
        """Make the oldest ``count`` batches durable."""
        done = [self.queue.popleft() for _ in range(count)]
        for write in done:
            self._store(write)
        return done

    def crash(self, kept: int) -> None:
        """Lose all batches under way except the oldest ``kept``, which had reached the platter."""
        self.complete(kept)
        self.queue.clear()

    def compact(self, index: int) -> None:
        """Forget durable entries up to and including ``index``."""
        count = index - self.base_index
        if count <= 0:
            return
        last = self.entries[count - 1]
        self.base_index, self.base_term, self.base_chain = last.index, last.term, last.chain
        del self.entries[:count]

    def _store(self, write: Write) -> None:
        if write.hard_state is not None:
            self.hard_state = write.hard_state
        if write.recovering is not None:
            self.recovering = write.recovering.now
            self.promised = None  # made good, or beyond knowing
        snapshot = write.snapshot
        if snapshot is not None:
            self.base_index, self.base_term = snapshot.index, snapshot.term
            self.base_chain = snapshot.chain
            self.entries.clear()
            self.image = self.applied = snapshot
        if write.entries:
            self._store_entries(write.entries)
        if write.image is not None and write.image.index > self.image.index:
            self.image = write.image
        if write.applied is not None and write.applied.index > self.applied.index:
            self.applied = write.applied

    def _store_entries(self, entries: Iterable[Entry]) -> None:
        # Entries replace everything stored from their first index on; below the base they are
        # known.
        wanted = [entry for entry in entries if entry.index > self.base_index]
        if not wanted:
            return
        place = wanted[0].index - self.base_index - 1
        if place > len(self.entries):
            raise ValueError(
                f"a write would leave a gap: entries end at {self.last_index},"
                f" it starts at {wanted[0].index}"
            )
        del self.entries[place:]
        self.entries.extend(wanted)
