"""A world that a test moves by hand: messages and writes wait until somebody picks them."""

from __future__ import annotations

from raftkv.core import Campaign, Message, Tick
from raftkv.testing import Options, World
from raftkv.testing.invariants import broken
from raftkv.testing.member import Member

RECOVERY_ELECTIONS = 40


class ByHand(World):
    """The wire is a list, in order of sending; disks and machines stand still between calls."""

    def __init__(self, options: Options) -> None:
        self.wire: list[Message] = []
        self.cut: set[int] = set()
        super().__init__(options)

    def on_message(self, message: Message) -> None:
        self.wire.append(message)

    def reaches(self, message: Message) -> bool:
        return message.sender not in self.cut and message.to not in self.cut

    def arrive(self, place: int, *, keep: bool = False) -> None:
        """Deliver one message; ``keep``: and leave a copy of it on the wire."""
        message = self.wire[place] if keep else self.wire.pop(place)
        if self.reaches(message):
            self.deliver(message)
            member = self.members[message.to]
            if member.alive:
                self.work(member)
        else:
            self.marks["message lost"] += 1

    def finish(self, member: Member, writes: int) -> None:
        """Complete the oldest writes of a member."""
        self.finish_writes(member, min(writes, len(member.disk.queue)))
        self.work(member)

    def settle(self, rounds: int = 30) -> None:
        """Let everything under way happen, in order, without time passing."""
        for _ in range(rounds):
            wire, self.wire = self.wire, []
            for message in wire:
                if self.reaches(message):
                    self.deliver(message)
                else:
                    self.marks["message lost"] += 1
            busy = bool(wire)
            for member in self.living():
                self.work(member)
                if member.disk.queue:
                    busy = True
                    self.finish(member, len(member.disk.queue))
                if member.pages:
                    busy = True
                    self.apply(member, len(member.pages))
                    self.work(member)
            if not busy:
                return

    def elapse(self, ticks: int, *, settle: bool = True) -> None:
        """Time passes for everybody alike."""
        for _ in range(ticks):
            for member in self.living():
                self.feed(member, Tick())
                self.work(member)
            if settle:
                self.settle()

    def elect(self, member: Member) -> None:
        """Forget old leases, then let one campaign."""
        for _ in range(2 * self.options.election_ticks):
            for one in self.living():
                if one.id not in self.cut and one is not member:
                    self.feed(one, Tick())
                    self.work(one)
                    if one.state.role.value != "follower":
                        self.settle()
        self.feed(member, Campaign())
        self.work(member)
        self.settle()

    def recover(self) -> None:
        """Everybody is up and connected: they must agree on a new entry in time."""
        self.cut.clear()
        for member in list(self.members.values()):
            if not member.alive:
                self.restart(member)
        goal = 0
        ticks = RECOVERY_ELECTIONS * self.options.election_ticks
        ticks += self.options.number("snapshot_timeout_ticks")
        for _ in range(ticks):
            self.elapse(1)
            self.checker.sweep()
            leader = self.leader()
            if leader is None:
                continue
            if not goal:
                self.propose(leader, (b"recovered",))
                self.work(leader)
                self.settle()
                log, commit = leader.state.log, leader.state.commit
                fresh = log.has_term(commit) and log.term_at(commit) == leader.state.term
                goal = commit if fresh else 0
            if goal and self._agree(goal):
                return
        raise broken("I53", f"no agreement on {goal} in {RECOVERY_ELECTIONS} elections")

    def _agree(self, goal: int) -> bool:
        newest = self.checker.newest_membership
        assert newest is not None
        everybody = [self.members[node] for node in newest.members()]
        return all(
            one.machine.index >= goal and one.machine.membership == newest for one in everybody
        )
