"""Decisions that find their places again in a run in which less happens.

A plain record tells decisions from each other by counting. Leave one message out, and all that it
would have caused is gone too: every later turn is counted wrongly, and answers questions that were
never put to it. Here a turn is found by its key (what was due when, and where), and a decision
within it by the place in the program that asks for it. What is not found is 0, as everywhere.

Only the shrinker works with such records; what it finds is kept as a plain one.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Final

from attrs import frozen

from raftkv.testing.choices import SKIPPED, Choices, Decisions

Site = tuple[int, ...]
"""Where a question is asked: code and instruction of the nearest three callers.

Valid within one process.
"""

Key = tuple[int | str, ...]

_CALLERS: Final = 3


@frozen(slots=True)
class Answer:
    """One decision, and who asked for it."""

    site: Site
    value: int


@frozen(slots=True)
class Turn:
    """One thing that happens, or is left out."""

    key: Key
    answers: tuple[Answer, ...] = ()
    is_left_out: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether nothing but the default was decided in it."""
        return not any(answer.value for answer in self.answers)

    @property
    def is_moment(self) -> bool:
        """Whether only time passes in it: it cannot be left out, and is no event by itself."""
        return is_moment(self.key)

    @property
    def is_event(self) -> bool:
        """Whether something happens in it, be it only that something else goes wrong."""
        return not self.is_left_out and not (self.is_moment and self.is_plain)

    def without(self) -> Turn:
        """The turn in which nothing happens.

        Of an act the answers stay: what tells when it happens tells when the next one does.
        """
        if self.is_moment:
            return Turn(self.key)
        return Turn(self.key, self.answers if _is_act(self.key) else (), is_left_out=True)


def is_moment(key: Key) -> bool:
    """Whether it is the key of a turn in which only time passes."""
    return len(key) == 1 and isinstance(key[0], int)


def _is_act(key: Key) -> bool:
    return bool(key) and isinstance(key[0], str)


class RunTooLongError(Exception):
    """More turns were begun than a run may take that is to be shorter than another."""


class AlignedChoices(Choices):
    """Decisions looked up by turn and place; keeps what was asked in the same form."""

    __slots__ = (
        "_answers",
        "_given",
        "_keys",
        "_left",
        "_left_out",
        "_only_these",
        "_plain",
        "_waiting",
    )

    def __init__(self, turns: Iterable[Turn], turns_max: int, *, only_these: bool = False) -> None:
        """Of turns that are not among those given, all or (``only_these``) none happen.

        Acts from outside that are not among them never happen. ``turns_max`` counts no moments: of
        them there may be twice as many as were given, and as many more.
        """
        super().__init__()
        self._only_these = only_these
        self._waiting: dict[Key, deque[Turn]] = {}
        moments = 0
        for turn in turns:
            self._waiting.setdefault(turn.key, deque()).append(turn)
            moments += turn.is_moment
        self._left = [turns_max, 2 * moments + turns_max]
        """How many more turns may be begun: of those in which something happens, and moments."""
        self._given: dict[Site, deque[int]] = {}
        self._keys: list[Key] = []
        self._answers: list[list[Answer]] = []
        self._left_out: list[bool] = []

    def begin(self, *key: int | str) -> bool:
        """Start the next turn, with the answers of the one that has this key."""
        super().begin(*key)
        of_moment = is_moment(key)
        self._left[of_moment] -= 1
        if self._left[of_moment] < 0:
            raise RunTooLongError("many more turns than in the run that it comes from")
        self._keys.append(key)
        self._answers.append([])
        self._given = {}
        waiting = self._waiting.get(key)
        turn = waiting.popleft() if waiting else None
        is_left_out = self._is_left_out(key) if turn is None else turn.is_left_out
        self._left_out.append(is_left_out)
        if is_left_out:
            self._turn += SKIPPED
        if turn is not None:
            for answer in turn.answers:
                self._given.setdefault(answer.site, deque()).append(answer.value)
        return is_left_out

    def _is_left_out(self, key: Key) -> bool:
        """Of a turn that is not known."""
        return _is_act(key) or (self._only_these and bool(key) and not is_moment(key))

    def choose(self, n: int) -> int:
        """What is known for this place, or 0 if that is nothing below ``n``."""
        return self._found(n, _site())

    def chance(self, per_mille: int) -> bool:
        """Whether it is known that it happens here (and still can)."""
        return bool(per_mille) and self._found(2, _site()) == 1

    def weighted(self, weights: Sequence[int]) -> int:
        """The position known for this place, or the first with a weight."""
        picked = self._found(len(weights), _site())
        if weights[picked]:
            return picked
        return next(position for position, weight in enumerate(weights) if weight)

    def _found(self, n: int, site: Site) -> int:
        given = self._given.get(site)
        picked = given.popleft() if given else 0
        if not 0 <= picked < n:
            picked = 0
        self._answers[-1].append(Answer(site, picked))
        self._turn.append(picked)
        return picked

    def turns(self) -> list[Turn]:
        """What was asked and decided so far."""
        return [
            Turn(key, tuple(answers), is_left_out)
            for key, answers, is_left_out in zip(
                self._keys, self._answers, self._left_out, strict=True
            )
        ]


class NotingChoices(AlignedChoices):
    """A plain record, played by counting, and kept as turns with keys."""

    __slots__ = ("_place", "_source")

    def __init__(self, decisions: Decisions, turns_max: int) -> None:
        super().__init__((), turns_max)
        self._source = iter(decisions)
        self._plain: tuple[int, ...] = ()
        self._place = 0

    def begin(self, *key: int | str) -> bool:
        """Start the next turn, on the next turn of the record."""
        self._plain = next(self._source, ())
        self._place = len(SKIPPED) if self._is_left_out(key) else 0
        return super().begin(*key)

    def _is_left_out(self, key: Key) -> bool:
        return self._plain[:1] == SKIPPED

    def _found(self, n: int, site: Site) -> int:
        place = self._place
        self._place = place + 1
        picked = self._plain[place] if place < len(self._plain) else 0
        if not 0 <= picked < n:
            picked = 0
        self._answers[-1].append(Answer(site, picked))
        self._turn.append(picked)
        return picked


def _site() -> Site:
    frame: FrameType | None = sys._getframe(2)  # pyright: ignore[reportPrivateUsage] - documented
    # A code object hashes all of its code each time: its address tells it well enough while it
    # lives, and code that asks lives as long as the program.
    found: list[int] = []
    for _ in range(_CALLERS):
        if frame is None:
            break
        found += (id(frame.f_code), frame.f_lasti)
        frame = frame.f_back
    return tuple(found)
