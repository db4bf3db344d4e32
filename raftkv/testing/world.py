"""A simulated cluster: bare cores, what connects them, and everything that can happen to them.

:class:`World` says what each happening does, not when it happens: a subclass, or a test, decides
that through the three hooks and by calling the methods. It is also the shortest complete example
of how to drive the core (:meth:`World.work` does the work of a Ready in the order that Ready asks
for).
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define

from raftkv.core import (
    APPLY_THREAD,
    Accepted,
    Applied,
    ApplyChange,
    Compact,
    Entry,
    EntryKind,
    Input,
    InstallSnapshot,
    Membership,
    MembershipChange,
    Message,
    Payload,
    Persisted,
    Propose,
    ProposeChange,
    Read,
    ReadState,
    Ready,
    Receive,
    Regressed,
    Role,
    Snapshot,
    SnapshotTaken,
    State,
    StorageApplyResponse,
    decode_change,
    has_ready,
    ready,
    refuses,
    step,
)
from raftkv.core.log import chain_of
from raftkv.testing.branches import note
from raftkv.testing.disk import Write
from raftkv.testing.invariants import WAITS_FOR_DISK, Checker, broken, reads_checked
from raftkv.testing.marks import Marks
from raftkv.testing.member import MachineKind, Member
from raftkv.testing.options import Options
from raftkv.testing.story import Kind, StoryWriter, is_idle
from raftkv.testing.trace import Note, Trace

FIRST_TERM = 1
FIRST_INDEX = 1
_READIES_MAX = 10_000  # far more than any input can cause


@define(slots=True)
class Question:
    """A read that was asked and may be answered."""

    node: int
    floor: int
    """What was committed anywhere when it was asked."""
    lease: bool
    """Whether it is answered by the clock (I25), not by asking a quorum (I24)."""


class World:
    """The members of one cluster and the laws they live under."""

    def __init__(self, options: Options, trace: Trace | None = None) -> None:
        self.options = options
        self.trace = trace or Trace()
        self.writer: StoryWriter | None = None
        """Told everything, if somebody wants the whole story."""
        self.marks = Marks()
        self.now = 0
        self.steps = 0
        self.members: dict[int, Member] = {}
        # A snapshot stands at the beginning, so that who joins must be sent one: the log alone does
        # not tell the first membership.
        voters = tuple(range(1, options.voters + 1))
        learners = tuple(range(options.voters + 1, options.voters + options.learners + 1))
        first = Membership(voters, (), learners)
        chain = chain_of(0, FIRST_TERM, FIRST_INDEX, EntryKind.NORMAL, b"")
        self.first = Snapshot(FIRST_INDEX, FIRST_TERM, chain, first)
        self.checker = Checker(self.members, self.marks, FIRST_INDEX)
        self.checker.newest_membership = first
        self.questions: dict[bytes, Question] = {}
        self.requests = 0
        self.proposed: dict[int, tuple[bytes, ...]] = {}
        """Payloads by request, until they are given their places."""
        for node in first.members():
            self.members[node] = Member(options.config(node), self.first, options.machine)

    # --- hooks ------------------------------------------------------------------------------

    def on_message(self, message: Message) -> None:
        """A message leaves its sender."""

    def on_write(self, member: Member, write: Write) -> None:
        """A batch was queued behind those under way; call :meth:`finish_writes` some time."""

    def on_pages(self, member: Member) -> None:
        """Committed entries wait to be applied; call :meth:`apply` some time."""

    def on_start(self, member: Member) -> None:
        """A member was added to the world, or restarted."""

    # --- the core's contract ----------------------------------------------------------------

    def feed(self, member: Member, event: Input) -> None:
        """One input, and nothing of what follows from it."""
        before = member.state
        after = step(before, event)
        member.state = after
        self.steps += 1
        self.trace.append((self.now, member.id, event, after))
        if self.writer is not None:
            self._tell(self.writer, member, before, event)
        self.checker.stepped(member, before, after)
        note(self.marks, before, event, after)

    def work(self, member: Member) -> None:
        """Everything that the core asks for."""
        for _ in range(_READIES_MAX):
            if not has_ready(member.state):
                return
            member.state, todo = ready(member.state)
            member.guard.check(member.state, todo)
            self._work_off(member, todo)
        raise broken("I51", f"n{member.id} has work without end")

    def _work_off(self, member: Member, todo: Ready) -> None:
        for message in todo.messages:
            if type(message) in WAITS_FOR_DISK or message.to == member.id:
                self.checker.leaves_at_once(member, message)
            self.on_message(message)
        if todo.alarms:
            raise broken("I11", f"n{member.id} was sent what does not continue it: {todo.alarms}")
        if todo.hard_state or todo.entries or todo.snapshot or todo.responses or todo.recovering:
            write = Write(
                todo.number,
                todo.hard_state,
                todo.entries,
                todo.snapshot,
                todo.messages_after_persist,
                todo.responses,
                bool(todo.must_sync or todo.responses),
                recovering=todo.recovering,
            )
            self._submit(member, write)
        if todo.committed:
            member.pages.extend(todo.committed)
            if member.config.async_storage_writes:
                self.on_pages(member)
            else:
                self.apply(member, len(member.pages))
        for read in todo.reads:
            self._answer(member, read)
        for answer in todo.answers:
            if isinstance(answer, Accepted):
                self.marks["accepted"] += 1
                for index, data in enumerate(self.proposed.pop(answer.request, ()), answer.first):
                    self.checker.accepted[answer.term, index] = data
            else:
                self.marks[f"refused: {answer.reason.name}"] += 1
        if todo.dropped_reads:
            self.marks["read dropped"] += len(todo.dropped_reads)
        if todo.snapshot_wanted:
            self.take_image(member)

    def finish_writes(self, member: Member, count: int) -> None:
        """The oldest ``count`` batches are durable: what waited for them may leave."""
        number = 0
        single = self.options.single_reports
        for write in member.disk.complete(count):
            if write.image is not None:
                self._image_stored(member, write.image)
            if write.snapshot is not None:
                self._snapshot_stored(member, write.snapshot)
            if single:
                self._report_singly(member, write)
                continue
            for message in write.after:
                self.checker.leaves_after_write(member, message)
                self.on_message(message)
            if write.synced:
                number = max(number, write.number)
        if number:
            self.feed(member, Persisted(number))

    def _report_singly(self, member: Member, write: Write) -> None:
        for message in write.responses:
            if message.to != member.id:
                self.checker.leaves_after_write(member, message)
                self.on_message(message)
            else:
                self.feed(member, Receive(message))

    def _snapshot_stored(self, member: Member, snapshot: Snapshot) -> None:
        if snapshot.index <= member.machine.index:
            return
        member.pages.clear()
        member.machine.restore(snapshot)
        member.last_image = snapshot.index
        self.checker.restored(member, member.machine)
        self.marks["snapshot installed"] += 1
        member.installed += 1
        if member.installed > 1:
            self.marks["snapshot installed again"] += 1

    def apply(self, member: Member, count: int) -> None:
        """The machine takes the next ``count`` committed entries."""
        pages = member.pages
        incoming = member.state.incoming
        if incoming is not None:
            # The core has the snapshot's membership already: older changes must not act on it.
            pages.clear()
        done: list[Entry] = []
        while pages and len(done) < count:
            entry = pages.popleft()
            self.checker.applies(member, entry)
            member.machine.apply(entry)
            if entry.kind is not EntryKind.NORMAL:
                self._apply_change(member, entry)
            self.checker.applied(member, entry)
            done.append(entry)
        if not done:
            return
        if self.options.single_reports:
            response = StorageApplyResponse(APPLY_THREAD, member.id, tuple(done))
            self.feed(member, Receive(response))
        else:
            self.feed(member, Applied(done[-1].index))
        self._keep_machine(member)
        if 0 < self.options.image_entries <= member.machine.index - member.last_image:
            self.take_image(member)

    def _apply_change(self, member: Member, entry: Entry) -> None:
        self.feed(member, ApplyChange(decode_change(entry.data)))
        member.machine.membership = member.state.membership
        self.checker.membership_changed(member, entry.index, member.state.membership)

    def _keep_machine(self, member: Member) -> None:
        """Note durably where the machine stands, if it is of that kind."""
        match self.options.machine:
            case MachineKind.MEMORY:
                pass
            case MachineKind.DURABLE:
                self._submit(member, Write(0, applied=member.machine.image(), synced=False))
            case MachineKind.APART:
                member.disk.applied = member.machine.image()

    def take_image(self, member: Member) -> None:
        """An image of the machine; known to the core, and compacted to, once it is durable."""
        member.last_image = member.machine.index
        self._submit(member, Write(0, image=member.machine.image(), synced=False))

    def _image_stored(self, member: Member, image: Snapshot) -> None:
        self.feed(member, SnapshotTaken(image))
        index = min(image.index, member.disk.applied.index)
        if self.options.machine is MachineKind.MEMORY:
            index = image.index
        index -= self.options.retention
        if index > member.state.log.base_index:
            self.feed(member, Compact(index))
            member.disk.compact(member.state.log.base_index)

    def _submit(self, member: Member, write: Write) -> None:
        member.disk.submit(write)
        if member.config.async_storage_writes:
            self.on_write(member, write)
        else:
            self.finish_writes(member, len(member.disk.queue))

    # --- what comes from outside ------------------------------------------------------------

    def deliver(self, message: Message) -> None:
        """A message arrives; lost if nobody is there."""
        member = self.members.get(message.to)
        if member is None or not member.alive:
            return
        if refuses(member.state, message) is not None:
            self.marks["message refused"] += 1
            return
        if isinstance(message, InstallSnapshot):
            self.marks["snapshot arrived"] += 1
            member.snapshot_terms.add(message.term)
            if len(member.snapshot_terms) > 1:
                self.marks["snapshots of two leaders"] += 1
        self.feed(member, Receive(message))

    def propose(self, member: Member, payloads: tuple[bytes, ...]) -> None:
        """Ask a member to replicate payloads."""
        self.requests += 1
        self.proposed[self.requests] = payloads
        entries = tuple(Payload(EntryKind.NORMAL, data) for data in payloads)
        self.feed(member, Propose(entries, self.requests))

    def propose_change(self, member: Member, change: MembershipChange, *, single: bool) -> None:
        """Ask a member to change the membership."""
        self.requests += 1
        self.feed(member, ProposeChange(change, single, self.requests))

    def read(self, member: Member, *, lease: bool = False) -> None:
        """Ask a member at which index a read is linearizable now."""
        self.requests += 1
        context = self.requests.to_bytes(4, "big")
        self.questions[context] = Question(member.id, self.checker.last_committed, lease)
        self.feed(member, Read(context, lease))

    def _answer(self, member: Member, read: ReadState) -> None:
        question = self.questions.get(read.context)
        if question is None or question.node != member.id:
            raise broken("I24", f"n{member.id} answers a read that it was not asked: {read}")
        self.marks["read answered"] += 1
        lone = len(self.members) == 1 or len(member.state.membership.voters) == 1
        if reads_checked(member.config, single_voter=lone):
            self.checker.answered(member, read, question.floor, lease=question.lease)

    # --- processes --------------------------------------------------------------------------

    def crash(self, member: Member, kept: int) -> None:
        """A member dies; the oldest ``kept`` of its writes under way had become durable."""
        under_way = len(member.disk.queue)
        if member.state.incoming is not None:
            self.marks["crash with a snapshot under way"] += 1
        member.crash(kept)
        self.marks["crash"] += 1
        if self.is_changing():
            self.marks["fault during a change"] += 1
        if kept < under_way:
            self.marks["write lost"] += 1
        self.note(f"crash: {kept} of {under_way} writes were durable", member, kind=Kind.CRASH)

    def restart(self, member: Member) -> None:
        """A member opens its disk again."""
        member.restart()
        self.checker.restored(member, member.machine)
        self.marks["restart"] += 1
        self.note("restart", member, seen=True, kind=Kind.START)
        self.on_start(member)
        if member.regressed:
            member.regressed = False
            self.feed(member, Regressed())

    def spawn(self) -> Member:
        """A new member with an empty disk, which nobody knows yet. Ids are never used again."""
        node = max(self.members) + 1
        member = Member(self.options.config(node), Snapshot(0, 0), self.options.machine)
        self.members[node] = member
        self.marks["spawned"] += 1
        self.note("a new member", member, seen=True, kind=Kind.START)
        self.on_start(member)
        return member

    def note(
        self,
        text: str,
        member: Member | None = None,
        *,
        message: Message | None = None,
        seen: bool = False,
        kind: Kind = Kind.NOTE,
    ) -> None:
        """Put what the world did into the trace; ``seen``: with the member's state."""
        node = 0 if member is None else member.id
        state = member.state if seen and member is not None else None
        self.trace.append((self.now, node, Note(text, message), state))
        if self.writer is not None and message is None:
            name = None if member is None else f"n{member.id}"
            self.writer.event(self.now, name, kind, text, state)

    def _tell(self, writer: StoryWriter, member: Member, before: State, event: Input) -> None:
        if is_idle(before, event, member.state):
            return
        kind = _KINDS.get(type(event), Kind.INPUT)
        writer.event(self.now, f"n{member.id}", kind, event, member.state)

    def leader(self) -> Member | None:
        """The living leader of the highest term, if there is one."""
        leaders = [
            member
            for member in self.members.values()
            if member.alive and member.state.role is Role.LEADER
        ]
        return max(leaders, key=_term_of) if leaders else None

    def is_changing(self) -> bool:
        """Whether a membership change is proposed and not applied by everybody, or joint."""
        newest = self.checker.newest_membership
        if newest is not None and newest.is_joint:
            return True
        leader = self.leader()
        if leader is None:
            return False
        log, applied = leader.state.log, leader.state.applied
        unapplied = log.slice(max(applied + 1, log.first_index), log.last_index + 1)
        return any(entry.kind is not EntryKind.NORMAL for entry in unapplied)

    def living(self) -> list[Member]:
        """Everybody who is up, by id."""
        return [member for member in self.members.values() if member.alive]


_KINDS: Mapping[type, Kind] = {Persisted: Kind.SYNC, Applied: Kind.APPLY, ApplyChange: Kind.APPLY}


def _term_of(member: Member) -> int:
    return member.state.term
