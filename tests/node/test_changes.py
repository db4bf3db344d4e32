"""Changes on their way, with no cluster around: who waits, who is told what, whom we connect to."""

from __future__ import annotations

from struct import pack

import pytest
from attrs import evolve

from raftkv.core import (
    Change,
    ChangeKind,
    Config,
    EntryKind,
    ForwardProposal,
    Input,
    Membership,
    MembershipChange,
    Payload,
    ProposalRefused,
    ProposeChange,
    Refusal,
    Role,
    State,
    start,
)
from raftkv.core.membership import encode_change
from raftkv.errors import (
    ClosedError,
    ConfigError,
    DeadlineError,
    Error,
    InvalidArgumentError,
    MembershipError,
    OutcomeUnknownError,
    WireError,
)
from raftkv.node.changes import Asked, Changes, Plan, load_roster, was_removed
from raftkv.node.disks import Disks
from raftkv.node.notes import Booted
from raftkv.node.peers import Peers
from raftkv.node.roster import ChangeNote, Member, Roster, encode_change_note, encode_roster
from raftkv.node.settling import SETTLED
from raftkv.node.waiters import InFlight
from raftkv.runtime.system import system_runtime
from raftkv.storage.memory import open_memory
from raftkv.transport.base import Code, Hello
from raftkv.transport.memory import MemoryNetwork, MemoryTransport

ONE, TWO, THREE = (Member(number, f"n{number}", f"n{number}:1") for number in (1, 2, 3))
ALL = Membership((1, 2, 3), removed=())
ELECTION_TICKS = 5


class Told:
    """A promise that remembers."""

    def __init__(self) -> None:
        self.value: object = None
        self.error: BaseException | None = None
        self._done = False

    def set_result(self, value: object, /) -> None:
        self.value, self._done = value, True

    def set_exception(self, error: BaseException, /) -> None:
        self.error, self._done = error, True

    def done(self) -> bool:
        return self._done

    def __await__(self) -> object:
        raise NotImplementedError  # nobody waits here: tests look at what was set


class Picky(MemoryTransport):
    """Refuses one address, as a member without TLS refuses what is beyond loopback."""

    peers: dict[int, str] = {}  # noqa: RUF012 - replaced, never changed

    def checked(self, address: str) -> str:
        if address == "far:1":
            raise ConfigError("far:1 is not loopback")
        return address

    def set_peers(self, addresses: object) -> None:
        assert isinstance(addresses, dict)
        self.peers = addresses


class Stage:
    """One member's changes and the core that they propose to."""

    def __init__(self, me: int = 1) -> None:
        self.storage = open_memory(77, me)
        self.transport = Picky(MemoryNetwork(system_runtime()), f"n{me}:1")
        members = (ONE, TWO, THREE)
        disks = Disks(self.storage.store, self.storage.identity)
        self.peers = Peers(members[me - 1], members, 77, disks)
        self.changes = Changes(
            Roster(members, 5), self.peers, self.transport, InFlight(me, 1), ELECTION_TICKS
        )
        self.alarms: list[str] = []
        self.changes.on_alarm = self.alarms.append
        self.state: State = start(Config(id=me), membership=ALL)
        self.given: list[ProposeChange] = []

    def step(self, given: Input) -> None:
        assert isinstance(given, ProposeChange)
        self.given.append(given)

    def refused(self) -> int:
        """With what code the member 2 is refused."""
        refusal = self.peers.refusal(Hello(77, 2, b"x" * 16, 1))
        assert refusal is not None
        return refusal.code

    def settle(self) -> None:
        """Another member tells that all removals are settled."""
        self.changes.settling.hear(pack("<BQ", SETTLED, self.changes.roster.index))

    def told(self) -> None:
        """A member that may tell it refuses us as one who was removed."""
        batch = self.storage.store.batch()
        self.changes.removed(batch)
        self.storage.store.write(batch)

    def ask(self, plan: object = None, *, deadline_ns: int = 100, patient_ns: int = 50) -> Told:
        told = Told()

        def remove_two(roster: Roster, _membership: Membership) -> Plan:
            assert roster is self.changes.roster
            return (Change(ChangeKind.REMOVE, 2),), ()

        chosen = plan if callable(plan) else remove_two
        self.changes.add(Asked(chosen, told, deadline_ns, patient_ns))  # pyright: ignore[reportArgumentType]
        return told

    def feed(self) -> int:
        """Propose; the request's number."""
        self.changes.feed(self)
        return self.given[-1].request

    def applied(self, change: MembershipChange, membership: Membership, index: int = 6) -> None:
        self.state = evolve(self.state, membership=membership)
        batch = self.storage.store.batch()
        self.changes.applied(index, change, self.state, batch)
        self.storage.store.write(batch)


def test_a_caller_hears_when_its_change_is_applied() -> None:
    stage = Stage()
    told = stage.ask()
    stage.feed()
    (proposed,) = stage.given
    assert not told.done()
    stage.applied(proposed.change, Membership((1, 3), removed=(2,)))
    assert (told.done(), told.error) == (True, None)
    assert load_roster(stage.storage.store) == Roster((ONE, THREE), 6)
    assert stage.transport.peers == {3: "n3:1"}
    assert stage.refused() == Code.IDENTITY
    stage.settle()
    assert stage.refused() == Code.REMOVED


def test_who_does_not_wait_any_more_is_not_proposed_for() -> None:
    stage = Stage()
    stage.ask().set_result(None)
    stage.changes.feed(stage)
    assert not stage.given


@pytest.mark.parametrize(
    "reason",
    [
        Refusal.NO_LEADER,
        Refusal.TRANSFERRING,
        Refusal.CHANGE_PENDING,
        Refusal.CHANGE_WHILE_JOINT,
        Refusal.NOT_A_MEMBER,
        Refusal.UNHEALTHY,
        Refusal.LEARNER_BEHIND,
    ],
)
def test_what_may_pass_is_tried_again_with_the_next_tick(reason: Refusal) -> None:
    stage = Stage()
    told = stage.ask()
    assert stage.changes.refused(stage.feed(), reason, 0, now_ns=10)
    stage.changes.feed(stage)
    assert len(stage.given) == 1
    stage.changes.tick(stage, 20)
    stage.changes.feed(stage)
    assert len(stage.given) == 2
    assert stage.given[0].request != stage.given[1].request
    assert stage.changes.refused(stage.given[1].request, reason, 0, now_ns=60)
    if reason in (Refusal.UNHEALTHY, Refusal.LEARNER_BEHIND):  # a new leader would know by now
        assert isinstance(told.error, MembershipError)
        return
    stage.changes.tick(stage, 100)
    expected = MembershipError if "CHANGE" in reason.name else DeadlineError
    assert isinstance(told.error, expected)
    assert isinstance(told.error, Error)
    assert not told.error.may_have_happened


def test_what_cannot_pass_is_told_at_once() -> None:
    stage = Stage()
    told = stage.ask()
    request = stage.feed()
    assert not stage.changes.refused(request + 1, Refusal.CHANGE_INVALID, 0, 10)
    assert stage.changes.refused(request, Refusal.CHANGE_INVALID, 0, 10)
    assert isinstance(told.error, MembershipError)


def test_a_change_that_cannot_be_planned_is_told_at_once() -> None:
    stage = Stage()

    def impossible(_roster: Roster, _membership: Membership) -> Plan:
        raise InvalidArgumentError("no")

    told = stage.ask(impossible)
    stage.changes.feed(stage)
    assert isinstance(told.error, InvalidArgumentError)

    def taken(_roster: Roster, _membership: Membership) -> Plan:
        return (Change(ChangeKind.LEARNER, 4),), (Member(4, "n2", "n4:1"),)

    told = stage.ask(taken)
    stage.changes.feed(stage)
    assert isinstance(told.error, MembershipError)
    assert told.error.reason == "taken"


def test_at_its_deadline_a_change_under_way_may_have_happened() -> None:
    stage = Stage()
    told = stage.ask()
    stage.feed()
    stage.changes.tick(stage, 99)
    assert not told.done()
    stage.changes.tick(stage, 100)
    assert isinstance(told.error, OutcomeUnknownError)
    stage.applied(stage.given[0].change, Membership((1, 3), removed=(2,)))  # nobody waits


def test_when_the_node_ends_nobody_waits_any_longer() -> None:
    stage = Stage()
    under_way = stage.ask()
    stage.feed()
    waiting = stage.ask()
    stage.changes.fail_all(ClosedError("closed"), "the node was closed")
    assert isinstance(under_way.error, OutcomeUnknownError)
    assert isinstance(waiting.error, ClosedError)


def test_a_leader_that_was_removed_is_heard_while_it_hands_over_and_answers() -> None:
    stage = Stage()
    stage.state = evolve(stage.state, leader=2)
    stage.applied(
        MembershipChange((Change(ChangeKind.REMOVE, 2),)), Membership((1, 3), removed=(2,))
    )
    assert stage.transport.peers == {2: "n2:1", 3: "n3:1"}
    for _ in range(2 * ELECTION_TICKS):
        stage.changes.tick(stage, 0)
        assert 2 in stage.transport.peers
        assert stage.peers.refusal(Hello(77, 2, b"x" * 16, 1)) is None
        stage.state = evolve(stage.state, leader=3)  # others may still wait for its answers
    stage.changes.tick(stage, 0)
    assert stage.transport.peers == {3: "n3:1"}
    stage.settle()
    assert stage.refused() == Code.REMOVED


def test_a_removed_member_stays_until_it_is_told_and_ends_with_the_next_tick() -> None:
    stage = Stage()
    gone = MembershipChange((Change(ChangeKind.REMOVE, 1),))
    stage.applied(gone, Membership((2, 3), removed=(1,)))
    for _ in range(3 * ELECTION_TICKS):
        stage.changes.tick(stage, 0)
    assert not stage.changes.is_over, "others may need its vote"
    assert stage.transport.peers == {2: "n2:1", 3: "n3:1"}
    assert not was_removed(stage.storage.store), "it may be started again"
    stage.told()
    assert was_removed(stage.storage.store)
    assert not stage.changes.is_over
    stage.changes.tick(stage, 0)
    assert stage.changes.is_over


def test_a_removed_leader_ends_when_it_has_handed_over_and_answered() -> None:
    stage = Stage()
    stage.state = evolve(stage.state, role=Role.LEADER, leader=1)
    gone = MembershipChange((Change(ChangeKind.REMOVE, 1),))
    stage.applied(gone, Membership((2, 3), removed=(1,)))
    for _ in range(3 * ELECTION_TICKS):
        stage.changes.tick(stage, 0)
        assert not stage.changes.is_over
    stage.state = evolve(stage.state, role=Role.FOLLOWER, leader=0)
    stage.told()
    for _ in range(ELECTION_TICKS):
        stage.changes.tick(stage, 0)
        assert not stage.changes.is_over
    stage.changes.tick(stage, 0)
    assert stage.changes.is_over


def test_an_address_that_may_not_be_leaves_one_member_out_and_is_alarmed() -> None:
    stage = Stage()
    note = encode_change_note(ChangeNote(records=(evolve(TWO, address="far:1"),)))
    change = MembershipChange((Change(ChangeKind.UPDATE, 2),), context=note)
    stage.applied(change, ALL)
    assert stage.transport.peers == {3: "n3:1"}
    assert stage.alarms == ["member n2 is out of reach: far:1 is not loopback"]


def test_a_snapshot_brings_the_newer_roster() -> None:
    stage = Stage()
    batch = stage.storage.store.batch()
    stage.changes.replaced(encode_roster(Roster((ONE,), 4)), stage.state, batch)
    assert stage.changes.roster.index == 5
    newer = Roster((ONE, TWO), 9)
    stage.changes.replaced(encode_roster(newer), stage.state, batch)
    assert stage.changes.roster == newer
    stage.changes.replaced(b"\xff", stage.state, batch)
    assert stage.changes.roster == newer
    assert "without names and addresses" in stage.alarms[0]


def test_the_leader_proposes_who_is_to_be_promoted_and_nobody_else() -> None:
    stage = Stage()
    four, five = Member(4, "n4", "n4:1", True, 2), Member(5, "n5", "n5:1", True, 7)
    six = Member(6, "n6", "n6:1")
    for number in (4, 5):
        stage.peers.disks.logged(Booted(number, b"d" * 16, 1, b"t" * 16))
    stage.changes.roster = Roster((ONE, TWO, THREE, four, five, six), 5)
    learning = Membership((1, 2, 3), (), (4, 5, 6), removed=(7,))
    stage.state = evolve(stage.state, membership=learning)
    stage.changes.tick(stage, 0)
    assert not stage.given  # we do not lead
    stage.state = evolve(stage.state, role=Role.LEADER)
    stage.changes.tick(stage, 0)
    swap = (Change(ChangeKind.REMOVE, 2), Change(ChangeKind.VOTER, 4))
    alone = (Change(ChangeKind.VOTER, 5),)  # whom it replaces is gone already
    assert [one.change.changes for one in stage.given] == [swap, alone]
    stage.given.clear()
    stage.state = evolve(stage.state, membership=evolve(learning, outgoing=(1, 2)))
    stage.changes.tick(stage, 0)
    assert not stage.given


def test_nobody_is_promoted_before_the_log_says_which_disk_is_its_own() -> None:
    stage = Stage()
    four = Member(4, "n4", "n4:1", True)
    stage.changes.roster = Roster((ONE, TWO, THREE, four), 5)
    learning = Membership((1, 2, 3), (), (4,), removed=())
    stage.state = evolve(stage.state, membership=learning, role=Role.LEADER)
    stage.peers.disks.met(Hello(77, 4, b"d" * 16, 1, boot_token=b"t" * 16))
    stage.changes.tick(stage, 0)
    assert not stage.given
    stage.peers.disks.logged(Booted(4, b"d" * 16, 1, b"t" * 16))
    stage.changes.tick(stage, 0)
    assert [one.change.changes for one in stage.given] == [(Change(ChangeKind.VOTER, 4),)]


def test_the_leader_refuses_names_that_are_taken_and_nobody_else_does() -> None:
    stage = Stage()

    def forwarded(*records: Member, context: bytes = b"") -> ForwardProposal:
        note = context or encode_change_note(ChangeNote(records=records))
        change = MembershipChange((Change(ChangeKind.LEARNER, 4),), context=note)
        payloads = (
            Payload(EntryKind.NORMAL, b"a command"),
            Payload(EntryKind.CHANGE, encode_change(change)),
        )
        return ForwardProposal(3, 1, payloads, 77)

    taken = forwarded(Member(4, "n2", "n4:1"))
    assert stage.changes.objection(taken, stage.state) is None  # it is for the leader to say
    leading = evolve(stage.state, role=Role.LEADER)
    refused = ProposalRefused(1, 3, 77, int(Refusal.RECORD_TAKEN))
    assert stage.changes.objection(taken, leading) == refused
    assert stage.changes.objection(forwarded(Member(4, "n4", "n2:1")), leading) == refused
    assert stage.changes.objection(forwarded(Member(4, "n4", "n4:1")), leading) is None
    for wrong in (forwarded(Member(5, "n5", "n5:1")), forwarded(context=b"\xff")):
        with pytest.raises(WireError):
            stage.changes.objection(wrong, stage.state)
