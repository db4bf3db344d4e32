"""The other members: who they are, where, and whether they are connected."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from raftkv.node.disks import Disks
from raftkv.node.roster import Member
from raftkv.transport.base import Code, Hello, Refusal

_log = logging.getLogger("raftkv.node")


class Peers:
    """What this member knows about the others. Loop thread only."""

    def __init__(
        self, me: Member, members: tuple[Member, ...], cluster_id: int, disks: Disks
    ) -> None:
        self.me = me
        self.cluster_id = cluster_id
        self._members = {member.id: member for member in members}
        self.removed: frozenset[int] = frozenset()
        """Ids that never return."""
        self.removals_are_settled: Callable[[], bool] = _always
        """Whether who was removed may be told (raftkv.node.settling)."""
        self._told: dict[int, Member] = {}
        self.departing = 0
        """A removed leader that is still let in: it hands over before it goes."""
        self.disks = disks
        """Which disks they had."""
        self._up: dict[int, Hello] = {}

    def adopt(self, members: tuple[Member, ...], removed: frozenset[int]) -> None:
        """These are the members from now on, and those never again."""
        self._members = {member.id: member for member in members}
        self.removed = removed
        self.me = self._members.get(self.me.id, self.me)

    def hear(self, members: tuple[Member, ...]) -> None:
        """Others say that these are the members now; nobody, once the log here tells as much.

        Those whom we do not know yet may come in, and all are where that says.
        """
        self._told = {member.id: member for member in members}

    @property
    def members(self) -> tuple[Member, ...]:
        """All members, ourselves included, ascending by id."""
        return tuple(self._members[node] for node in sorted(self._members))

    @property
    def addresses(self) -> Mapping[int, str]:
        """Where the others are, those whom we have only heard of included."""
        known = {**self._members, **self._told}
        return {
            one.id: one.address
            for one in known.values()
            if one.id != self.me.id and one.id not in self.removed
        }

    def name_of(self, member: int) -> str:
        """The name of a member; empty for none."""
        known = self._members.get(member) or self._told.get(member)
        return known.name if known is not None else ""

    def called(self, member: int) -> str:
        """Its name, for the log; its id in hexadecimal if the name is not known."""
        return self.name_of(member) or f"{member:x}"

    def member(self, name_or_id: str | int) -> Member | None:
        """The member of that name or id."""
        if isinstance(name_or_id, int):
            return self._members.get(name_or_id)
        return next((one for one in self._members.values() if one.name == name_or_id), None)

    def address_of(self, member: int) -> str:
        """Where a member is; empty if that is not known."""
        known = self._members.get(member)
        return known.address if known is not None else ""

    def is_up(self, member: int) -> bool:
        """Whether it is connected."""
        return member in self._up

    def up(self, member: int, hello: Hello) -> None:
        """It connected, and was accepted."""
        if member not in self._up:
            _log.info("member %s is connected", self.called(member))
        self._up[member] = hello
        self.disks.met(hello)

    def hello_of(self, member: int) -> Hello | None:
        """What it said of itself when it connected; None if it is not connected."""
        return self._up.get(member)

    def down(self, member: int) -> None:
        """Frames to it are being lost."""
        if self._up.pop(member, None) is not None:
            # The transport has said so, and why.
            _log.debug("member %s is not connected any more", self.called(member))

    def refusal(self, hello: Hello) -> Refusal | None:
        """Why the one who says hello may not come in; None if it may."""
        if hello.cluster_id != self.cluster_id:
            return Refusal(
                Code.CLUSTER,
                f"it belongs to cluster {hello.cluster_id:x}, this is {self.cluster_id:x}",
            )
        if hello.member_id == self.departing:
            return self.disks.refusal(hello)
        name = self.called(hello.member_id)
        if hello.member_id in self.removed:
            if self.removals_are_settled():
                what = f"member {name} was removed from this cluster, and its id never returns"
                return Refusal(Code.REMOVED, what)
            what = f"member {name} is being removed; others may still need its vote"
            return Refusal(Code.IDENTITY, what)
        is_known = hello.member_id in self._members or hello.member_id in self._told
        if not is_known or hello.member_id == self.me.id:
            return Refusal(Code.IDENTITY, f"member {name} is not of this cluster")
        return self.disks.refusal(hello)


def _always() -> bool:
    return True
