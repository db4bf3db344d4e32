"""Worlds as tuples of small numbers, and what leads from one to the next.

The same member in the same state takes the same input thousands of times, among others that are
anywhere. So every part of a world (a member, a link, the history, what may still happen) is kept
once and known by a number, and what an input does to a member is computed once and looked up from
then on. A world is a tuple: members, links, history, budget.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from enum import IntEnum
from typing import Final, Generic, TypeVar

from attrs import frozen

from raftkv.core import PeerMessage, Role, Snapshot
from raftkv.testing.explore.driver import Driver, Outcome, image_helps
from raftkv.testing.explore.laws import History, News, judge
from raftkv.testing.explore.local import (
    Arrival,
    Beat,
    ChangeProposal,
    Crash,
    Happening,
    Local,
    Proposal,
    TakeImage,
    Timeout,
    WriteDone,
    founded,
)
from raftkv.testing.explore.normal import Normal
from raftkv.testing.explore.scope import Budget, Scope

V = TypeVar("V", bound=Hashable)
T = TypeVar("T")

World = tuple[int, ...]
SHIFT: Final = 32
"""Two numbers make one: the first is moved so far."""
_MASK: Final = (1 << SHIFT) - 1
_EMPTY: Final = 0


class Act(IntEnum):
    """What can be done next."""

    TIMEOUT = 0
    PROPOSE = 1
    BEAT = 2
    CHANGE = 3
    IMAGE = 4
    WRITE = 5  # the oldest write under way becomes durable
    CRASH = 6
    DELIVER = 7
    DROP = 8
    DUPLICATE = 9


@frozen(slots=True, order=True)
class Deed:
    """One thing that happens: at ``node``; ``peer``: from whom the message is.

    ``number``: which proposal or change (how many were left), or how many writes a crash keeps.
    """

    act: Act
    node: int
    peer: int = 0
    number: int = 0

    @property
    def code(self) -> int:
        """All of it in a number."""
        return self.act | self.node << 4 | self.peer << 8 | self.number << 12

    @classmethod
    def of(cls, code: int) -> Deed:
        """What a code stands for."""
        return cls(Act(code & 15), code >> 4 & 15, code >> 8 & 15, code >> 12)


class Pool(Generic[V]):
    """Values, each kept once and known by a number."""

    def __init__(self, *first: V) -> None:
        self.values: list[V] = []
        self._numbers: dict[V, int] = {}
        for value in first:
            self.number(value)

    def number(self, value: V) -> int:
        """The number of a value, a new one if it was never seen."""
        found = self._numbers.get(value)
        if found is None:
            found = self._numbers[value] = len(self.values)
            self.values.append(value)
        return found

    def __len__(self) -> int:
        return len(self.values)


class Memo(dict[int, T]):
    """A function of a number, computed once for each."""

    def __init__(self, function: Callable[[int], T]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, key: int) -> T:
        value = self[key] = self._function(key)
        return value


Move = tuple[int, tuple[tuple[int, int], ...], "News | None"]
"""The member after an input, (place of link, message) of what it sent, and what others judge."""


_Done = tuple[int, int, int, bool, bool, "Budget | None"]
"""How a deed changes a world: at which place among the members; what happens there (0: nothing, or
the arrival of a message); the place of the link concerned, or 0; whether its oldest message leaves
the link, and whether it arrives; what is spent."""


_COSTS: Final[Mapping[Act, Budget]] = {
    Act.TIMEOUT: Budget.ELECTION,
    Act.PROPOSE: Budget.PROPOSAL,
    Act.BEAT: Budget.BEAT,
    Act.CHANGE: Budget.CHANGE,
    Act.IMAGE: Budget.IMAGE,
    Act.CRASH: Budget.CRASH,
    Act.DROP: Budget.DROP,
    Act.DUPLICATE: Budget.DUPLICATE,
}


class Space:
    """All worlds of a scope, as far as they were asked for."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.size = size = scope.members
        snapshots = bool(scope.joiners or scope.images)
        self.driver = Driver(Normal(snapshots=snapshots), slow_disks=scope.slow_disks)
        self.locals = Pool[Local]()
        self.messages = Pool[PeerMessage]()
        self.links = Pool[tuple[int, ...]](())
        self.histories = Pool[History]()
        self.budgets = Pool[tuple[int, ...]]()
        self.happenings = Pool[Happening | None](None)
        self.pairs = [(one, two) for one in range(size) for two in range(size) if one != two]
        self.place = {(a + 1, b + 1): size + at for at, (a, b) in enumerate(self.pairs)}
        """Of the link from a member to another."""
        self.ends = {place: ends for ends, place in self.place.items()}
        self.outward = [
            [self.place[one + 1, two + 1] for two in range(size) if two != one]
            for one in range(size)
        ]
        self.history_at = size + len(self.pairs)
        self.computed = 0
        """Inputs that were given to the core: the rest was known."""
        self._memos()

    def _memos(self) -> None:
        links = self.links
        self.moves = Memo(self._move)
        self.head = Memo(lambda number: links.values[number][0])
        self.rest = Memo(lambda number: links.number(links.values[number][1:]))
        self.joined = Memo(lambda key: links.number((*links.values[key >> SHIFT], key & _MASK)))
        self.is_full = Memo(lambda number: len(links.values[number]) >= self.scope.link_max)
        self.covers = Memo(self._covers)
        """Whether the first of two budgets leaves at least what the second does."""
        self.spent = [Memo(self._spender(kind)) for kind in Budget]
        self.arrival = Memo(
            lambda number: self.happenings.number(Arrival(self.messages.values[number]))
        )
        self._codes_at = Memo(self._codes_of_member)
        self._codes_on = Memo(self._codes_of_link)
        self._acts = Memo(self._done)

    def leads(self, local: int) -> bool:
        """Whether the member of that number leads."""
        return self.locals.values[local].state.role is Role.LEADER

    def _covers(self, key: int) -> bool:
        more, less = self.budgets.values[key >> SHIFT], self.budgets.values[key & _MASK]
        return all(one >= two for one, two in zip(more, less, strict=True))

    def _spender(self, kind: Budget) -> Callable[[int], int]:
        def spend(number: int) -> int:
            left = list(self.budgets.values[number])
            left[kind] -= 1
            return self.budgets.number(tuple(left))

        return spend

    # --- worlds -----------------------------------------------------------------------------

    def first(self) -> World:
        """The world in which nothing has happened yet."""
        scope = self.scope
        image = scope.first
        members: list[int] = []
        for node in range(1, self.size + 1):
            stored = founded(image if node <= scope.voters else Snapshot(0, 0))
            members.append(self.locals.number(self.driver.first(scope.config(node), stored)))
        history = self.histories.number(History(image.index))
        links = (_EMPTY,) * len(self.pairs)
        return (*members, *links, history, self.budgets.number(scope.budgets))

    def member(self, world: World, node: int) -> Local:
        """A member of a world."""
        return self.locals.values[world[node - 1]]

    def under_way(self, world: World, sender: int, to: int) -> list[PeerMessage]:
        """The messages on a link, oldest first."""
        link = self.links.values[world[self.place[sender, to]]]
        return [self.messages.values[number] for number in link]

    def _move(self, key: int) -> Move | Exception:
        self.computed += 1
        local = self.locals.values[key >> SHIFT]
        happening = self.happenings.values[key & _MASK]
        if happening is None:
            raise ValueError("nothing leads nowhere")
        try:
            outcome: Outcome = self.driver.advance(local, happening)
        except Exception as error:  # whatever the core raises is a finding, wherever it is met
            return error
        node = local.state.id
        sent = tuple(
            [
                (self.place[node, message.to], self.messages.number(message))
                for message in outcome.sent
                if message.to <= self.size
            ]
        )
        return self.locals.number(outcome.local), sent, outcome.news

    # --- what happens -----------------------------------------------------------------------

    def codes(self, world: World) -> list[int]:
        """Everything that may happen next, as codes of deeds."""
        size, budget, is_full = self.size, world[-1], self.is_full
        found: list[int] = []
        for at in range(size):
            key = (world[at] << SHIFT | budget) << 1
            for place in self.outward[at]:
                if is_full[world[place]]:
                    key |= 1
                    break
            found += self._codes_at[key]
        for place in range(size, self.history_at):
            if world[place]:
                found += self._codes_on[place << SHIFT | budget]
        return found

    def after(self, world: World, code: int, *, free: bool = False) -> World:
        """The world after a deed; ``free``: none of the budget is spent.

        Raises ViolationError, and whatever the core raised.
        """
        at, happening, place, takes, arrives, budget = self._acts[code]
        after = list(world)
        if place:
            link = world[place]
            if takes:
                after[place] = self.rest[link]
            if arrives:
                happening = self.arrival[self.head[link]]
        if happening:
            move = self.moves[world[at] << SHIFT | happening]
            if isinstance(move, Exception):
                raise move
            local, sent, news = move
            after[at] = local
            for to, message in sent:
                after[to] = self.joined[after[to] << SHIFT | message]
            if news is not None:
                self._judge(after, news)
        if budget is not None and not free:
            after[-1] = self.spent[budget][world[-1]]
        return tuple(after)

    def _judge(self, world: list[int], news: News) -> None:
        at = self.history_at
        values = self.locals.values
        history = self.histories.values[world[at]]
        judged = judge([values[number] for number in world[: self.size]], news, history)
        if judged is not history:
            world[at] = self.histories.number(judged)

    def _codes_of_member(self, key: int) -> tuple[int, ...]:
        local = key >> SHIFT + 1
        may_begin = not key & 1
        budget = self.budgets.values[key >> 1 & _MASK]
        node = self.locals.values[local].state.id
        found: list[Deed] = []
        if may_begin and self.leads(local):
            if budget[Budget.PROPOSAL]:
                found.append(Deed(Act.PROPOSE, node, 0, budget[Budget.PROPOSAL]))
            if budget[Budget.CHANGE]:
                found.append(Deed(Act.CHANGE, node, 0, budget[Budget.CHANGE]))
            if budget[Budget.BEAT]:
                found.append(Deed(Act.BEAT, node))
        elif may_begin and budget[Budget.ELECTION]:
            found.append(Deed(Act.TIMEOUT, node))
        if budget[Budget.IMAGE] and image_helps(self.locals.values[local].state):
            found.append(Deed(Act.IMAGE, node))
        writes = len(self.locals.values[local].queue)
        if writes:
            found.append(Deed(Act.WRITE, node))
        if budget[Budget.CRASH]:
            found += [Deed(Act.CRASH, node, 0, kept) for kept in range(writes + 1)]
        return tuple([deed.code for deed in found])

    def _codes_of_link(self, key: int) -> tuple[int, ...]:
        sender, to = self.ends[key >> SHIFT]
        budget = self.budgets.values[key & _MASK]
        found = [Deed(Act.DELIVER, to, sender)]
        if budget[Budget.DROP]:
            found.append(Deed(Act.DROP, to, sender))
        if budget[Budget.DUPLICATE]:
            found.append(Deed(Act.DUPLICATE, to, sender))
        return tuple([deed.code for deed in found])

    def _done(self, code: int) -> _Done:
        deed = Deed.of(code)
        at = deed.node - 1
        match deed.act:
            case Act.DELIVER | Act.DROP | Act.DUPLICATE as act:
                place = self.place[deed.peer, deed.node]
                takes, arrives = act is not Act.DUPLICATE, act is not Act.DROP
                return at, 0, place, takes, arrives, _COSTS.get(act)
            case act:
                number = self.happenings.number(self.happening(deed))
                return at, number, 0, False, False, _COSTS.get(act)

    def happening(self, deed: Deed) -> Happening:
        """What a deed that brings no message is at its member."""
        match deed.act:
            case Act.TIMEOUT:
                return Timeout()
            case Act.PROPOSE:
                return Proposal(b"%d" % deed.number)
            case Act.CHANGE:
                return ChangeProposal(self.scope.changes[-deed.number])
            case Act.BEAT:
                return Beat()
            case Act.IMAGE:
                return TakeImage()
            case Act.WRITE:
                return WriteDone()
            case _:
                return Crash(deed.number)
