"""What is done to a cluster on purpose: crashes, partitions, pauses, and unhelpful commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from raftkv.core import (
    Campaign,
    Change,
    ChangeKind,
    ForgetLeader,
    Membership,
    MembershipChange,
    TransferLeader,
    Transition,
)
from raftkv.core.membership import apply_change
from raftkv.errors import MembershipError
from raftkv.testing.choices import Choices
from raftkv.testing.damage import Damage
from raftkv.testing.member import Member
from raftkv.testing.network import Network
from raftkv.testing.options import TICK
from raftkv.testing.story import Kind
from raftkv.testing.world import World

_TRANSITIONS: Final = (Transition.AUTO, Transition.IMPLICIT, Transition.EXPLICIT)


class Nemesis:
    """Acts once per call, as the options weigh its acts and the choices pick."""

    def __init__(self, world: World, network: Network, choices: Choices) -> None:
        self.world = world
        self.network = network
        self.choices = choices
        self.damage = damage = Damage(world, choices)
        self.restart_after: Callable[[Member, int], None] = _never
        faults = world.options.faults
        acts: list[tuple[int, Callable[[], None]]] = [
            (faults.crash, self.crash),
            (faults.partition, self.partition),
            (faults.pause, self.pause),
            (faults.transfer, self.transfer),
            (faults.campaign, self.campaign),
            (faults.forget, self.forget),
            (faults.membership, self.change_membership),
            (faults.image, self.image),
            (faults.lose_log, damage.lose_log),
            (faults.lose_same_entry, damage.lose_same_entry),
            (faults.wipe, damage.wipe),
            (faults.back_up, damage.back_up),
            (faults.put_back, damage.put_back),
            (faults.regress, damage.regress),
            (faults.repair, damage.repair),
        ]
        # Position 0 does nothing: the default of every choice is "no fault".
        self._weights = [1, *(weight for weight, _ in acts)]
        self._acts = [_nothing, *(act for _, act in acts)]

    def act(self) -> None:
        """One act of whatever kind."""
        self._acts[self.choices.weighted(self._weights)]()

    def _some_member(self) -> Member | None:
        """A living member, half of the time the leader."""
        living = self.world.living()
        if not living:
            return None
        leader = self.world.leader()
        if leader is not None and self.choices.choose(2):
            return leader
        return living[self.choices.choose(len(living))]

    def crash(self) -> None:
        """A member dies, or all at once, and comes back later."""
        everybody = self.choices.chance(100)
        one = self._some_member()
        if one is None:
            return
        for member in self.world.living() if everybody else [one]:
            kept = self.choices.choose(len(member.disk.queue) + 1)
            self.world.crash(member, kept)
            units = 1 + self.choices.choose(3 * self.world.options.election_ticks * TICK)
            self.restart_after(member, units)

    def partition(self) -> None:
        """The network falls apart in one of the ways that networks do, or is mended."""
        world, choices, network = self.world, self.choices, self.network
        nodes = [member.id for member in world.members.values() if not member.retired]
        kind = choices.choose(6)
        self.mend()
        if kind <= 1 or len(nodes) < 2:
            return
        world.marks["partition"] += 1
        if world.is_changing():
            world.marks["fault during a change"] += 1
        leader = world.leader()
        centre = leader.id if leader else nodes[choices.choose(len(nodes))]
        if kind == 2:
            network.isolate(centre, nodes, inward=True, outward=True)
            world.note(f"n{centre} is cut off", kind=Kind.FAULT)
        elif kind == 3:
            inward = choices.choose(2) == 1
            network.isolate(centre, nodes, inward=inward, outward=not inward)
            way = "send" if inward else "receive"
            world.note(f"n{centre} can only {way}", kind=Kind.FAULT)
        else:
            sides: tuple[list[int], list[int]] = ([], [])
            for node in nodes:
                sides[choices.choose(2)].append(node)
            if kind == 5:  # one member still reaches both sides
                sides = ([one for one in sides[0] if one != centre], sides[1])
                sides = (sides[0], [one for one in sides[1] if one != centre])
            network.split(*sides)
            world.note(f"no link between {sides[0]} and {sides[1]}", kind=Kind.FAULT)

    def mend(self) -> None:
        """The network is whole again."""
        if self.network.cuts:
            self.network.heal()
            self.world.note("every link is mended", kind=Kind.HEAL)

    def pause(self) -> None:
        """A member stands still: no tick, no message, until it goes on as if nothing had been."""
        member = self._some_member()
        if member is not None:
            units = 1 + self.choices.choose(3 * self.world.options.election_ticks * TICK)
            member.paused_until = self.world.now + units
            self.world.marks["pause"] += 1
            self.world.note(f"stands still for {units}", member, kind=Kind.PAUSE)

    def transfer(self) -> None:
        """Leadership is to be handed to anybody, themselves and strangers included."""
        member = self._some_member()
        if member is not None:
            nodes = list(self.world.members)
            target = nodes[self.choices.choose(len(nodes))]
            self.world.marks["transfer"] += 1
            self.world.feed(member, TransferLeader(target))
            self.world.work(member)

    def campaign(self) -> None:
        """A member is told to campaign."""
        member = self._some_member()
        if member is not None:
            self.world.feed(member, Campaign())
            self.world.work(member)

    def forget(self) -> None:
        """A member is told to forget its leader."""
        member = self._some_member()
        if member is not None:
            self.world.feed(member, ForgetLeader())
            self.world.work(member)

    def image(self) -> None:
        """A member makes an image of its machine and compacts its log."""
        member = self._some_member()
        if member is not None and member.machine.index > member.disk.image.index:
            self.world.take_image(member)
            self.world.work(member)

    def change_membership(self) -> None:
        """The leader is asked for some change, sensible or not."""
        # Only the leader: a follower that knows an old membership could ask for a removed member's
        # return, which the core cannot know to be wrong (the node refuses used ids).
        member = self.world.leader()
        if member is None:
            return
        change, single = self._some_change(member.state.membership)
        if not member.config.refuse_invalid_changes and not _can_be(member, change):
            return  # it would be taken, and stop everybody who applies it
        self.world.propose_change(member, change, single=single)
        self.world.work(member)

    def _some_change(self, now: Membership) -> tuple[MembershipChange, bool]:
        choices = self.choices
        if now.is_joint and choices.choose(4) != 1:
            return MembershipChange(), False
        picked = [self._some_step(now) for _ in range(1 + choices.weighted((6, 2, 1)))]
        # One step per member: to remove and add it in one change would be a return from the dead.
        steps = list({step.node: step for step in picked}.values())
        if len(steps) == 1 and choices.choose(2) == 0:
            return MembershipChange(tuple(steps)), choices.choose(2) == 1
        transition = _TRANSITIONS[choices.choose(len(_TRANSITIONS))]
        return MembershipChange(tuple(steps), transition), False

    def _some_step(self, now: Membership) -> Change:
        choices = self.choices
        nodes = now.members()
        kind = choices.weighted((3, 3, 4, 2, 3))
        if kind <= 1 and len(nodes) < self.world.options.members_max:
            new = self.world.spawn().id
            return Change(ChangeKind.LEARNER if kind else ChangeKind.VOTER, new)
        if kind == 2 and (learners := now.learners):
            return Change(ChangeKind.VOTER, learners[choices.choose(len(learners))])
        if not nodes:
            return Change(ChangeKind.UPDATE, 1)
        node = nodes[choices.choose(len(nodes))]
        return Change(ChangeKind.LEARNER if kind == 3 else ChangeKind.REMOVE, node)


def _can_be(member: Member, change: MembershipChange) -> bool:
    state = member.state
    try:
        apply_change(state.membership, state.progress, change, state.log.last_index)
    except MembershipError:
        return False
    return True


def _nothing() -> None:
    """The act of doing nothing."""


def _never(member: Member, units: int) -> None:
    """Leave it down."""
    del member, units
