"""What is done to disks on purpose: entries lost, disks wiped, old copies put back, and repairs.

All of it is noticed when the member opens its disk again (a witness beside the store, checksums,
peers that remember), so the member recovers. Most worlds are spared what no protocol survives: a
majority stays whole, so that the cluster has to go on. In some it does not; then the cluster may
stand still, but it never decides anything again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from raftkv.core import (
    Entry,
    EntryKind,
    HardState,
    Membership,
    Promise,
    Recovering,
    Regressed,
    Repaired,
    Snapshot,
    State,
    decode_change,
)
from raftkv.core.membership import apply_change
from raftkv.errors import MembershipError
from raftkv.testing.choices import Choices
from raftkv.testing.disk import Disk
from raftkv.testing.invariants import is_quorum
from raftkv.testing.member import Member
from raftkv.testing.options import TICK
from raftkv.testing.world import World


class Damage:
    """The acts of a nemesis upon disks."""

    def __init__(self, world: World, choices: Choices) -> None:
        self.world = world
        self.choices = choices
        self.restart_after: Callable[[Member, int], None] | None = None

    # --- acts -------------------------------------------------------------------------------

    def lose_log(self) -> None:
        """A member dies, and the end of its log, or its whole store, cannot be read any more."""
        member = self._victim()
        if member is None:
            return
        everything = self.choices.choose(4) == 1
        self._crash(member)
        if everything:
            self._begin_anew(member)
        else:
            self._cut(member, self.choices.choose(1 + _losable(member)))
        self._restart(member)

    def lose_same_entry(self) -> None:
        """A majority dies and loses the same entry, and everything after it."""
        living = [one for one in self.world.living() if _losable(one)]
        leader = self.world.leader()
        if leader is None:
            return
        index = leader.state.commit - self.choices.choose(3)
        victims = [one for one in living if one.disk.last_index >= index >= _lowest(one)]
        majority = len(leader.state.membership.voters) // 2 + 1
        if len(victims) < majority:
            return
        for member in victims[:majority]:
            self._crash(member)
            self._cut(member, member.disk.last_index - index + 1)
            self._restart(member)
        self.world.marks["majority lost an entry"] += 1

    def wipe(self) -> None:
        """A member dies and finds nothing at all, but that it was here before."""
        member = self._victim()
        if member is None:
            return
        self._crash(member)
        self._lost(member, Recovering.ALL, member.disk.last_index)
        member.disk = Disk.holding(Snapshot(0, 0))
        member.disk.recovering = Recovering.ALL
        self.world.marks["disk wiped"] += 1
        self.world.note("finds an empty disk", member)
        self._restart(member)

    def back_up(self) -> None:
        """Somebody copies a member's disk."""
        living = [one for one in self.world.living() if one.disk.base_index]
        if living:
            member = living[self.choices.choose(len(living))]
            member.backup = member.disk.copied()

    def put_back(self) -> None:
        """A member dies and opens an old copy of its disk; noticed at once, or just afterwards."""
        member = self._victim(of=[one for one in self.world.living() if one.backup is not None])
        if member is None or member.backup is None:
            return
        self._crash(member)
        self._lost(member, Recovering.ALL, member.disk.last_index)
        member.disk = member.backup.copied()
        if self.choices.choose(2):
            member.disk.recovering = Recovering.ALL
        else:
            member.regressed = True
        self.world.marks["old copy put back"] += 1
        self.world.note("finds an old copy of its disk", member)
        self._restart(member)

    def regress(self) -> None:
        """A running member is told, rightly or not, that its disk is an old copy."""
        member = self._victim()
        if member is not None:
            self._lost(member, Recovering.ALL, 0)
            self.world.feed(member, Regressed())
            self.world.work(member)

    def repair(self) -> None:
        """Whoever lacks entries that somebody has intact is given them."""
        for member in self.world.living():
            entries = self._intact(member)
            if entries:
                self.world.feed(member, Repaired(entries))
                self.world.work(member)
                if member.state.recovering is None:
                    self.world.marks["repaired"] += 1

    # --- what is left -----------------------------------------------------------------------

    def goes_on(self) -> bool:
        """Whether the members that are whole, or can be repaired exactly, are majority enough."""
        able = [one for one in self.world.members.values() if self._able(one)]
        return self._suffices(able)

    def _able(self, member: Member) -> bool:
        if member.retired:
            return False
        return not member.recovers or bool(self._intact(member))

    def _suffices(self, members: Iterable[Member]) -> bool:
        nodes = [one.id for one in members]
        possible = [
            membership
            for one in self.world.members.values()
            if not one.retired
            for membership in memberships(one.state)
        ]
        if self.world.checker.newest_membership is not None:  # wiped members know of none
            possible.append(self.world.checker.newest_membership)
        return all(is_quorum(membership, nodes) for membership in possible)

    def _intact(self, member: Member) -> tuple[Entry, ...]:
        """What an exact repair of the member takes, if somebody has it."""
        recovery = member.state.recovery
        if recovery is None or recovery.promised is None:
            return ()
        promised, first = recovery.promised, member.state.log.last_index + 1
        for other in self.world.members.values():
            disk = other.disk
            whole = disk.chain_at(promised.index) == promised.chain
            if other is not member and whole and first > disk.base_index:
                entries = disk.entries[first - disk.base_index - 1 :]
                return tuple([one for one in entries if one.index <= promised.index])
        return ()

    # --- parts ------------------------------------------------------------------------------

    def _victim(self, of: list[Member] | None = None) -> Member | None:
        """Somebody whose loss the others survive, unless this world is reckless."""
        possible = self.world.living() if of is None else of
        possible = [one for one in possible if one.disk.base_index]
        if not possible:
            return None
        member = possible[self.choices.choose(len(possible))]
        if self.world.options.faults.reckless:
            return member
        whole = [
            one
            for one in self.world.members.values()
            if one is not member and not one.retired and not one.recovers
        ]
        return member if self._suffices(whole) else None

    def _crash(self, member: Member) -> None:
        self.world.crash(member, self.choices.choose(len(member.disk.queue) + 1))

    def _restart(self, member: Member) -> None:
        units = 1 + self.choices.choose(self.world.options.election_ticks * TICK)
        if self.restart_after is not None:
            self.restart_after(member, units)

    def _cut(self, member: Member, count: int) -> None:
        disk = member.disk
        count = min(count, _losable(member))
        if count < 1:
            return
        self._lost(member, Recovering.LOG, disk.last_index)
        del disk.entries[-count:]
        self.world.note(f"lost what followed {disk.last_index}", member)

    def _begin_anew(self, member: Member) -> None:
        old = member.disk
        self._lost(member, Recovering.LOG, old.last_index)
        member.disk = Disk.holding(Snapshot(0, 0))
        member.disk.hard_state = HardState(old.hard_state.term, old.hard_state.vote, 0)
        member.disk.recovering, member.disk.promised = old.recovering, old.promised
        self.world.note("begins a new store", member)

    def _lost(self, member: Member, loss: Recovering, last_index: int) -> None:
        """Note what was promised, unless that is beyond knowing already."""
        disk = member.disk
        self.world.marks[f"lost: {loss.name}"] += 1
        if disk.recovering is None:
            member.lost_to = max(last_index, disk.last_index)
        if loss is Recovering.ALL:
            member.forgot = True
            return
        if disk.recovering is None:
            disk.recovering = Recovering.LOG
            chain = disk.chain_at(last_index)
            disk.promised = None if chain is None else Promise(last_index, chain)


def _lowest(member: Member) -> int:
    """The first entry that can be lost: the machine stands on those before it."""
    return max(member.disk.base_index, member.standing.index) + 1


def _losable(member: Member) -> int:
    return member.disk.last_index + 1 - _lowest(member)


def memberships(state: State) -> list[Membership]:
    """The configurations that a member may come to have: its own, and those its log leads to."""
    found = [state.membership]
    membership, progress = state.membership, state.progress
    first = max(state.applied + 1, state.log.first_index)
    for entry in state.log.slice(first, state.log.last_index + 1):
        if entry.kind is EntryKind.NORMAL:
            continue
        try:
            change = decode_change(entry.data)
            membership, progress = apply_change(membership, progress, change, entry.index)
        except MembershipError:
            continue
        found.append(membership)
    return found
