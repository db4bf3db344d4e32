"""A failed run made small: the same invariant breaks, with as little as possible happening.

Works on any level: all it needs is a function that runs decisions (:class:`Runs`). A turn of the
world that is begun with a key (``choices.begin(at, what, node)``) can be left out, and the others
keep their decisions (:mod:`~raftkv.testing.aligned`); of a moment, in which only time passes, the
decisions are put to the default instead. A world may also take no notice of what is left out, then
only decisions are made smaller.

In this order, until nothing helps any more or time is up: what follows the finding is cut, and of a
run that breaks in its recovery as many steps before it as can be; the most frequent kinds of
decisions (a fault, a delay) are put to the default together; then turns are left out kind by kind,
in halves, quarters, and so on down to single ones; options (the decisions of the first turn) are
lowered; and at last numbers are. A smaller run counts only if it breaks *the same* invariant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from attrs import evolve, frozen

from raftkv.testing.aligned import AlignedChoices, Answer, Key, NotingChoices, Site, Turn
from raftkv.testing.choices import Choices, Decisions
from raftkv.testing.finding import Finding, Outcome

_KINDS_FIRST = 12
"""How many kinds of decisions are put to the default before anything is left out."""
_SLACK = 64
"""Turns that a smaller run may take beyond those of the run that it comes from."""
_PAIR_DISTANCE = 16
"""How far apart two turns may be that are left out together."""
_ANSWERS_MAX = 8
_VALUES_MAX = 10
"""How many decisions of an earlier turn are tried with how many values each."""


class Runs(Protocol):
    """Runs a world on the given choices: so many steps, then the recovery, if it has one.

    Must end, with a finding of another name, when the choices raise an error.
    """

    def __call__(self, choices: Choices, steps: int, /) -> Outcome:
        """What came of it."""
        ...


@frozen
class Shrunk:
    """The smallest run that was found to break the same invariant."""

    decisions: Decisions
    steps: int
    finding: Finding
    events: int
    """Turns that happen in it, those of options and start not counted."""
    trials: int
    """Runs that it took."""


class ShrinkError(ValueError):
    """The run to be shrunk breaks nothing (any more)."""


@frozen
class _Case:
    """A run that fails as it should: what may be tried to make smaller."""

    turns: tuple[Turn, ...]
    steps: int
    decisions: Decisions
    finding: Finding

    @property
    def events(self) -> int:
        return sum(turn.is_event for turn in self.turns[_FIRST:])

    @property
    def weight(self) -> tuple[int, int, int]:
        """What is to become less: events, then decisions that are no default, then their sum."""
        numbers = [answer.value for turn in self.turns for answer in turn.answers]
        return self.events, sum(number > 0 for number in numbers), sum(numbers)


_FIRST = 2
"""Turns of the options and of the start: they are no events, and cannot be left out."""


def shrink(
    runs: Runs,
    decisions: Decisions,
    steps: int,
    *,
    is_over: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Shrunk:
    """The smallest failing run found until ``is_over``.

    ``on_progress`` is told trials and events after every trial. Raises ShrinkError if the given run
    does not fail.
    """
    work = _Work(runs, decisions, steps, is_over, on_progress)
    work.all()
    case = work.case
    return Shrunk(case.decisions, case.steps, case.finding, case.events, work.trials)


class _Work:
    """The smallest case so far, and what is tried on it."""

    def __init__(
        self,
        runs: Runs,
        decisions: Decisions,
        steps: int,
        is_over: Callable[[], bool],
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.runs = runs
        self.trials = 0
        self._is_over = is_over
        self._on_progress = on_progress
        choices = NotingChoices(decisions, 1 << 60)
        ran = self._run(choices, steps)
        if ran.finding is None:
            raise ShrinkError("the run to be shrunk breaks nothing")
        self.case = _Case(tuple(choices.turns()), steps, ran.decisions, ran.finding)

    def all(self) -> None:
        """Every way to make it smaller, until none helps."""
        self.much_fewer_steps()
        self.no_whole_kinds(_KINDS_FIRST)
        events = self.case.events + 1
        while self.case.events < events and not self._is_over():
            events = self.case.events
            self.fewer_turns()
            self.fewer_decisions()
            self.lower_options()
            self.no_whole_kinds()
            if self.case.events == events:
                self.fewer_pairs()
                self.fewer_effects()
        self.lower_numbers()

    # --- the ways ---------------------------------------------------------------------------

    def much_fewer_steps(self) -> None:
        """What breaks in the recovery may break after hardly any steps: those cost little."""
        steps = self.case.steps
        if self.case.finding.step >= steps:
            for fewer in (0, *(steps >> shift for shift in range(12, 1, -1))):
                if fewer < steps and self._fails(self.case.turns, fewer):
                    break
        self.fewer_steps()

    def fewer_steps(self) -> None:
        """The same by halves, or quarters."""
        steps = self.case.steps + 1
        while self.case.finding.step >= self.case.steps and self.case.steps < steps:
            steps = self.case.steps
            for fewer in (steps // 2, steps * 3 // 4, steps * 7 // 8):
                if fewer < steps and self._fails(self.case.turns, fewer):
                    break

    def no_whole_kinds(self, count: int | None = None) -> None:
        """Put all decisions that one place of the program asks for to the default.

        All places, or the ``count`` that decide most often.
        """
        for site in self._sites()[:count]:
            turns = self.case.turns
            self._fails((*turns[:1], *(_without(turn, site) for turn in turns[1:])))

    def _sites(self) -> list[Site]:
        count: dict[Site, int] = {}
        for turn in self.case.turns[1:]:
            for answer in turn.answers:
                if answer.value:
                    count[answer.site] = count.get(answer.site, 0) + 1
        return sorted(count, key=lambda site: -count[site])

    def lower_options(self) -> None:
        """Options, and what is decided at the start, down to the default or near it."""
        self._lower(range(_FIRST))

    def fewer_turns(self) -> None:
        """Leave out what happens: kind by kind, then in halves, quarters, ..., one by one."""
        self._leave_out(place for place in self._places() if self.case.turns[place].is_moment)
        for part in range(_key_parts(self.case.turns)):
            for key in self._key_values(part):
                self._leave_out(
                    place
                    for place in self._places()
                    if _shared(self.case.turns[place].key)[part : part + 1] == (key,)
                )
        size = max(len(self._places()) // 2, 1)
        while True:
            # From the end: what happens late has less that hangs on it.
            stop = len(self._places())
            while stop > 0:
                first = max(stop - size, 0)
                self._leave_out(self._places()[first:stop])
                stop = min(first, len(self._places()))
            self.fewer_steps()
            if size == 1 or self._is_over():
                return
            size //= 2

    def fewer_pairs(self) -> None:
        """Leave out two at a time: a crash and its restart, a cut and its repair."""
        first = len(self._places()) - 1
        while first >= 0:
            for distance in range(1, _PAIR_DISTANCE + 1):
                places = self._places()
                if first + distance < len(places) and self._leave_out(
                    (places[first], places[first + distance])
                ):
                    break
            first = min(first, len(self._places())) - 1

    def fewer_effects(self) -> None:
        """Leave out what caused a later turn, and that turn: a crash and its restart.

        The restart may have decided when its member's clock ticks: then what came before it, the
        earlier restart, has to decide that.
        """
        place = len(self.case.turns) - 1
        while place > _FIRST and not self._is_over():
            place -= 1
            turns = self.case.turns
            if place < len(turns) - 1 and not turns[place].is_left_out:
                effects = _effects(turns, place)
                if effects:
                    self._leave_out_with(place, effects)

    def _leave_out_with(self, cause: int, effects: Sequence[int]) -> None:
        turns = list(self.case.turns)
        for place in (cause, *effects):
            turns[place] = turns[place].without()
        if self._fails(turns, only_these=True):
            return
        earlier = _earlier(turns, effects[0])
        for position in range(min(len(turns[earlier].answers), _ANSWERS_MAX)):
            for value in range(_VALUES_MAX):
                if self._fails(_changed(turns, earlier, position, value), only_these=True):
                    return

    def _places(self) -> list[int]:
        """Where turns happen that could be left out; the one that breaks the invariant cannot."""
        turns = self.case.turns
        return [place for place in range(_FIRST, len(turns) - 1) if turns[place].is_event]

    def _key_values(self, part: int) -> list[int | str]:
        """What several keys have in this part, and not all: the most frequent first."""
        turns = self.case.turns
        keys = [_shared(turns[place].key) for place in self._places()]
        count = Counter(key[part] for key in keys if len(key) > part)
        return [value for value, times in count.most_common() if 1 < times < len(keys)]

    def _leave_out(self, places: Iterator[int] | Sequence[int]) -> bool:
        turns = list(self.case.turns)
        chosen = list(places)
        for place in chosen:
            turns[place] = turns[place].without()
        return bool(chosen) and self._fails(turns)

    def fewer_decisions(self) -> None:
        """Put turns to the default: in halves, quarters, and so on."""
        size = len(self._decided())
        while size > 1:
            stop = len(self._decided())
            while stop > 0:
                first = max(stop - size, 0)
                turns = list(self.case.turns)
                for place in self._decided()[first:stop]:
                    turns[place] = evolve(turns[place], answers=())
                self._fails(turns)
                stop = min(first, len(self._decided()))
            size //= 2

    def _decided(self) -> list[int]:
        turns = self.case.turns
        return [place for place in range(_FIRST, len(turns)) if not turns[place].is_plain]

    def lower_numbers(self) -> None:
        """Every number that is left, one by one."""
        self._lower(range(_FIRST, len(self.case.turns)))

    def _lower(self, places: range) -> None:
        for place in places:
            if place >= len(self.case.turns):
                return
            for position in range(len(self.case.turns[place].answers)):
                self._lower_one(place, position)

    def _lower_one(self, place: int, position: int) -> None:
        turns = self.case.turns
        if place >= len(turns) or position >= len(turns[place].answers):
            return
        value = turns[place].answers[position].value
        if not value or self._fails(_changed(turns, place, position, 0)):
            return
        low = 0
        while value - low > 1 and not self._is_over():
            middle = (low + value) // 2
            if self._fails(_changed(self.case.turns, place, position, middle)):
                value = middle
            else:
                low = middle

    # --- the judge --------------------------------------------------------------------------

    def _run(self, choices: Choices, steps: int) -> Outcome:
        # All runs are begun here: who asks for a decision is told by its callers, up to this line.
        return self.runs(choices, steps)

    def _fails(
        self, turns: Sequence[Turn], steps: int | None = None, *, only_these: bool = False
    ) -> bool:
        """Run it; keep it if it breaks the same invariant and is smaller."""
        if self._is_over():
            return False
        case = self.case
        steps = case.steps if steps is None else steps
        choices = AlignedChoices(turns, _acts(case.turns) + _SLACK, only_these=only_these)
        ran = self._run(choices, steps)
        self.trials += 1
        found = ran.finding
        fails = found is not None and found.invariant == case.finding.invariant
        if fails and found is not None:
            smaller = _Case(tuple(choices.turns()), steps, ran.decisions, found)
            fails = smaller.weight < case.weight or steps < case.steps
            if fails:
                self.case = smaller
        if self._on_progress is not None:
            self._on_progress(self.trials, self.case.events)
        return fails


def _effects(turns: Sequence[Turn], cause: int) -> list[int]:
    """The turns that happen as much later as a turn decided, and where nothing else would be."""
    key = turns[cause].key
    if not key or not isinstance(key[0], int):
        return []
    times = {key[0] + 1 + answer.value for answer in turns[cause].answers if answer.value}
    return [
        place
        for place in range(cause + 1, len(turns) - 1)
        if not turns[place].is_left_out
        and turns[place].key[:1]
        and turns[place].key[0] in times
        and turns[place].answers
    ]


def _earlier(turns: Sequence[Turn], place: int) -> int:
    """The last turn before that one that was of its kind, or the start."""
    kind = turns[place].key[1:]
    for earlier in range(place - 1, _FIRST - 1, -1):
        if turns[earlier].key[1:] == kind and not turns[earlier].is_left_out:
            return earlier
    return _FIRST - 1


def _without(turn: Turn, site: Site) -> Turn:
    if not any(answer.site == site and answer.value for answer in turn.answers):
        return turn
    answers = [Answer(site, 0) if one.site == site else one for one in turn.answers]
    return evolve(turn, answers=tuple(answers))


def _changed(turns: Sequence[Turn], place: int, position: int, value: int) -> list[Turn]:
    answers = list(turns[place].answers)
    answers[position] = evolve(answers[position], value=value)
    changed = list(turns)
    changed[place] = evolve(turns[place], answers=tuple(answers))
    return changed


def _shared(key: Key) -> Key:
    """What turns have in common with others: not when they happen, nor their number."""
    if key and isinstance(key[0], str):
        return tuple(part for part in key if isinstance(part, str))
    return key[1:]


def _acts(turns: Sequence[Turn]) -> int:
    return sum(not turn.is_moment for turn in turns)


def _key_parts(turns: Sequence[Turn]) -> int:
    return max((len(turn.key) for turn in turns), default=0)
