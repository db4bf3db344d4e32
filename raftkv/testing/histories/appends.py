"""Whether transactions on lists are strictly serializable, by cycles: as Elle does it.

Clients append elements, each a new one, and read whole lists. A list that was read tells the order
of all appends before it, so what depends on what can be read off the answers alone: no revision is
trusted, and a store that lies about its revisions is caught. Among transactions

- *ww*: one appended right after the other's element;
- *wr*: one read what the other appended last;
- *rw*: one read a list that did not have the other's element yet;
- *rt*: one had returned before the other was called.

No order explains a cycle of these. It is named as in the literature: G0 (ww alone), G1c (and wr),
G-single (and one rw), G2 (several), with ``-realtime`` if it takes an rt. Named too is what needs
no cycle: reads of appends that failed (G1a), of half a transaction (G1b), of elements that nobody
appended or that are there twice, lists that are no beginnings of each other (incompatible order),
appends that later reads miss (lost append), and a transaction that does not see itself (internal).
The cost is linear in the operations and in the lengths of the lists read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from raftkv.errors import InvalidArgumentError
from raftkv.testing.histories.graph import Edge, Graph
from raftkv.testing.histories.models import Append, Read, Value
from raftkv.testing.histories.operations import Operation, Outcome
from raftkv.testing.histories.verdict import Verdict, right, wrong

CHECKER: Final = "by cycles"
_UNREAD: Final = "before what is not read"

Transaction: TypeAlias = tuple[Append | Read, ...]
"""What one operation does, all at once."""

Answers: TypeAlias = tuple[tuple[Value, ...] | None, ...]
"""For each Append None, for each Read the list."""

ListOperation: TypeAlias = Operation[Transaction, Answers]


def check_appends(history: Iterable[ListOperation]) -> Verdict:
    """Judge a history of appends and reads on lists.

    Raises InvalidArgumentError if an element is appended twice to one list, or an answer does not
    fit its request.
    """
    met = sorted(
        (one for one in history if one.outcome is Outcome.OK or _appends(one)),
        key=lambda one: one.call_at,
    )
    lists = _Lists(met)
    found = lists.check() or _cycle(met, lists)
    if found is not None:
        return found
    return right(
        CHECKER,
        {
            "operations": len(met),
            "lists": len(lists.longest),
            "elements read": sum(len(shown) for shown, _ in lists.longest.values()),
        },
    )


def _appends(one: ListOperation) -> list[Append]:
    return [each for each in one.request if isinstance(each, Append)]


class _Lists:
    """Who appended what, and the longest list that anybody read under each key."""

    def __init__(self, met: Sequence[ListOperation]) -> None:
        self.met = met
        self.writer: dict[tuple[str, Value], int] = {}
        self.last_of: dict[tuple[str, int], Value] = {}
        """By key and operation: the last element that it appended there."""
        self.longest: dict[str, tuple[tuple[Value, ...], int]] = {}
        self.reads: list[tuple[int, str, tuple[Value, ...]]] = []
        """Operation, key and list, without what the operation itself had appended before."""
        for number, one in enumerate(met):
            for each in _appends(one):
                if (each.key, each.element) in self.writer:
                    raise InvalidArgumentError(
                        f"{each.element!r} is appended twice to {each.key!r}: {one}; give every"
                        " append an element of its own"
                    )
                self.writer[each.key, each.element] = number
                self.last_of[each.key, number] = each.element

    def check(self) -> Verdict | None:
        """What is wrong without any cycle; and sort the reads."""
        for number, one in enumerate(self.met):
            if one.outcome is Outcome.OK:
                verdict = self._check_one(number, one)
                if verdict is not None:
                    return verdict
        for number, key, shown in self.reads:
            longest, reader = self.longest[key]
            if shown != longest[: len(shown)]:
                return wrong(
                    CHECKER,
                    f"incompatible order: {key!r} was read as {shown} and as {longest}",
                    (self.met[number], self.met[reader]),
                )
        return None

    def _check_one(self, number: int, one: ListOperation) -> Verdict | None:
        answers = one.response
        if answers is None or len(answers) != len(one.request):
            raise InvalidArgumentError(f"an answer for each part of the transaction: {one}")
        seen: dict[str, tuple[Value, ...]] = {}
        own: defaultdict[str, list[Value]] = defaultdict(list)
        for each, answer in zip(one.request, answers, strict=True):
            key = each.key
            if isinstance(each, Append):
                own[key].append(each.element)
                continue
            if answer is None:
                raise InvalidArgumentError(f"a read is answered with a list: {one}")
            mine = tuple(own[key])
            kept = answer[: len(answer) - len(mine)]
            if answer[len(kept) :] != mine or seen.setdefault(key, kept) != kept:
                return wrong(
                    CHECKER,
                    f"internal: a transaction does not see itself: {key!r} is {answer} after it"
                    f" read {seen.get(key)} and appended {mine}",
                    (one,),
                )
            verdict = self._check_shown(number, one, key, kept)
            if verdict is not None:
                return verdict
        return None

    def _check_shown(
        self, number: int, one: ListOperation, key: str, shown: tuple[Value, ...]
    ) -> Verdict | None:
        """A list as it was before the transaction that read it."""
        if len({*shown}) != len(shown):
            return wrong(CHECKER, f"duplicate elements: {key!r} is {shown}", (one,))
        longest = self.longest.get(key)
        known = 0 if longest is None or longest[0] != shown[: len(longest[0])] else len(longest[0])
        for element in shown[known:]:
            writer = self.writer.get((key, element))
            if writer is None:
                return wrong(
                    CHECKER, f"phantom: nobody appended {element!r} to {key!r}: {shown}", (one,)
                )
            if writer == number:
                return wrong(
                    CHECKER, f"internal: {element!r} is read before it is appended", (one,)
                )
            if self.met[writer].outcome is Outcome.FAILED:
                return wrong(
                    CHECKER,
                    f"G1a, aborted read: {element!r} in {key!r} is of an append that failed",
                    (self.met[writer], one),
                )
        if shown:
            writer = self.writer[key, shown[-1]]
            if self.last_of[key, writer] != shown[-1]:
                return wrong(
                    CHECKER,
                    f"G1b, intermediate read: {key!r} ends in {shown[-1]!r}, to which the same"
                    f" transaction appended {self.last_of[key, writer]!r}",
                    (self.met[writer], one),
                )
        if longest is None or len(shown) > len(longest[0]):
            self.longest[key] = shown, number
        self.reads.append((number, key, shown))
        return None

    def edges(self) -> Iterator[Edge]:
        """What the lists say of the order of transactions."""
        following: dict[tuple[str, Value], int] = {}
        first: dict[str, int] = {}
        for key, (shown, _) in self.longest.items():
            writers = [self.writer[key, element] for element in shown]
            if writers:
                first[key] = writers[0]
            for element, writer, after in zip(shown, writers, writers[1:], strict=False):
                following[key, element] = after
                yield Edge(writer, after, "ww", f"{key!r}: {element!r} before the next")
        unread = self._unread()
        for key, added in unread.items():
            shown, _ = self.longest.get(key, ((), -1))
            for writer in added if shown else ():
                last = self.writer[key, shown[-1]]
                yield Edge(last, writer, "ww", f"{key!r}: {shown[-1]!r} {_UNREAD}")
        for number, key, shown in self.reads:
            if shown:
                writer = self.writer[key, shown[-1]]
                yield Edge(writer, number, "wr", f"{key!r}: {shown[-1]!r} was read")
            after = following.get((key, shown[-1])) if shown else first.get(key)
            for writer in [*unread.get(key, ())] if after is None else [after]:
                yield Edge(number, writer, "rw", f"{key!r}: {shown} was read before an append")

    def _unread(self) -> Mapping[str, Sequence[int]]:
        """By key, who appended for sure what no list shows: it comes after all lists."""
        shown = {(key, element) for key, (each, _) in self.longest.items() for element in each}
        sure = {self.writer[each] for each in shown}
        sure |= {number for number, one in enumerate(self.met) if one.outcome is Outcome.OK}
        unread: defaultdict[str, list[int]] = defaultdict(list)
        for (key, element), writer in self.writer.items():
            if (key, element) not in shown and writer in sure:
                unread[key].append(writer)
        return unread


def _cycle(met: Sequence[ListOperation], lists: _Lists) -> Verdict | None:
    edges = [edge for edge in lists.edges() if edge.start != edge.stop]
    for has_time in (False, True):
        graph = Graph(len(met), edges)
        if has_time:
            graph.order_by_time(
                [one.call_at for one in met],
                [one.return_at if one.outcome is Outcome.OK else None for one in met],
            )
        found = graph.simplest_cycle()
        if found is not None:
            return _name(met, found)
    return None


def _name(met: Sequence[ListOperation], cycle: Sequence[Edge]) -> Verdict:
    """The verdict on a cycle."""
    kinds = [edge.kind for edge in cycle]
    anti = kinds.count("rw")
    name = ("G0", "G1c")["wr" in kinds] if not anti else "G-single" if anti == 1 else "G2"
    if "rt" in kinds:
        name += "-realtime"
    if any(edge.why.endswith(_UNREAD) for edge in cycle):
        name += ", a lost append"
    elif sorted(kinds) == ["rt", "rw"]:
        name += ", a stale read or a lost append"
    steps = "; ".join(
        f"{met[edge.start].client} before {met[edge.stop].client} ({edge.kind}, {edge.why})"
        for edge in cycle
    )
    return wrong(CHECKER, f"{name}: {steps}", [met[edge.start] for edge in cycle])
