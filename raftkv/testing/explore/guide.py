"""Leads a world, deed by deed, to where an exploration is to begin."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from raftkv.core import PeerMessage, State
from raftkv.testing.explore.scope import Scope
from raftkv.testing.explore.space import Act, Deed, Space

_ROUNDS_MAX = 1000


class LostError(Exception):
    """A prefix does not lead where it should: the core does not do what it was made for."""


class Guide:
    """A world that is led by hand. Nothing it does is taken from the budget."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.world = space.first()
        self.deeds: list[Deed] = []
        self._proposals = 100  # told apart from those of the budget by their numbers

    def do(self, act: Act, node: int, peer: int = 0, number: int = 0) -> None:
        """One deed."""
        deed = Deed(act, node, peer, number)
        if peer and not self.under_way(peer, node):
            raise LostError(f"nothing is under way from {peer} to {node}")
        self.deeds.append(deed)
        self.world = self.space.after(self.world, deed.code, free=True)

    def state(self, node: int) -> State:
        """The core of a member."""
        return self.space.member(self.world, node).state

    def under_way(self, sender: int, to: int) -> list[PeerMessage]:
        """The messages on a link, oldest first."""
        return self.space.under_way(self.world, sender, to)

    def timeout(self, node: int) -> None:
        """An election timeout passes."""
        self.do(Act.TIMEOUT, node)

    def propose(self, node: int) -> None:
        """Something new is proposed."""
        self._proposals += 1
        self.do(Act.PROPOSE, node, 0, self._proposals)

    def change(self, node: int, left: int) -> None:
        """The membership change is proposed that is followed by ``left - 1`` others."""
        self.do(Act.CHANGE, node, 0, left)

    def beat(self, node: int) -> None:
        """A leader sends heartbeats."""
        self.do(Act.BEAT, node)

    def image(self, node: int) -> None:
        """An image is taken, the log compacted."""
        self.do(Act.IMAGE, node)

    def store(self, node: int, writes: int | None = None) -> None:
        """The oldest writes under way become durable; None: all."""
        count = len(self.space.member(self.world, node).queue) if writes is None else writes
        for _ in range(count):
            self.do(Act.WRITE, node)

    def crash(self, node: int, kept: int = 0) -> None:
        """A member crashes, and starts again."""
        self.do(Act.CRASH, node, 0, kept)

    def deliver(self, sender: int, to: int) -> None:
        """The oldest message of a link arrives."""
        self.do(Act.DELIVER, to, sender)

    def lose(self, sender: int, to: int) -> None:
        """Everything on a link is lost."""
        while self.under_way(sender, to):
            self.do(Act.DROP, to, sender)

    def isolate(self, node: int) -> None:
        """Everything to and from a member is lost."""
        for other in range(1, self.space.size + 1):
            if other != node:
                self.lose(node, other)
                self.lose(other, node)

    def settle(self, *nodes: int) -> None:
        """Among these members everything under way arrives, and every write is stored."""
        for _ in range(_ROUNDS_MAX):
            count = len(self.deeds)
            for node in nodes:
                self.store(node)
            for sender in nodes:
                for to in nodes:
                    if sender != to and self.under_way(sender, to):
                        self.deliver(sender, to)
            if len(self.deeds) == count:
                return
        raise LostError(f"{nodes} do not settle")

    def elect(self, node: int, *others: int) -> None:
        """A member campaigns and is elected by these; what it sends as leader stays under way."""
        self.timeout(node)
        self.store(node)
        for other in others:
            while self.state(node).leader != node and self.under_way(node, other):
                self.deliver(node, other)
                self.store(other)
                self.drain(other, node)
        if self.state(node).leader != node:
            raise LostError(f"{node} is not elected by {others}")
        self.store(node)

    def drain(self, sender: int, to: int) -> None:
        """Everything on a link arrives."""
        while self.under_way(sender, to):
            self.deliver(sender, to)


@frozen(kw_only=True)
class GuidedScope(Scope):
    """A scope that does not begin at the beginning."""

    prefix: Callable[[Guide], None]
    """Leads to where it begins. Raises LostError if that is not possible."""


def lead(guide: Guide) -> None:
    """Lead a guide that has done nothing yet to where its scope begins."""
    scope = guide.space.scope
    if isinstance(scope, GuidedScope):
        scope.prefix(guide)
