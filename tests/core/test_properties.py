"""Worlds of one to five cores, moved by Hypothesis: every invariant after every step.

Hypothesis picks what happens next, down to which message is lost, doubled or overtakes another and
how much of a disk's work survives a crash, and shrinks what breaks. Once everything is mended the
members must agree.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import pytest
from attrs import frozen
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,  # pyright: ignore[reportUnknownVariableType]
)

from raftkv.core import (
    SAFEST,
    Change,
    ChangeKind,
    ForgetLeader,
    Membership,
    MembershipChange,
    Tick,
    TransferLeader,
    Transition,
    Unreachable,
)
from raftkv.testing import Options
from raftkv.testing.member import MachineKind, Member
from tests.core.worlds import ByHand

PICK = st.integers(0, 10_000)
FEW = st.integers(1, 4)
STORIES = ("nothing", "grown", "divided", "behind", "read")


@frozen
class Kind:
    """A kind of world, and what its examples must have met in all to count as tried."""

    name: str
    options: Options
    floors: dict[str, int]


def options(voters: int, **changes: object) -> Options:
    """Small, quick worlds with every safe setting; ``changes`` are settings or options."""
    own = {"machine", "retention", "image_entries", "single_reports", "learners"}
    settings = {
        **SAFEST,
        "election_ticks": 3,
        "snapshot_timeout_ticks": 20,
        **{name: value for name, value in changes.items() if name not in own},
    }
    fields = {name: value for name, value in changes.items() if name in own}
    return Options(voters=voters, settings=settings, members_max=8, **fields)  # pyright: ignore[reportArgumentType]


FLOORS = {
    "committed": 150,
    "truncated": 1,
    "compacted": 10,
    "snapshot arrived": 8,
    "snapshot installed": 8,
    "membership changed": 6,
    "elected": 50,
    "leader stepped down": 5,
    "crash": 15,
    "write lost": 1,
    "read answered": 2,
    "recovered": 50,
}
"""For 50 examples; what they meet varies much, and lies far above."""
SYNCHRONOUS = {name: floor for name, floor in FLOORS.items() if name != "write lost"}

PLAIN = dict.fromkeys(SAFEST, False) | {
    "campaign_when_stored": True,
    "snapshots_for_members": True,
    "refusals_tell_commit": True,
    "refuse_invalid_changes": True,
    "pre_vote": True,
    "snapshot_timeout_ticks": 20,
}
KINDS = (
    Kind("one", options(1, retention=2), FLOORS),
    Kind("two", options(2, retention=0, machine=MachineKind.DURABLE), FLOORS),
    Kind("three", options(3, retention=3, machine=MachineKind.APART), FLOORS),
    Kind(
        "three, singly reported",
        options(3, retention=2, image_entries=5, single_reports=True, append_bytes_max=80),
        # Appends of few entries, stored one by one, leave little to truncate: often nothing.
        {name: floor for name, floor in FLOORS.items() if name != "truncated"},
    ),
    Kind("three, as plain as etcd", options(3, retention=2, **PLAIN), FLOORS),
    Kind("four, synchronous", options(4, retention=2, async_storage_writes=False), SYNCHRONOUS),
    Kind("five", options(5, retention=4, inflight_max=2, learners=1), FLOORS),
)


class Worlds(RuleBasedStateMachine):
    """What can happen in one world."""

    kind: ClassVar[Kind] = KINDS[2]
    met: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.world = ByHand(self.kind.options)

    def some(self, pick: int) -> Member | None:
        living = self.world.living()
        return living[pick % len(living)] if living else None

    @initialize(story=st.sampled_from(STORIES), pick=PICK, entries=st.integers(3, 6))
    def begin(self, story: str, pick: int, entries: int) -> None:
        """Random small steps alone would rarely truncate or join: some examples begin with that."""
        world = self.world
        world.elapse(2 * self.kind.options.election_ticks)
        if story in ("grown", "divided"):
            while len(world.members) < 3:
                self.somebody_joins(learner=False)
        if story == "divided":
            self.leader_is_left_behind(pick, entries, heal=True)
        if story == "behind":
            self.somebody_joins(learner=True)
            self.follower_falls_behind(pick, entries)
        if story == "read":
            for member in world.living():
                world.read(member)
                world.work(member)
            world.settle()

    # --- small steps: any order of anything -------------------------------------------------

    @rule(pick=PICK, ticks=FEW)
    def tick(self, pick: int, ticks: int) -> None:
        member = self.some(pick)
        if member is not None:
            for _ in range(ticks):
                self.world.feed(member, Tick())
                self.world.work(member)

    @precondition(lambda self: self.world.wire)
    @rule(pick=PICK, times=FEW, keep=st.booleans())
    def deliver(self, pick: int, times: int, keep: bool) -> None:
        for _ in range(times):
            if self.world.wire:
                self.world.arrive(pick % len(self.world.wire), keep=keep)

    @precondition(lambda self: self.world.wire)
    @rule(pick=PICK)
    def lose(self, pick: int) -> None:
        lost = self.world.wire.pop(pick % len(self.world.wire))
        sender = self.world.members[lost.sender]
        if sender.alive:
            self.world.feed(sender, Unreachable(lost.to))
            self.world.work(sender)

    @rule(pick=PICK, count=FEW)
    def store(self, pick: int, count: int) -> None:
        member = self.some(pick)
        if member is not None and member.disk.queue:
            self.world.finish(member, count)

    @rule(pick=PICK, count=FEW)
    def apply(self, pick: int, count: int) -> None:
        member = self.some(pick)
        if member is not None and member.pages:
            self.world.apply(member, count)
            self.world.work(member)

    @rule(pick=PICK, kept=st.integers(0, 3))
    def crash(self, pick: int, kept: int) -> None:
        member = self.some(pick)
        if member is not None:
            self.world.crash(member, min(kept, len(member.disk.queue)))

    @rule(pick=PICK)
    def restart(self, pick: int) -> None:
        down = [one for one in self.world.members.values() if not one.alive]
        if down:
            self.world.restart(down[pick % len(down)])

    # --- commands ---------------------------------------------------------------------------

    @rule(pick=PICK, sizes=st.lists(st.integers(0, 60), min_size=1, max_size=3))
    def propose(self, pick: int, sizes: list[int]) -> None:
        member = self.world.leader() if pick % 2 else self.some(pick)
        if member is not None:
            self.world.propose(member, tuple(bytes(size) for size in sizes))
            self.world.work(member)

    @rule(pick=PICK)
    def read(self, pick: int) -> None:
        member = self.some(pick)
        if member is not None:
            self.world.read(member)
            self.world.work(member)

    @rule(pick=PICK, kind=st.sampled_from(ChangeKind), more=st.booleans(), single=st.booleans())
    def change(self, pick: int, kind: ChangeKind, more: bool, single: bool) -> None:
        leader = self.world.leader()
        if leader is None:
            return
        now = leader.state.membership
        if now.is_joint:
            change = MembershipChange()
        else:
            steps = {self.change_step(now, kind, pick)}
            if more:
                steps |= {self.change_step(now, ChangeKind.LEARNER, pick + 1)}
            # One step for each member, in an order that does not depend on hashes.
            by_node = {one.node: one for one in sorted(steps, key=lambda one: (one.node, one.kind))}
            transition = Transition(pick % 3) if more else Transition.AUTO
            change = MembershipChange(tuple(by_node.values()), transition)
        plain = len(change.changes) == 1 and change.transition is Transition.AUTO
        self.world.propose_change(leader, change, single=single and plain)
        self.world.work(leader)

    def change_step(self, now: Membership, kind: ChangeKind, pick: int) -> Change:
        members = now.members()
        joins = kind in (ChangeKind.VOTER, ChangeKind.LEARNER)
        if joins and len(members) < self.kind.options.members_max and pick % 3:
            return Change(kind, self.world.spawn().id)
        return Change(kind, members[pick % len(members)])

    @rule(pick=PICK, whom=PICK)
    def transfer(self, pick: int, whom: int) -> None:
        member = self.some(pick)
        if member is not None:
            nodes = sorted(self.world.members)
            self.world.feed(member, TransferLeader(nodes[whom % len(nodes)]))
            self.world.work(member)

    @rule(pick=PICK)
    def forget_leader(self, pick: int) -> None:
        member = self.some(pick)
        if member is not None:
            self.world.feed(member, ForgetLeader())
            self.world.work(member)

    @rule(pick=PICK)
    def compact(self, pick: int) -> None:
        member = self.some(pick)
        if member is not None and member.machine.index > member.disk.image.index:
            self.world.take_image(member)
            self.world.work(member)

    # --- long stretches: what random small steps rarely reach -------------------------------

    @rule(ticks=st.integers(1, 8))
    def time_passes(self, ticks: int) -> None:
        self.world.elapse(ticks)

    @rule(pick=PICK, entries=FEW, heal=st.booleans())
    def leader_is_left_behind(self, pick: int, entries: int, heal: bool) -> None:
        """Its entries reach nobody, and others go on: a suffix to be truncated."""
        world = self.world
        leader = world.leader()
        if leader is None:
            return
        world.cut = {leader.id}
        for _ in range(entries):
            world.propose(leader, (b"lost",))
            world.work(leader)
        others = [one for one in world.living() if one is not leader]
        if others:
            world.elect(others[pick % len(others)])
            world.elapse(self.kind.options.election_ticks)
            newer = world.leader()
            if newer is not None:
                world.propose(newer, (b"kept",) * entries)
                world.work(newer)
                world.settle()
        if heal:
            world.cut.clear()
            world.elapse(3)

    @rule(pick=PICK, entries=st.integers(3, 8))
    def follower_falls_behind(self, pick: int, entries: int) -> None:
        """The others go on and compact: it must be sent a snapshot."""
        world = self.world
        leader, other = world.leader(), self.some(pick)
        if leader is None or other is None or other is leader:
            return
        world.cut = {other.id}
        for _ in range(entries):
            world.propose(leader, (b"more",))
            world.work(leader)
        world.settle()
        for one in world.living():
            if one is not other and one.machine.index > one.disk.image.index:
                world.take_image(one)
        world.settle()
        world.cut.clear()
        world.elapse(4)

    @rule(pick=PICK, kept=st.integers(0, 1), sizes=st.lists(st.integers(0, 9), max_size=3))
    def power_fails(self, pick: int, kept: int, sizes: list[int]) -> None:
        """In the middle of a write, on one side of a proposal or the other."""
        world = self.world
        leader, member = world.leader(), self.some(pick)
        if leader is None or member is None:
            return
        world.propose(leader, (b"", *map(bytes, sizes)))
        world.work(leader)
        if member is not leader:
            for place in reversed(range(len(world.wire))):
                if world.wire[place].to == member.id:
                    world.arrive(place)
        world.crash(member, min(kept, len(member.disk.queue)))
        world.settle()

    @rule(learner=st.booleans())
    def somebody_joins(self, learner: bool) -> None:
        """Added, sent a snapshot, and counted."""
        leader = self.world.leader()
        if leader is None:
            return
        if len(leader.state.membership.members()) < self.kind.options.members_max:
            kind = ChangeKind.LEARNER if learner else ChangeKind.VOTER
            change = MembershipChange((Change(kind, self.world.spawn().id),))
            self.world.propose_change(leader, change, single=False)
            self.world.work(leader)
            self.world.settle()
            self.world.elapse(4)

    @rule()
    def heal(self) -> None:
        self.world.cut.clear()

    @invariant()
    def nothing_is_broken(self) -> None:
        """Most is checked within each step; this is the rest."""
        self.world.checker.sweep()

    def teardown(self) -> None:
        self.world.recover()
        self.world.marks["recovered"] += 1
        self.met.update(self.world.marks)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.timeout(300)
def test_no_order_of_events_breaks_an_invariant(kind: Kind) -> None:
    met: Counter[str] = Counter()
    machine = type("Worlds", (Worlds,), {"kind": kind, "met": met})
    examples = max(settings().max_examples // 4, 50)
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples, stateful_step_count=40, deadline=None),
    )
    vacuous = {
        name: met[name] for name, floor in kind.floors.items() if met[name] < floor * examples // 50
    }
    assert not vacuous, f"hardly tried: {vacuous} of {dict(met)}"
