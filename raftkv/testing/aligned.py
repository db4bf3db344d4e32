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


class RunTooLongError(Exception):
    """More turns were begun than a run may take that is to be shorter than another."""


class AlignedChoices(Choices):
    """Decisions looked up by turn and place; keeps what was asked in the same form."""

    __slots__ = (
        "_answers",
        "_given",
        "_keys",
        "_left_out",
        "_only_these",
        "_plain",
        "_turns_max",
        "_waiting",
    )

    def __init__(self, turns: Iterable[Turn], turns_max: int, *, only_these: bool = False) -> None:
        """Of turns that are not among those given, all or (``only_these``) none happen."""
        super().__init__()
        self._only_these = only_these
        self._waiting: dict[Key, deque[Turn]] = {}
        for turn in turns:
            self._waiting.setdefault(turn.key, deque()).append(turn)
        self._turns_max = turns_max
        self._given: dict[Site, deque[int]] = {}
        self._keys: list[Key] = []
        self._answers: list[list[Answer]] = []
        self._left_out: list[bool] = []

    def begin(self, *key: int | str) -> bool:
        """Start the next turn, with the answers of the one that has this key."""
        super().begin(*key)
        if len(self._keys) >= self._turns_max:
            raise RunTooLongError(f"more than {self._turns_max} turns")
        self._keys.append(key)
        self._answers.append([])
        self._given = {}
        waiting = self._waiting.get(key)
        turn = waiting.popleft() if waiting else None
        is_left_out = turn.is_left_out if turn is not None else self._only_these and bool(key)
        self._left_out.append(is_left_out)
        if is_left_out:
            self._turn += SKIPPED
        elif turn is not None:
            for answer in turn.answers:
                self._given.setdefault(answer.site, deque()).append(answer.value)
        return is_left_out

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
        super().begin(*key)
        self._plain = next(self._source, ())
        self._place = 0
        if self._plain != SKIPPED:
            return False
        self._turn += SKIPPED
        self._left_out[-1] = True
        return True

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
