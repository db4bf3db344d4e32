"""The levels on which runs are simulated: what it takes to run a recorded one again.

L1 are bare cores; L2 whole nodes in virtual time; L3 the same with a real RocksDB each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from attrs import frozen

from raftkv.testing import simulation
from raftkv.testing.choices import Choices
from raftkv.testing.finding import Outcome
from raftkv.testing.nodes import run as nodes
from raftkv.testing.story import Story

_KEEP: Final = 20_000
"""Events of a story, the newest."""


@frozen
class Level:
    """How to run choices: for as many steps, then the recovery."""

    run: Callable[[Choices, int], Outcome]
    tell: Callable[[Choices, int, str, str], tuple[Outcome, Story]]
    """With the story of it, which gets the given title and the command that replays it."""


def _tell_cores(choices: Choices, steps: int, title: str, how: str) -> tuple[Outcome, Story]:
    outcome = simulation.run(choices, steps)
    return outcome, outcome.story(title, how, keep=_KEEP)


def _run_nodes(choices: Choices, steps: int) -> Outcome:
    return nodes.run(choices, steps)


def _run_rocks(choices: Choices, steps: int) -> Outcome:
    return nodes.run(choices, steps, real_stores=True)


def _tell_nodes(choices: Choices, steps: int, title: str, how: str) -> tuple[Outcome, Story]:
    return _told(nodes.run(choices, steps, keep=_KEEP), title, how)


def _tell_rocks(choices: Choices, steps: int, title: str, how: str) -> tuple[Outcome, Story]:
    return _told(nodes.run(choices, steps, keep=_KEEP, real_stores=True), title, how)


def _told(outcome: nodes.Outcome, title: str, how: str) -> tuple[Outcome, Story]:
    story = outcome.story(title, how)
    assert story is not None  # it was asked for
    return outcome, story


LEVELS: Final[Mapping[str, Level]] = {
    "L1": Level(simulation.run, _tell_cores),
    "L2": Level(_run_nodes, _tell_nodes),
    "L3": Level(_run_rocks, _tell_rocks),
}
