"""Whether some order of the operations explains a history: a search, for any model.

The algorithm is Wing and Gong's with Lowe's memory, as in Porcupine: take any operation that could
come next (nothing returned before it was called), let the model answer it, go on if that is what
the client heard, and come back if not; a set of operations done that led to the same state before
is not tried again. Histories of independent parts, such as single keys, are searched part by part.

The search is exact, and exponential in how many operations overlap: eight clients and a few hundred
operations a part are cheap, fifteen clients on one key may not be. It is bounded by a number of
steps; who gives up says so (inconclusive), which is no pass. Operations whose outcome is unknown
overlap with everything after them: keep them few.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Final, Generic, cast

from attrs import evolve, frozen

from raftkv.errors import InvalidArgumentError
from raftkv.testing.histories.models import Model, S
from raftkv.testing.histories.operations import A, Operation, Outcome, Q
from raftkv.testing.histories.verdict import Verdict, right, undecided, wrong

CHECKER: Final = "by search"
STEPS_MAX: Final = 2_000_000
"""Steps of one search, about 2 microseconds each and more if the model is slow."""

_EXPLAIN_STEPS_MAX: Final = 100_000
_STATES_MAX: Final = 5


def search(
    history: Iterable[Operation[Q, A]], model: Model[S, Q, A], *, steps_max: int = STEPS_MAX
) -> Verdict:
    """Judge a history by searching an order that ``model`` agrees with, in ``steps_max`` steps.

    Memory is bounded by the steps: about 100 bytes and a state for each.
    """
    judged: list[Operation[Q, A]] = []
    for one in sorted(history, key=lambda one: one.call_at):
        if one.return_at is not None and one.return_at < one.call_at:
            raise InvalidArgumentError(f"an operation returned before it was called: {one}")
        if one.outcome is not Outcome.FAILED and model.is_judged(one.request):
            judged.append(one)
    parts: dict[Hashable, list[Operation[Q, A]]] = {}
    for one, part in zip(judged, model.parts([one.request for one in judged]), strict=True):
        parts.setdefault(part, []).append(one)
    steps, open_part = 0, None
    for part, operations in parts.items():
        found = _Search(operations, model).run(steps_max - steps)
        steps += found.steps
        if found.is_right is False:
            return _explain(operations, model, found, part)
        if found.is_right is None:
            open_part = operations
            break
    if open_part is not None:
        return undecided(
            CHECKER,
            f"no answer within {steps_max} steps: record fewer operations for each key, with fewer"
            f" clients at a time, or allow more steps (the part at hand has {len(open_part)})",
        )
    longest = max((len(one) for one in parts.values()), default=0)
    facts = {"operations": len(judged), "parts": len(parts), "longest part": longest}
    return right(CHECKER, {**facts, "steps": steps})


@frozen
class _Found(Generic[Q, A]):
    """How a search ended; None: not within its steps."""

    is_right: bool | None
    steps: int
    blocked: int = -1
    """The furthest operation whose return no order got past, of those that are wrong."""
    expected: A | None = None
    """What it should have been answered, in the longest order found."""


class _Search(Generic[S, Q, A]):
    """One search.

    Calls and returns stand in a doubly linked list, from which an operation that has its place in
    the order is taken out, and put back when the search comes back.
    """

    def __init__(self, operations: Sequence[Operation[Q, A]], model: Model[S, Q, A]) -> None:
        self.met = operations
        self.model = model
        count = len(operations)
        self.has_return = [
            one.outcome is Outcome.OK and one.return_at is not None for one in operations
        ]
        # Node i is the call of operation i, count + i its return, the last one both ends.
        events = [(one.call_at, 0, number) for number, one in enumerate(operations)]
        events += [
            (one.return_at or 0, 1, number)
            for number, one in enumerate(operations)
            if self.has_return[number]
        ]
        events.sort()
        self.end = 2 * count
        self.next = [self.end] * (self.end + 1)
        self.previous = [self.end] * (self.end + 1)
        self.moment = [0] * (self.end + 1)
        last = self.end
        for moment, (_, is_return, number) in enumerate(events):
            node = number + count if is_return else number
            self.next[last], self.previous[node] = node, last
            self.moment[node] = moment
            last = node
        self.next[last], self.previous[self.end] = self.end, last
        self.same_before = self._same_before()
        self.ends: set[S] | None = None

    def _same_before(self) -> list[int]:
        """Of each unknown operation the one before it with an equal request, or -1.

        Of equal ones the earlier can always go first: the other order need not be tried.
        """
        met: list[int] = []
        before = [-1] * len(self.met)
        for number, one in enumerate(self.met):
            if self.has_return[number]:
                continue
            for other in reversed(met):
                if self.met[other].request == one.request:
                    before[number] = other
                    break
            met.append(number)
        return before

    def states(self, steps_max: int) -> set[S]:
        """All states that its operations can lead to; none if that took too many steps."""
        self.ends = set[S]()
        return self.ends if self.run(steps_max).is_right is False else set[S]()

    def run(self, steps_max: int) -> _Found[Q, A]:
        """Search, depth first: one order, or every one if all ends are wanted."""
        model, met = self.model, self.met
        state = model.initial()
        done, left, steps = 0, sum(self.has_return), 0
        seen: set[tuple[int, S]] = {(done, state)}
        path: list[tuple[int, S, list[int]]] = []
        ahead = self._candidates(done)
        furthest, depth, expected = self._first_return(), -1, None
        while left or self.ends is not None:
            if self.ends is not None and not left:
                self.ends.add(state)
            if not ahead:
                blocked = self._first_return()
                if left and (self.moment[blocked], len(path)) > (self.moment[furthest], depth):
                    furthest, depth = blocked, len(path)
                    expected = model.step(state, met[blocked - len(met)].request)[1]
                if not path:
                    return _Found(False, steps, furthest - len(met), expected)
                number, state, ahead = path.pop()
                done ^= 1 << number
                left += self.has_return[number]
                self._put_back(number)
                continue
            number = ahead.pop()
            one = met[number]
            steps += 1
            if steps > steps_max:
                return _Found(None, steps)
            after, answer = model.step(state, one.request)
            is_known = self.has_return[number] or one.outcome is Outcome.OK
            # An unknown operation without effect explains nothing that its absence would not.
            if not model.same(answer, one.response) if is_known else after == state:
                continue
            reached = (done | 1 << number, after)
            if reached in seen:
                continue
            seen.add(reached)
            path.append((number, state, ahead))
            done, state = reached
            left -= self.has_return[number]
            self._take_out(number)
            ahead = self._candidates(done)
        return _Found(True, steps)

    def _candidates(self, done: int) -> list[int]:
        """What may come next, the most urgent last: it has to return first."""
        count, follow = len(self.met), self.next
        known: list[int] = []
        unknown: list[int] = []
        node = follow[self.end]
        while node < count:
            if self.has_return[node]:
                known.append(node)
            elif self.same_before[node] < 0 or done >> self.same_before[node] & 1:
                unknown.append(node)
            node = follow[node]
        if len(known) > 1:
            moment = self.moment
            known.sort(key=lambda number: -moment[count + number])
        unknown.reverse()
        return unknown + known

    def _first_return(self) -> int:
        node = self.next[self.end]
        while node < len(self.met):
            node = self.next[node]
        return node

    def _take_out(self, number: int) -> None:
        nodes = (number, number + len(self.met)) if self.has_return[number] else (number,)
        for node in nodes:
            before, after = self.previous[node], self.next[node]
            self.next[before], self.previous[after] = after, before

    def _put_back(self, number: int) -> None:
        nodes = (number + len(self.met), number) if self.has_return[number] else (number,)
        for node in nodes:
            before, after = self.previous[node], self.next[node]
            self.next[before], self.previous[after] = node, node


# --- explanations -------------------------------------------------------------------------------


def _explain(
    operations: Sequence[Operation[Q, A]],
    model: Model[S, Q, A],
    found: _Found[Q, A],
    part: Hashable,
) -> Verdict:
    """The operation that fits nowhere, what ran beside it, and the state before them.

    No order gets past its return, so what was called later does not matter; and of what had
    returned before its call only the states matter that this can have led to.
    """
    blocked = operations[found.blocked]
    began, ended = blocked.call_at, blocked.return_at or 0
    beside = [
        one
        for one in operations
        if one.call_at <= ended and (one.return_at is None or one.return_at >= began)
    ]
    before = [
        one if one.return_at is not None and one.return_at < began else evolve(one, return_at=None)
        for one in operations
        if one.call_at < began
    ]
    states = _Search(before, model).states(_EXPLAIN_STEPS_MAX)
    where = "" if part is None else f" on {part!r}"
    what = f"nothing explains the answer {blocked.response!r} to {blocked.request}{where}"
    if not model.same(cast("A", found.expected), blocked.response):
        what += f"; in the longest order that was found it would have been {found.expected!r}"
    if states:
        shown = sorted(map(repr, states))
        more = f" or {len(shown) - _STATES_MAX} others" if len(shown) > _STATES_MAX else ""
        what += f". When it was called, the state was {' or '.join(shown[:_STATES_MAX])}{more}"
    return wrong(CHECKER, f"{what}. It ran beside {len(beside) - 1} others", beside)
