"""Who is in the cluster, and changing that: what ``node.members`` offers.

Every change goes through the log, one at a time. It is refused before it is made where it would
leave too few voters that answer; the class of the error says whether it may have happened, and its
sentence what to do. A new member comes in as a learner, which counts for nothing, and becomes a
voter when it is in sync with the leader.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from attrs import evolve

from raftkv.core import Change, ChangeKind, Membership, Role, State
from raftkv.errors import DeadlineError, InvalidArgumentError, MembershipError
from raftkv.node.changes import Asked, Changes, Plan
from raftkv.node.peers import Peers
from raftkv.node.roster import MEMBERS_MAX, NAME_CHARACTERS_MAX, Member, Roster
from raftkv.node.status import MemberStatus
from raftkv.runtime.base import Promise, Rng

_ID_BITS: Final = 63


class Home(Protocol):
    """What the changes of members need of their node."""

    @property
    def rng(self) -> Rng:
        """Chance, for new ids."""
        ...

    @property
    def patience_ns(self) -> int:
        """How long a new leader may take to hear of everybody."""
        ...

    def parts(self) -> tuple[State, Peers, Changes]:
        """What there is now. Raises what any call would: closed, stopped, another thread."""
        ...

    def checked_address(self, address: str) -> str:
        """The address in its one way of writing. Raises ConfigError."""
        ...

    def deadline_ns(self, timeout: float) -> int:
        """When a call begun now ends. Raises InvalidArgumentError."""
        ...

    def now_ns(self) -> int:
        """The clock of deadlines."""
        ...

    def promise(self) -> Promise[object]:
        """What a caller waits for."""
        ...

    def wake(self) -> None:
        """Have the driver look."""
        ...

    async def until(self, holds: Callable[[], bool], deadline_ns: int, otherwise: str) -> None:
        """Wait until something holds. Raises DeadlineError."""
        ...


class Members:
    """``node.members``: who is in the cluster, and changing that.

    Changes may be asked of any running member; it needs a leader, and a majority that answers. One
    change is made at a time: another one waits for it until its deadline, and is refused then.
    Every method that changes something raises MembershipError if the change is invalid, unsafe now,
    or not possible beside another one (its ``reason`` says which), DeadlineError if no leader took
    it in time: nothing happened in both cases; and OutcomeUnknownError if it was proposed and its
    outcome was not seen.
    """

    def __init__(self, home: Home) -> None:
        self._home = home

    def list(self) -> tuple[MemberStatus, ...]:
        """All members as far as this one knows, ascending by name."""
        state, peers, changes = self._home.parts()
        return members_of(state, peers, changes.roster)

    async def add(
        self, name: str, address: str, *, promote: bool = True, timeout: float = 5.0
    ) -> MemberStatus:
        """Add a member: a learner, that becomes a voter by itself once it is in sync.

        On return the cluster knows it; then open it elsewhere, with ``raftkv.open_node(directory,
        name=name, join=...)``. ``promote=False`` leaves it a learner until :meth:`promote`. It gets
        a new id, even where name and address are those of a removed member.
        """
        new = self._new(name, address, promotes=promote)

        def plan(roster: Roster, _membership: Membership) -> Plan:
            if len(roster.members) >= MEMBERS_MAX:
                raise MembershipError(
                    f"a cluster has at most {MEMBERS_MAX} members: remove one first", "invalid"
                )
            return (Change(ChangeKind.LEARNER, new.id),), (new,)

        await self._change(plan, timeout)
        return self._status(new)

    async def promote(self, member: str | int, *, timeout: float = 5.0) -> None:
        """Make a learner a voter now, if it is in sync with the leader.

        That is checked by the leader itself, where it takes the change (reasons ``behind`` and
        ``not-a-learner``). For who is a voter already nothing happens.
        """

        def plan(roster: Roster, _membership: Membership) -> Plan:
            one = _known(roster, member)
            return (Change(ChangeKind.VOTER, one.id),), ()

        await self._change(plan, timeout)

    async def remove(self, member: str | int, *, timeout: float = 5.0) -> None:
        """Remove a member, by name or id; ourselves and the leader included.

        A leader hands over first. The removed member ends with RemovedError once a majority of the
        others surely knows of it, and its id never returns; let it end by itself, for until then
        the others may need its vote. Refused where too few of the others answer (``unhealthy``),
        and for the last voter.
        """

        def plan(roster: Roster, _membership: Membership) -> Plan:
            return (Change(ChangeKind.REMOVE, _known(roster, member).id),), ()

        await self._change(plan, timeout)

    async def replace(
        self, old: str | int, name: str, address: str, *, timeout: float = 5.0
    ) -> MemberStatus:
        """Put a new member in the place of an old one, which may be gone for good.

        The new one is added as a learner, to be opened as after :meth:`add`; once it is in sync,
        one joint step makes it a voter and removes the old one. The cluster has its full number of
        voters throughout. Both are members for a while, so name and address must be new ones: to
        keep them, remove the old member first and add the new one then.
        """
        new = self._new(name, address, promotes=True)

        def plan(roster: Roster, _membership: Membership) -> Plan:
            record = evolve(new, replaces=_known(roster, old).id)
            return (Change(ChangeKind.LEARNER, new.id),), (record,)

        await self._change(plan, timeout)
        return self._status(new)

    async def move(self, member: str | int, address: str, *, timeout: float = 5.0) -> None:
        """Change the address under which the others reach a member.

        Stop it, call this on another member, and start it at its new address (``listen=``). With
        two members the other one alone is no majority: call this first, then restart the moved one.
        A lone member calls it on itself; nobody else needs to reach it.
        """
        written = self._home.checked_address(address)

        def plan(roster: Roster, _membership: Membership) -> Plan:
            one = _known(roster, member)
            return (Change(ChangeKind.UPDATE, one.id),), (evolve(one, address=written),)

        await self._change(plan, timeout)

    async def promoted(self, member: str | int, *, timeout: float = 60.0) -> MemberStatus:
        """Wait until a member is a voter, and nobody is being exchanged.

        Raises DeadlineError if that does not happen in time.
        """

        def settled() -> bool:
            state, _, changes = self._home.parts()
            one = changes.roster.member(member)
            voters = state.membership.voters
            return one is not None and one.id in voters and not state.membership.is_joint

        sentence = f"member {member!r} did not become a voter: is it running, and in sync?"
        await self._home.until(settled, self._home.deadline_ns(timeout), sentence)
        found = next((one for one in self.list() if member in (one.id, one.name)), None)
        if found is None:
            raise DeadlineError(sentence)
        return found

    def _new(self, name: str, address: str, *, promotes: bool) -> Member:
        if not name or len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
            raise InvalidArgumentError(
                f"member name {name!r}: 1 to {NAME_CHARACTERS_MAX} printable characters, please"
            )
        node = 1 + self._home.rng.below(2**_ID_BITS - 1)
        return Member(node, name, self._home.checked_address(address), promotes)

    def _status(self, new: Member) -> MemberStatus:
        for one in self.list():
            if one.id == new.id:
                return one
        raise MembershipError(f"member {new.name!r} was removed again at once", "removed")

    async def _change(self, plan: Callable[[Roster, Membership], Plan], timeout: float) -> None:
        home = self._home
        _, _, changes = home.parts()
        deadline_ns = home.deadline_ns(timeout)
        promise = home.promise()
        changes.add(Asked(plan, promise, deadline_ns, home.now_ns() + home.patience_ns))
        home.wake()
        await promise


def members_of(state: State, peers: Peers, roster: Roster) -> tuple[MemberStatus, ...]:
    """Everybody, ascending by name, as the State and the connections tell."""
    me, membership = state.config.id, state.membership
    found: list[MemberStatus] = []
    for node in membership.members():
        record = roster.member(node) or Member(node, "", "")
        progress = state.peer(node) if state.role is Role.LEADER else None
        match = None if progress is None else progress.match
        found.append(
            MemberStatus(
                node,
                record.name,
                record.address,
                membership.is_voter(node),
                state.leader == node,
                node == me or peers.is_up(node),
                match,
                None if match is None else state.log.last_index - match,
            )
        )
    return tuple(sorted(found, key=lambda one: (one.name, one.id)))


def _known(roster: Roster, member: str | int) -> Member:
    one = roster.member(member)
    if one is None:
        names = ", ".join(sorted(each.name for each in roster.members))
        raise MembershipError(f"there is no member {member!r}: there are {names}", "invalid")
    return one
