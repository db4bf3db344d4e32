"""One member as a value: its core, its disk and the writes under way; and what happens to it."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from raftkv.core import (
    Config,
    Entry,
    HardState,
    Log,
    MembershipChange,
    PeerMessage,
    Snapshot,
    SnapshotTaken,
    State,
    start,
    step,
)


@frozen(slots=True)
class Timeout:
    """The election timeout passes: every tick of it at once, since only the last one decides."""


@frozen(slots=True)
class Beat:
    """The heartbeat timeout of a leader passes."""


@frozen(slots=True)
class Proposal:
    """A client proposes."""

    data: bytes


@frozen(slots=True)
class ChangeProposal:
    """An operator proposes a membership change."""

    change: MembershipChange


@frozen(slots=True)
class Arrival:
    """A message arrives."""

    message: PeerMessage


@frozen(slots=True)
class WriteDone:
    """The oldest write under way is durable."""


@frozen(slots=True)
class Crash:
    """The process dies and starts again; the oldest ``kept`` writes under way were durable."""

    kept: int


@frozen(slots=True)
class TakeImage:
    """An image of the machine is taken and stored, and the log compacted to it."""


Happening = Timeout | Beat | Proposal | ChangeProposal | Arrival | WriteDone | Crash | TakeImage
"""What can happen at one member."""


@frozen(slots=True)
class Write:
    """One atomic batch on its way to the disk. Its number is its place in the queue, from 1 on."""

    hard_state: HardState | None
    entries: tuple[Entry, ...]
    snapshot: Snapshot | None
    after: tuple[PeerMessage, ...]
    """May be sent once this is durable."""


@frozen(slots=True)
class Stored:
    """What a restart would find."""

    hard_state: HardState
    image: Snapshot
    """What the machine starts from; at or above the log's base."""
    log: Log

    def after(self, write: Write) -> Stored:
        """With one write more on it."""
        hard_state = self.hard_state if write.hard_state is None else write.hard_state
        image, log = self.image, self.log
        snapshot = write.snapshot
        if snapshot is not None:
            image = snapshot
            log = Log.starting_at(snapshot.index, snapshot.term, snapshot.chain)
        entries = tuple([one for one in write.entries if one.index > log.base_index])
        if entries:
            if entries[0].index <= log.last_index:
                log = log.truncate(entries[0].index)
            log = log.append(entries)
        return Stored(hard_state, image, log)


@frozen(slots=True)
class Local:
    """One member."""

    state: State
    stored: Stored
    queue: tuple[Write, ...]
    """Writes under way, oldest first."""


def in_order(messages: Iterable[PeerMessage]) -> tuple[PeerMessage, ...]:
    """By receiver: links are independent, so only the order within each of them matters."""
    return tuple(sorted(messages, key=_receiver))


def _receiver(message: PeerMessage) -> int:
    return message.to


def founded(image: Snapshot) -> Stored:
    """The disk of a member with nothing but an image; of index 0: of one that is to join."""
    log = Log.starting_at(image.index, image.term, image.chain)
    return Stored(HardState(term=image.term, commit=image.index), image, log)


def opened(config: Config, stored: Stored) -> State:
    """The core of a member that opens its disk."""
    image, log = stored.image, stored.log
    if not log.base_index:  # it is to join, and was told nothing yet
        return start(config, hard_state=stored.hard_state, entries=tuple(log.entries()))
    hard_state = stored.hard_state
    if hard_state.commit < image.index:
        hard_state = HardState(hard_state.term, hard_state.vote, image.index)
    state = start(
        config,
        hard_state=hard_state,
        snapshot=Snapshot(log.base_index, log.base_term, log.base_chain, image.membership),
        entries=tuple(log.entries()),
        applied=image.index,
        membership=image.membership,
    )
    return step(state, SnapshotTaken(image))
