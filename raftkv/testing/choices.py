"""Where a run's decisions come from: a seed, a record to replay, or a test's own chooser.

Everything that a simulated world could do one way or another is asked here, and the answers are
kept. The record, not the seed, is the run: it can be replayed after the generator changed, and cut
down. 0 always means *in order, no fault*; an answer that is missing or out of range is 0, so that
every part of a record is a record of some run, and a part with fewer decisions is a simpler run.

Decisions are grouped by *turn* (one thing that happens in the world), so that leaving out those of
one turn does not shift those of the next. A record may also say of a turn that nothing happens in
it (it begins with :data:`SKIPPED`); no seed decides so, but :mod:`~raftkv.testing.shrink` does, to
find out which turns matter. What else such a turn decides, say how long it is until the next one,
is decided all the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

Decisions = tuple[tuple[int, ...], ...]
"""One run: what was decided in each turn, zeros at the ends left out."""

SKIPPED: Final = (-1,)
"""How the decisions of a turn begin in which nothing is to happen."""

_MASK: Final = 2**64 - 1
_GAMMA: Final = 0x9E3779B97F4A7C15
_PER_MILLE: Final = 1000
_TURNS_MAX: Final = 10_000_000  # of a record that is read; a run of an hour has far fewer


class Choices(ABC):
    """The one door through which chance enters a simulated world."""

    __slots__ = ("_turn", "_turns")

    def __init__(self) -> None:
        self._turns: list[list[int]] = []
        self._turn: list[int] = []

    def begin(self, *key: int | str) -> bool:
        """Start the next turn; True if what was to happen in it is left out (no seed says that).

        ``key`` tells the turn from others by what it is (when, what and where, not how many turns
        were before it): by it, a part of a record is fitted to a run in which less happens. A key
        that is a single number is a *moment*, in which only time passes: it cannot be left out. One
        that begins with a word is an *act* from outside of the world, which follows from nothing.
        """
        del key
        self._turn = []
        self._turns.append(self._turn)
        return False

    @abstractmethod
    def choose(self, n: int) -> int:
        """A number from 0 up to and excluding ``n`` (at least 1); 0: in order, no fault."""

    @abstractmethod
    def chance(self, per_mille: int) -> bool:
        """Whether something happens that happens so often. Never asked of the source if it is 0."""

    @abstractmethod
    def weighted(self, weights: Sequence[int]) -> int:
        """A position in ``weights``, picked in proportion to them; not all of them may be 0."""

    def decisions(self) -> Decisions:
        """What was decided so far."""
        turns = [_trimmed(turn) for turn in self._turns]
        while turns and not turns[-1]:
            turns.pop()
        return tuple(turns)


class SeededChoices(Choices):
    """Decisions drawn from a seed by SplitMix64, the core's own generator, the same everywhere."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        super().__init__()
        # Neighbouring seeds must not give overlapping streams: the seed is mixed once.
        self._state = _mixed(seed * _GAMMA + 1)

    def _next(self) -> int:
        # raftkv.core.prng.between, without its tuple: this is the simulator's hottest function.
        self._state = z = (self._state + _GAMMA) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def choose(self, n: int) -> int:
        """A number from 0 up to and excluding ``n``."""
        picked = self._next() % n if n > 1 else 0
        self._turn.append(picked)
        return picked

    def chance(self, per_mille: int) -> bool:
        """Whether something happens that happens so often."""
        if not per_mille:
            return False
        happens = self._next() % _PER_MILLE < per_mille
        self._turn.append(1 if happens else 0)
        return happens

    def weighted(self, weights: Sequence[int]) -> int:
        """A position in ``weights``, picked in proportion to them."""
        left = self._next() % sum(weights)
        position = 0
        while left >= weights[position]:
            left -= weights[position]
            position += 1
        self._turn.append(position)
        return position


class ReplayedChoices(Choices):
    """The decisions of a record, and 0 after its end."""

    __slots__ = ("_given", "_place", "_source")

    def __init__(self, decisions: Decisions) -> None:
        super().__init__()
        self._source = iter(decisions)
        self._given: tuple[int, ...] = ()
        self._place = 0

    def begin(self, *key: int | str) -> bool:
        """Start the next turn, on the next turn of the record."""
        super().begin(*key)
        self._given = next(self._source, ())
        self._place = 0
        if self._given[:1] != SKIPPED:
            return False
        self._turn += SKIPPED
        self._place = 1
        return True

    def _recorded(self) -> int:
        place = self._place
        self._place = place + 1
        return self._given[place] if place < len(self._given) else 0

    def choose(self, n: int) -> int:
        """The recorded number, or 0 if there is none below ``n``."""
        picked = self._recorded()
        if not 0 <= picked < n:
            picked = 0
        self._turn.append(picked)
        return picked

    def chance(self, per_mille: int) -> bool:
        """Whether it is recorded that it happened (and still can)."""
        return bool(per_mille) and self.choose(2) == 1

    def weighted(self, weights: Sequence[int]) -> int:
        """The recorded position, or the first with a weight."""
        picked = self.choose(len(weights))
        if weights[picked]:
            return picked
        return next(position for position, weight in enumerate(weights) if weight)


def _mixed(value: int) -> int:
    z = value & _MASK
    z = ((z ^ (z >> 33)) * 0xFF51AFD7ED558CCD) & _MASK
    return z ^ (z >> 33)


def _trimmed(turn: Sequence[int]) -> tuple[int, ...]:
    stop = len(turn)
    while stop and not turn[stop - 1]:
        stop -= 1
    return tuple(turn[:stop])


def encode_decisions(decisions: Decisions) -> str:
    """A record as text: numbers with commas, turns with semicolons, ``*n`` for n empty turns."""
    parts: list[str] = []
    empty = 0
    for turn in (*decisions, None):
        if turn == ():
            empty += 1
            continue
        if empty:
            parts.append(f"*{empty}")
            empty = 0
        if turn:
            parts.append(",".join(map(str, turn)))
    return ";".join(parts)


def decode_decisions(text: str) -> Decisions:
    """The record in a text. Raises ValueError if it is none."""
    turns: list[tuple[int, ...]] = []
    for part in text.split(";") if text else ():
        if part.startswith("*"):
            count = int(part[1:])
            if count > _TURNS_MAX - len(turns):
                raise ValueError(f"more than {_TURNS_MAX} turns")
            turns += [()] * count
        else:
            turns.append(tuple(int(number) for number in part.split(",")))
    return tuple(turns)
