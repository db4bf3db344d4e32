"""Membership changes on their way, and what follows from those that are applied.

A change is built anew for every attempt, from the members as they are known then, and proposed; the
leader's core decides. What it refuses because of the moment (no leader, another change under way)
is tried again with the next tick, until the caller's deadline. When it is applied here, names and
addresses are kept in the roster, the transport learns whom to connect to, and its caller hears.

Nothing here decides about votes: a learner that is to become a voter is proposed with every tick by
the member that leads, and the core takes it when it is in sync. Nobody is proposed before the log
says which disk is its own: of two directories opened for one member only one may ever vote.
When a member that was removed may go is told by :mod:`raftkv.node.settling`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from attrs import evolve

from raftkv.core import (
    Change,
    ChangeKind,
    EntryKind,
    ForwardProposal,
    Membership,
    MembershipChange,
    ProposalRefused,
    ProposeChange,
    Refusal,
    Role,
    State,
)
from raftkv.core.membership import decode_change
from raftkv.errors import (
    ConfigError,
    DeadlineError,
    Error,
    MembershipError,
    OutcomeUnknownError,
    RemovedError,
    WireError,
)
from raftkv.node.peers import Peers
from raftkv.node.refusals import error_of
from raftkv.node.roster import (
    ChangeNote,
    Member,
    Roster,
    Told,
    decode_change_note,
    decode_roster,
    decode_told,
    encode_change_note,
    encode_roster,
    encode_told,
    records_of,
)
from raftkv.node.settling import Core, Settling
from raftkv.node.waiters import InFlight
from raftkv.runtime.base import Promise
from raftkv.storage.base import Batch, Reader, Space
from raftkv.transport.base import Lane, Transport

_log = logging.getLogger("raftkv.node")

# Keys of the log begin with a group id of four zero bytes, those of peers with a word of their own.
_ROSTER_KEY: Final = b"roster"
_REMOVED_KEY: Final = b"removed"

_PASSING: Final = (
    Refusal.NO_LEADER,
    Refusal.TRANSFERRING,
    Refusal.CHANGE_PENDING,
    Refusal.CHANGE_WHILE_JOINT,
    Refusal.TOO_MUCH_UNCOMMITTED,
    Refusal.NOT_A_MEMBER,
)
# A leader that has just been elected has not heard of anybody yet.
_PATIENT: Final = (Refusal.UNHEALTHY, Refusal.LEARNER_BEHIND)

Plan = tuple[tuple[Change, ...], tuple[Member, ...]]
"""The steps of a change, and the records it sets."""


def load_roster(reader: Reader) -> Roster | None:
    """The newest roster that was applied in this store; None if it has none."""
    record = reader.get(Space.META, _ROSTER_KEY)
    return None if record is None else decode_roster(record)


def save_roster(batch: Batch, roster: Roster) -> None:
    """Keep the roster with what else is in the batch."""
    batch.put(Space.META, _ROSTER_KEY, encode_roster(roster))


def was_removed(reader: Reader) -> bool:
    """Whether this member has heard that it was removed."""
    return reader.get(Space.META, _REMOVED_KEY) is not None


def removed_error(name: str) -> RemovedError:
    """What a removed member ends with."""
    return RemovedError(
        f"the member {name} was removed from the cluster, and its id never returns: to have it back"
        " add it anew, and open it with join= and an empty directory"
    )


def _nothing() -> None:
    pass


class Asked:
    """A change that a caller waits for."""

    __slots__ = ("deadline_ns", "patient_ns", "plan", "promise", "reason")

    def __init__(
        self,
        plan: Callable[[Roster, Membership], Plan],
        promise: Promise[object],
        deadline_ns: int,
        patient_ns: int,
    ) -> None:
        self.plan = plan
        self.promise = promise
        self.deadline_ns = deadline_ns
        self.patient_ns = min(patient_ns, deadline_ns)
        """Until when a refusal may be due to a leader that is new."""
        self.reason = Refusal.NO_LEADER

    def fail(self, error: BaseException) -> None:
        """Wake the caller with an error, unless it is gone."""
        if not self.promise.done():
            self.promise.set_exception(error)


class Changes:
    """One member's membership changes. Loop thread only."""

    def __init__(
        self,
        roster: Roster,
        peers: Peers,
        transport: Transport,
        in_flight: InFlight,
        election_ticks: int,
    ) -> None:
        self.roster = roster
        self._told = Told()
        """What another member told, where that is more than the log here tells."""
        self._peers = peers
        self._transport = transport
        self.settling = Settling(roster.index)
        peers.removals_are_settled = lambda: self.settling.is_settled
        self._in_flight = in_flight
        self._patience_ticks = 2 * election_ticks
        self._waiting: list[Asked] = []
        self._under_way: dict[int, Asked] = {}
        self._holding = False
        self._linger_ticks = 0
        self._departing: tuple[int, str, int] | None = None  # id, address, ticks left
        self.is_removed = False
        """Whether this member was told that it was removed, for good."""
        self.is_over = False
        """Whether it was, leads no more and has answered everybody: the node ends."""
        self.on_alarm: Callable[[str], None] = _log.error
        self.on_change: Callable[[], None] = _nothing
        """Called when a change took effect."""

    # --- callers ----------------------------------------------------------------------------------

    def add(self, asked: Asked) -> None:
        """A caller wants a change."""
        self._waiting.append(asked)

    def feed(self, core: Core) -> None:
        """Propose what waits."""
        if self._holding or not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for asked in waiting:
            if asked.promise.done():
                continue  # its caller is gone
            try:
                steps, records = asked.plan(self.roster, core.state.membership)
            except Error as error:
                asked.fail(error)
                continue
            if self.roster.is_taken(records):
                asked.fail(error_of(Refusal.RECORD_TAKEN, 0))
                continue
            request = self._in_flight.reserve()
            self._under_way[request] = asked
            origin = (self._in_flight.member, self._in_flight.boot, request)
            context = encode_change_note(ChangeNote(origin, records))
            core.step(ProposeChange(MembershipChange(steps, context=context), request=request))

    def refused(self, request: int, reason: Refusal, leader: int, now_ns: int) -> bool:
        """A proposal was not taken. False if it was none of ours."""
        asked = self._under_way.pop(request, None)
        if asked is None:
            return False
        is_early = reason in _PATIENT and now_ns < asked.patient_ns
        if reason in _PASSING or is_early:
            asked.reason = reason
            self._waiting.append(asked)
            self._holding = True
        else:
            asked.fail(error_of(reason, leader))
        return True

    def tick(self, core: Core, now_ns: int) -> None:
        """Time passed: try again, give up, promote, and let the departing go."""
        self._holding = False
        self._sweep(now_ns)
        self._let_go()
        self._end_if_removed(core.state)
        if core.state.role is Role.LEADER:
            self._promote(core)
        if self.settling.tick(core):
            for peer in self._peers.addresses:
                self._transport.send(peer, self.settling.frame, Lane.BULK)

    def _end_if_removed(self, state: State) -> None:
        """Not before the next tick: what we had to say last has left by then.

        After having led not before some more: what others sent us to propose is still on its way,
        and only who gets an answer from us knows that it surely was not done.
        """
        if not self.is_removed:
            return
        if state.role is Role.LEADER:
            self._linger_ticks = self._patience_ticks // 2
        elif self._linger_ticks:
            self._linger_ticks -= 1
        else:
            self.is_over = True

    def _sweep(self, now_ns: int) -> None:
        for asked in [one for one in self._waiting if one.deadline_ns <= now_ns]:
            self._waiting.remove(asked)
            error = error_of(asked.reason, 0)
            if not isinstance(error, MembershipError):
                error = DeadlineError(f"the deadline passed and nothing was proposed: {error}")
            asked.fail(error)
        late = [one for one, asked in self._under_way.items() if asked.deadline_ns <= now_ns]
        for request in late:
            self._under_way.pop(request).fail(self._unknown(request, "the deadline passed"))

    def fail_all(self, never: Error, reason: str) -> None:
        """The node ends."""
        for asked in self._waiting:
            asked.fail(never)
        for request, asked in self._under_way.items():
            asked.fail(self._unknown(request, reason))
        self._waiting.clear()
        self._under_way.clear()

    def _unknown(self, request: int, what: str) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"{what} before the membership change was applied here: it may or may not happen; look"
            " at the list of members before trying again",
            (self._in_flight.member, self._in_flight.boot, request),
        )

    def _promote(self, core: Core) -> None:
        membership = core.state.membership
        if membership.is_joint:
            return
        for one in self.roster.members:
            if not one.promotes or one.id not in membership.learners:
                continue
            if not self._peers.disks.is_disk_logged(one.id):
                continue
            steps = [Change(ChangeKind.VOTER, one.id)]
            if one.replaces in membership.members():
                steps.insert(0, Change(ChangeKind.REMOVE, one.replaces))
            core.step(ProposeChange(MembershipChange(tuple(steps))))

    # --- the leader's side ------------------------------------------------------------------------

    def objection(self, message: ForwardProposal, state: State) -> ProposalRefused | None:
        """The answer to a change whose names or addresses are taken; None if there is no reason.

        At the leader the roster is exact: it takes a change only when all earlier ones are applied.
        Raises WireError for a change that no honest member proposes.
        """
        for payload in message.payloads:
            if payload.kind is EntryKind.NORMAL:
                continue
            change = decode_change(payload.data)
            note = decode_change_note(change.context)
            if {one.id for one in note.records} - {step.node for step in change.changes}:
                raise WireError("a change with records of members that it leaves alone")
            if state.role is Role.LEADER and self.roster.is_taken(note.records):
                return ProposalRefused(
                    state.config.id, message.sender, message.request, int(Refusal.RECORD_TAKEN)
                )
        return None

    # --- what is applied --------------------------------------------------------------------------

    def applied(self, index: int, change: MembershipChange, state: State, batch: Batch) -> None:
        """The change at ``index`` has taken effect in ``state``."""
        note = records_of(change)
        membership = state.membership
        self._adopt(self.roster.changed(index, note.records, membership), membership, state, batch)
        member, boot, request = note.origin
        if (member, boot) == (self._in_flight.member, self._in_flight.boot):
            asked = self._under_way.pop(request, None)
            if asked is not None and not asked.promise.done():
                asked.promise.set_result(None)
        self.on_change()

    def replaced(self, data: bytes, state: State, batch: Batch) -> None:
        """A snapshot that carries this roster takes the place of everything."""
        try:
            roster = decode_roster(data)
        except WireError as error:
            self.on_alarm(f"a snapshot came without names and addresses of members ({error})")
            return
        newest = roster if roster.index > self.roster.index else self.roster
        self._adopt(newest, state.membership, state, batch)

    def _adopt(self, roster: Roster, membership: Membership, state: State, batch: Batch) -> None:
        me = self._in_flight.member
        removed = frozenset(membership.removed or ())
        if me in removed and state.leader == me:
            self._linger_ticks = self._patience_ticks // 2
        if removed - self._peers.removed:
            self.settling.removed(roster.index)
        before = {one.id: one.address for one in self.roster.members}
        self._peers.adopt(roster.members, removed)
        if roster == self.roster:
            return
        self.roster = roster
        save_roster(batch, roster)
        if roster.index >= self._told.roster.index:
            self._told = Told()
            self._peers.hear(())
        leader = state.leader
        if leader in before and leader != me and roster.member(leader) is None:
            # It hands over before it goes, has to hear that we have all it knows, and answers what
            # we sent it to propose.
            self._departing = (leader, before[leader], self._patience_ticks)
            self._peers.departing = leader
        self.connect()

    def hear(self, data: bytes) -> None:
        """Another member tells who the members are; that counts only where it knows more.

        Who missed changes may not know the member that leads now, and could neither let it in nor
        answer it. Nothing of this is stored, nor does it change who votes: the log tells that.
        """
        try:
            told = decode_told(data)
        except WireError as error:
            _log.warning("a list of members is dropped: %s", error)
            return
        index, known = told.roster.index, self._told
        if index <= self.roster.index:
            return
        if (index, bool(told.voters)) > (known.roster.index, bool(known.voters)):
            self._told = told
            self._peers.hear(told.roster.members)
            self.connect()

    def remaining(self, membership: Membership) -> Membership:
        """The membership with those voters who, as others know, vote now.

        Where they did not tell who votes, those known here who are members still; and where nobody
        else is left, all who are members now: a start that nobody has seen must not take part for
        want of somebody to ask.
        """
        told, me = self._told, self._in_flight.member
        present = {one.id for one in told.roster.members} | {me}
        if told.roster.index <= self.roster.index or len(present) == 1:
            return membership
        if {*told.voters} - {me}:
            return evolve(membership, voters=told.voters, outgoing=told.outgoing)

        def left(voters: tuple[int, ...]) -> tuple[int, ...]:
            kept = tuple(one for one in voters if one in present)
            return tuple(sorted(present)) if voters and not {*kept} - {me} else kept

        return evolve(
            membership, voters=left(membership.voters), outgoing=left(membership.outgoing)
        )

    def told(self, state: State) -> bytes:
        """The roster for members that connect."""
        # Applied again after a restart: the roster is of a later membership.
        knows = state.applied >= self.roster.index
        return encode_told(self.roster, state.membership if knows else None)

    def encoded(self) -> bytes:
        """The roster as a snapshot carries it."""
        return encode_roster(self.roster)

    def removed(self, batch: Batch) -> None:
        """A member that may tell it says that we are none any more: remember it, and end."""
        self.is_removed = True
        batch.put(Space.META, _REMOVED_KEY, b"\x01")

    def reconnect(self, members: list[int]) -> None:
        """Close the connections with them: in the next handshake all is told and checked anew."""
        self.connect(without=members)
        self.connect()

    def connect(self, without: Sequence[int] = ()) -> None:
        """Tell the transport who the members are, and where."""
        addresses = {
            member: address
            for member, address in self._peers.addresses.items()
            if member not in without
        }
        if self._departing is not None:
            addresses[self._departing[0]] = self._departing[1]
        usable: dict[int, str] = {}
        for member, address in addresses.items():
            try:
                usable[member] = self._transport.checked(address)
            except ConfigError as error:
                self.on_alarm(f"member {self._peers.name_of(member)} is out of reach: {error}")
        self._transport.set_peers(usable)

    def _let_go(self) -> None:
        if self._departing is None:
            return
        member, address, ticks = self._departing
        if ticks > 0:
            self._departing = (member, address, ticks - 1)
            return
        self._departing = None
        self._peers.departing = 0
        self.connect()
