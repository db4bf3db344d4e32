"""A graph of who must come before whom, and its simplest cycle."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from attrs import frozen

_TIME: Final = "rt"


@frozen(slots=True)
class Edge:
    """``start`` comes before ``stop``, because of a dependency of this kind."""

    start: int
    stop: int
    kind: str
    why: str = ""


class Graph:
    """Nodes are numbers from 0. Time is kept in nodes of its own, behind the others."""

    def __init__(self, nodes: int, edges: Iterable[Edge]) -> None:
        self.nodes = nodes
        self._after: list[list[Edge]] = [[] for _ in range(nodes)]
        for edge in edges:
            self._after[edge.start].append(edge)

    def order_by_time(self, called: Sequence[int], returned: Sequence[int | None]) -> None:
        """Whatever had returned comes before what was called later.

        A chain of moments stands for the edges, which would be as many as pairs: each return leads
        to its moment, each moment to the next one and to the calls before that.
        """
        calls = sorted(range(self.nodes), key=lambda node: called[node])
        pairs = ((at, node) for node, at in enumerate(returned) if at is not None)
        returns = deque(sorted(pairs))
        moment: int | None = None
        for node in calls:
            if returns and returns[0][0] < called[node]:
                following = len(self._after)
                self._after.append([])
                if moment is not None:
                    self._after[moment].append(Edge(moment, following, _TIME))
                moment = following
                while returns and returns[0][0] < called[node]:
                    _, done = returns.popleft()
                    self._after[done].append(Edge(done, moment, _TIME, "had returned"))
            if moment is not None:
                self._after[moment].append(Edge(moment, node, _TIME))

    def simplest_cycle(self) -> list[Edge] | None:
        """A cycle with as few kinds of edges as can be, and of those a short one; None if none.

        Edges through moments are put together: the cycle goes over the given nodes only.
        """
        groups = [group for group in self._components() if len(group) > 1]
        if not groups:
            return None
        inside = {node: number for number, group in enumerate(groups) for node in group}
        for kinds in (("ww",), ("ww", "wr")):
            found = self._shortest(inside, {*kinds}) or self._shortest(inside, {*kinds, _TIME})
            if found:
                return _without_moments(found, self.nodes)
        single = self._with_one("rw", inside, {"ww", "wr"})
        single = single or self._with_one("rw", inside, {"ww", "wr", _TIME})
        every = {"ww", "wr", "rw", _TIME}
        found = single or self._shortest(inside, every)
        return _without_moments(found, self.nodes) if found else None

    def _shortest(self, inside: dict[int, int], kinds: set[str]) -> list[Edge] | None:
        """A cycle of edges of these kinds, the shortest through its first node."""
        rest = {
            node for group in self._components(kinds, inside) if len(group) > 1 for node in group
        }
        for node in sorted(rest):
            for edge in self._after[node]:
                if edge.kind in kinds and edge.stop in rest:
                    path = self._path(edge.stop, node, kinds)
                    if path is not None:
                        return [edge, *path]
        return None

    def _with_one(self, kind: str, inside: dict[int, int], others: set[str]) -> list[Edge] | None:
        """A cycle with exactly one edge of a kind."""
        for node in sorted(inside):
            for edge in self._after[node]:
                if edge.kind == kind and inside.get(edge.stop) == inside[node]:
                    path = self._path(edge.stop, node, others)
                    if path is not None:
                        return [edge, *path]
        return None

    def _path(self, start: int, stop: int, kinds: set[str]) -> list[Edge] | None:
        """The shortest way, breadth first."""
        came: dict[int, Edge | None] = {start: None}
        waiting = deque([start])
        while waiting:
            node = waiting.popleft()
            if node == stop:
                path: list[Edge] = []
                edge = came[node]
                while edge is not None:
                    path.append(edge)
                    edge = came[edge.start]
                return path[::-1]
            for edge in self._after[node]:
                if edge.kind in kinds and edge.stop not in came:
                    came[edge.stop] = edge
                    waiting.append(edge.stop)
        return None

    def _components(
        self, kinds: set[str] | None = None, inside: dict[int, int] | None = None
    ) -> list[list[int]]:
        """Tarjan's strongly connected components, without recursion."""
        order: dict[int, int] = {}
        low: dict[int, int] = {}
        on_stack: set[int] = set()
        stack: list[int] = []
        found: list[list[int]] = []
        for root in range(len(self._after)) if inside is None else sorted(inside):
            if root in order:
                continue
            work = [(root, iter(self._after[root]))]
            order[root] = low[root] = len(order)
            stack.append(root)
            on_stack.add(root)
            while work:
                node, edges = work[-1]
                for edge in edges:
                    after = edge.stop
                    if kinds is not None and edge.kind not in kinds:
                        continue
                    if inside is not None and after not in inside:
                        continue
                    if after not in order:
                        order[after] = low[after] = len(order)
                        stack.append(after)
                        on_stack.add(after)
                        work.append((after, iter(self._after[after])))
                        break
                    if after in on_stack:
                        low[node] = min(low[node], order[after])
                else:
                    work.pop()
                    if work:
                        low[work[-1][0]] = min(low[work[-1][0]], low[node])
                    if low[node] == order[node]:
                        group: list[int] = []
                        while not group or group[-1] != node:
                            group.append(stack.pop())
                            on_stack.discard(group[-1])
                        found.append(group)
        return found


def _without_moments(cycle: Sequence[Edge], nodes: int) -> list[Edge]:
    """The cycle over nodes below ``nodes``; what lies between two of them becomes one edge."""
    turn = next(number for number, edge in enumerate(cycle) if edge.start < nodes)
    kept: list[Edge] = []
    for edge in (*cycle[turn:], *cycle[:turn]):
        if edge.start < nodes:
            kept.append(edge)
        else:
            last = kept[-1]
            kept[-1] = Edge(last.start, edge.stop, last.kind, last.why)
    return kept
