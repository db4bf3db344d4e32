"""One world of all those that differ in the names of members alone."""

from __future__ import annotations

from itertools import permutations, product

from raftkv.testing.explore.rename import Renaming
from raftkv.testing.explore.space import Memo, Pool, Space, World


class Names:
    """One way to name the members: where each part of a renamed world comes from, and renamed."""

    def __init__(self, space: Space, names: dict[int, int]) -> None:
        self.names = names
        renaming = Renaming(names)
        old = {new: node for node, new in names.items()}
        count = space.size
        self.members = [old[node] - 1 for node in range(1, count + 1)]
        self.links = [space.place[old[one + 1], old[two + 1]] for one, two in space.pairs]
        locals_, messages, links = space.locals, space.messages, space.links
        self.local = Memo(lambda number: locals_.number(renaming.local(locals_.values[number])))
        message = Memo(
            lambda number: messages.number(renaming.peer_message(messages.values[number]))
        )
        self.link = Memo(
            lambda number: links.number(tuple([message[one] for one in links.values[number]]))
        )
        self.history = Memo(
            lambda number: space.histories.number(renaming.history(space.histories.values[number]))
        )


class Symmetry:
    """Finds the one world that stands for all that differ in the names of ``alike`` members.

    Members are put in the order of what each of them is, whatever the others are called; where that
    leaves several orders, the least of the worlds they give is taken.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.namings = [Names(space, names) for names in _namings(space)]
        """All of them; the first changes nothing."""
        self._kinds = Pool[tuple[object, ...]]()
        self._kind = Memo(lambda number: self._kinds.number(_kind(space, number)))
        self._fitting: dict[tuple[int, ...], list[int]] = {}

    def least(self, world: World) -> World:
        """The world that stands for this one."""
        fitting = self._candidates(world)
        if len(fitting) == 1:
            which = fitting[0]
            return self.renamed(world, which) if which else world
        return min([self.renamed(world, which) if which else world for which in fitting])

    def naming(self, world: World) -> int:
        """Which naming makes :meth:`least` of it."""
        return min(self._candidates(world), key=lambda which: (self.renamed(world, which), which))

    def renamed(self, world: World, which: int) -> World:
        """The world under other names."""
        names = self.namings[which]
        local, link = names.local, names.link
        return (
            *[local[world[at]] for at in names.members],
            *[link[world[at]] for at in names.links],
            names.history[world[-2]],
            world[-1],
        )

    def _candidates(self, world: World) -> list[int]:
        kind = self._kind
        key = tuple([kind[local] for local in world[: self.space.size]])
        fitting = self._fitting.get(key)
        if fitting is None:
            orders = [[key[at] for at in names.members] for names in self.namings]
            least = min(orders)
            fitting = [which for which, order in enumerate(orders) if order == least]
            self._fitting[key] = fitting
        return fitting


def _namings(space: Space) -> list[dict[int, int]]:
    """Every way to rename members within their groups, the identity first."""
    nodes = range(1, space.size + 1)
    ways = [permutations(group) for group in space.scope.alike]
    found: list[dict[int, int]] = []
    for chosen in product(*ways):
        names = {node: node for node in nodes}
        for group, renamed in zip(space.scope.alike, chosen, strict=True):
            names |= dict(zip(group, renamed, strict=True))
        found.append(names)
    return found


def _kind(space: Space, number: int) -> tuple[object, ...]:
    """What a member is, whatever it and the others are called."""
    local = space.locals.values[number]
    state, stored = local.state, local.stored
    own = state.id

    def whom(node: int) -> int:
        return 0 if not node else 1 if node == own else 2

    progress = [
        (whom(one.id), one.match, one.next, one.state.value, one.flow_paused, one.sent_commit)
        for one in state.progress
    ]
    return (
        _group_of(space, own),
        state.role.value,
        state.term,
        whom(state.vote),
        whom(state.leader),
        state.commit,
        state.unstable,
        state.log,
        stored.log,
        stored.hard_state.term,
        whom(stored.hard_state.vote),
        stored.hard_state.commit,
        len(local.queue),
        tuple(sorted(progress)),
        tuple(sorted([(whom(node), given) for node, given in state.votes])),
        len(state.writes),
    )


def _group_of(space: Space, node: int) -> tuple[int, ...]:
    return next((group for group in space.scope.alike if node in group), (node,))
