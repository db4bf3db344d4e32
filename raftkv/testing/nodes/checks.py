"""What must hold in a cluster of whole nodes, after every step of any core and in every run.

The invariants of the cores are those of bare ones (:class:`raftkv.testing.invariants.Checker`);
here is what it needs to see whole nodes: what of a member is durable, from its watched storage;
what leaves it, from the frames on the network; and what its core is given. What only whole nodes
have comes on top: equal rows at equal applied indexes, bounds of queues, boots that count up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from attrs import define, field

from raftkv.core import (
    ApplyChange,
    EntryKind,
    Input,
    Membership,
    Read,
    State,
)
from raftkv.errors import Error, WireError
from raftkv.handle import Node
from raftkv.node.roster import FIRST_INDEX
from raftkv.node.settings import Settings
from raftkv.storage.base import Reader, Storage
from raftkv.testing.branches import note
from raftkv.testing.invariants import Checker, ViolationError, broken
from raftkv.testing.nodes.chronicle import Chronicle
from raftkv.testing.nodes.durable import Record, WatchedStorage
from raftkv.transport.codec import decode_messages

_READS_REMEMBERED: Final = 4096


@define(eq=False)
class _Machine:
    """How far a member's machine is, and what it holds, as far as the core's checker asks."""

    index: int = 0
    value: int = 0


@define(eq=False)
class Subject:
    """One member as its invariants see it."""

    id: int
    name: str
    state: State
    disk: Record
    machine: _Machine = field(factory=_Machine)
    change_index: int = 0
    """Index of the last membership change that it applied."""

    @property
    def forgot(self) -> bool:
        """Whether it once lost its votes."""
        return self.disk.forgot

    @property
    def lost_to(self) -> int:
        """While it recovers: where its log ended before."""
        return self.disk.lost_to

    @property
    def recovers(self) -> bool:
        """Whether it lost something and is not whole again."""
        return self.disk.excused or self.state.recovery is not None


class NodeChecks:
    """The invariants of one run."""

    def __init__(
        self, settings: Settings, marks: Counter[str], chronicle: Chronicle | None = None
    ) -> None:
        """``chronicle`` is told what is applied, where members run the key-value store."""
        self.marks = marks
        self._chronicle = chronicle
        self.subjects: dict[int, Subject] = {}
        self.checker = Checker(self.subjects, marks, FIRST_INDEX)
        self.names: dict[int, str] = {}
        self._settings = settings
        self._records: dict[int, Record] = {}
        self._boots: dict[int, int] = {}
        self._rows: dict[int, int] = {}
        """Applied index -> digest of the machine's rows there, from whoever was there first."""
        self._floors: dict[tuple[int, bytes], int] = {}
        """(member, read) -> what was committed anywhere when it was asked."""

    # --- storages ---------------------------------------------------------------------------------

    def record(self, member: int) -> Record:
        """What is known of a member's disk."""
        record = self._records.get(member)
        if record is None:
            record = self._records[member] = Record(member)
        return record

    def watch(self, storage: Storage) -> Storage:
        """A storage just opened, seen by these checks from now on."""
        identity = storage.identity
        member = identity.member_id
        record = self.record(member)
        before = self._boots.get(member, 0)
        if identity.boot <= before and not record.excused:
            raise broken("I23", f"n{member} opens for the {identity.boot}th time after {before}")
        self._boots[member] = identity.boot
        return WatchedStorage(
            storage,
            record,
            lambda index, rows, store: self._applied(member, index, rows, store),
        )

    def _applied(self, member: int, index: int, rows: int, store: Reader) -> None:
        """I13, I31: equal rows at equal applied index."""
        if self._rows.setdefault(index, rows) != rows:
            raise broken("I13", f"the rows of n{member} differ from others' at {index}")
        if self._chronicle is not None:
            self._chronicle.applied(store)

    # --- steps ------------------------------------------------------------------------------------

    def started(self, name: str, state: State) -> None:
        """A core begins."""
        member = state.config.id
        self.names[member] = name
        record = self.record(member)
        self.subjects[member] = Subject(member, name, state, record, change_index=state.applied)
        if self.checker.newest_membership is None and state.membership != Membership():
            self.checker.newest_membership = state.membership

    def stepped(self, before: State, given: Input, after: State) -> None:
        """After a step of a core."""
        subject = self.subjects[after.config.id]
        subject.state = after
        self.checker.stepped(subject, before, after)
        note(self.marks, before, given, after)
        if type(given) is ApplyChange:
            self._changed(subject, after)
        elif type(given) is Read:
            self._floors[subject.id, given.context] = self.checker.last_committed
            if len(self._floors) > _READS_REMEMBERED:
                del self._floors[next(iter(self._floors))]
        if after.incoming is not None and after.incoming is not before.incoming:
            subject.change_index = max(subject.change_index, after.incoming.index)
        if after.outbox.reads is not before.outbox.reads:
            self._answered(subject, before, after)

    def _answered(self, subject: Subject, before: State, after: State) -> None:
        for read in after.outbox.reads[len(before.outbox.reads) :]:
            floor = self._floors.pop((subject.id, read.context), None)
            if floor is not None:
                self.marks["read answered"] += 1
                self.checker.answered(subject, read, floor)

    def _changed(self, subject: Subject, after: State) -> None:
        """A membership change was applied: which one it was, the log tells."""
        log = after.log
        first = max(subject.change_index + 1, log.first_index)
        for entry in log.slice(first, after.commit + 1):
            if entry.kind is not EntryKind.NORMAL:
                subject.change_index = entry.index
                self.checker.membership_changed(subject, entry.index, after.membership)
                return
        raise broken("I19", f"n{subject.id} applies a change that its log does not have")

    # --- frames -----------------------------------------------------------------------------------

    def leaves(self, sender: int, frame: bytes) -> None:
        """I9: before a frame of consensus leaves a member."""
        subject = self.subjects.get(sender)
        if subject is None:
            return
        try:
            messages = decode_messages(frame)
        except WireError as error:
            raise broken("I9", f"n{sender} sends what nobody can read: {error}") from error
        for message in messages:
            if message.sender == sender:
                self.checker.leaves_after_write(subject, message)

    # --- the whole --------------------------------------------------------------------------------

    def sweep(self, nodes: Mapping[str, Node[object]]) -> None:
        """What is not keyed by one step; called now and then."""
        self.checker.sweep()
        settings = self._settings
        for name, node in nodes.items():
            try:
                status = node.status()
            except Error:
                continue  # it is being closed
            for what, count, most in (
                ("commands", status.outstanding_commands, settings.outstanding_commands_max),
                ("reads", status.outstanding_reads, settings.outstanding_reads_max),
            ):
                if count > most:
                    raise broken("I51", f"{name} has {count} {what} outstanding, at most {most}")

    def in_words(self, violation: ViolationError) -> str:
        """What is broken, with names in the place of ids."""
        text = violation.broken
        for member, name in self.names.items():
            text = text.replace(f"n{member}", name).replace(str(member), name)
        return text
