"""What an input makes of a member: what an embedder of the core does, as a function.

Everything that follows from the input happens at once: all Readies are taken and worked off,
messages leave, committed entries are applied. Only writes take time: they wait in a queue until
the happening :class:`WriteDone` finishes the oldest, and a crash loses those it does not keep.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, assert_never

from attrs import evolve, frozen

from raftkv.core import (
    Applied,
    ApplyChange,
    Compact,
    Config,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    Input,
    Message,
    Payload,
    PeerMessage,
    Persisted,
    Propose,
    ProposeChange,
    Ready,
    Receive,
    Snapshot,
    SnapshotTaken,
    State,
    StorageAppendResponse,
    Tick,
    decode_change,
    has_ready,
    ready,
    refuses,
    step,
)
from raftkv.testing.explore.laws import LocalLaws, News
from raftkv.testing.explore.local import (
    Arrival,
    Beat,
    ChangeProposal,
    Crash,
    Happening,
    Local,
    Proposal,
    Stored,
    TakeImage,
    Timeout,
    Write,
    WriteDone,
    in_order,
    opened,
)
from raftkv.testing.explore.normal import Normal

_READIES_MAX: Final = 100
"""Far more than one input can cause; work without end is a finding."""


@frozen(slots=True)
class Outcome:
    """What a happening made of a member, and what others are told."""

    local: Local
    sent: tuple[PeerMessage, ...]
    news: News | None


@frozen
class Driver:
    """Drives members of one kind of world; ``slow_disks``: writes take time."""

    normal: Normal
    slow_disks: bool = True

    def first(self, config: Config, stored: Stored) -> Local:
        """A member that starts."""
        work = _Work(Local(opened(config, stored), stored, ()), slow_disks=self.slow_disks)
        work.drain()
        return self._local(work)

    def advance(self, local: Local, happening: Happening) -> Outcome:
        """What a happening leads to. Raises ViolationError, and whatever the core raises."""
        work = _Work(local, slow_disks=self.slow_disks)
        work.take(happening)
        work.drain()
        sent = tuple([_timeless(message) for message in work.sent])
        return Outcome(self._local(work), sent, work.laws.news())

    def _local(self, work: _Work) -> Local:
        state = self.normal.state(work.state, work.numbers)
        return Local(state, work.stored, tuple(work.queue))


def _timeless(message: PeerMessage) -> PeerMessage:
    """Without the leader's clock, which is asked by leases alone."""
    match message:
        case Heartbeat() | HeartbeatResponse() if message.sent_tick:
            return evolve(message, sent_tick=0)
        case _:
            return message


class _Work:
    """A member while a happening is worked off."""

    def __init__(self, local: Local, *, slow_disks: bool) -> None:
        self.state = local.state
        self.stored = local.stored
        self.queue = list(local.queue)
        self.numbers = list(range(1, len(self.queue) + 1))
        """Of the Readies, one for each write in the queue."""
        self.sent: list[PeerMessage] = []
        self.slow_disks = slow_disks
        self.laws = LocalLaws(local.state.id)

    def feed(self, event: Input) -> None:
        before = self.state
        self.state = step(before, event)
        self.laws.stepped(before, self.state)

    def take(self, happening: Happening) -> None:
        match happening:
            case Timeout():
                elapsed = self.state.timeout_ticks - 1
                self.state = evolve(self.state, election_elapsed=elapsed)
                self.feed(Tick())
            case Beat():
                self.feed(Tick())
            case Proposal():
                self.feed(Propose((Payload(EntryKind.NORMAL, happening.data),)))
            case ChangeProposal():
                self.feed(ProposeChange(happening.change))
            case Arrival():
                if refuses(self.state, happening.message) is None:
                    self.feed(Receive(happening.message))
            case WriteDone():
                self.finish_oldest()
            case Crash():
                self.crash(happening.kept)
            case TakeImage():
                self.take_image()
            case _:
                assert_never(happening)

    def drain(self) -> None:
        for _ in range(_READIES_MAX):
            if not has_ready(self.state):
                return
            self.state, todo = ready(self.state)
            self.work_off(todo)
        raise self.laws.endless()

    def work_off(self, todo: Ready) -> None:
        self.laws.leave_at_once(todo.messages)
        self.sent += todo.messages
        if todo.alarms:
            raise self.laws.alarmed(todo.alarms)
        if todo.hard_state or todo.entries or todo.snapshot or todo.responses:
            self.submit(todo)
        for entry in todo.committed:
            if entry.kind is not EntryKind.NORMAL:
                before = self.state
                self.feed(ApplyChange(decode_change(entry.data)))
                self.laws.changed_membership(before, self.state)
        if todo.committed:
            self.feed(Applied(todo.committed[-1].index))
        if todo.snapshot_wanted:
            self.feed(SnapshotTaken(self.image()))

    def submit(self, todo: Ready) -> None:
        after = in_order(todo.messages_after_persist)
        write = Write(todo.hard_state, todo.entries, todo.snapshot, after)
        if todo.must_sync or todo.snapshot or has_answers(todo.responses):
            self.queue.append(write)
            self.numbers.append(todo.number)
            if not self.slow_disks:
                self.finish_oldest()
        # Nobody waits for a commit index alone: it goes with the write before it, or at once.
        elif self.queue:
            if todo.hard_state is not None:
                self.queue[-1] = evolve(self.queue[-1], hard_state=todo.hard_state)
            self.numbers[-1] = todo.number
        else:
            self.stored = self.stored.after(write)
            self.feed(Persisted(todo.number))

    def finish_oldest(self) -> None:
        write = self.queue.pop(0)
        number = self.numbers.pop(0)
        self.store(write)
        for message in write.after:
            self.laws.leave_after_write(self.stored, message)
        self.sent += write.after
        self.feed(Persisted(number))

    def store(self, write: Write) -> None:
        before = self.stored
        self.stored = before.after(write)
        self.laws.store(before, self.stored)

    def crash(self, kept: int) -> None:
        for write in self.queue[:kept]:
            self.store(write)
        self.queue.clear()
        self.numbers.clear()
        self.state = opened(self.state.config, self.stored)
        self.laws.reopened(self.stored, self.state)

    def image(self) -> Snapshot:
        state, log = self.state, self.state.log
        index = state.applied
        return Snapshot(index, log.term_at(index), log.chain_at(index), state.membership)

    def take_image(self) -> None:
        image = self.image()
        self.feed(SnapshotTaken(image))
        self.feed(Compact(image.index))
        base = self.state.log.base_index
        if base == image.index:
            stored = self.stored
            self.stored = Stored(stored.hard_state, image, stored.log.compact(base))


def has_answers(responses: Iterable[Message]) -> bool:
    """Whether a write is waited for by votes or acknowledgements, the member's own included."""
    return any(not isinstance(one, StorageAppendResponse) for one in responses)


def image_helps(state: State) -> bool:
    """Whether there is anything that an image would compact now."""
    return state.log.base_index < state.applied < state.unstable and state.incoming is None
