"""Who is expected to notice a mutant: seeds of a simulated world, or a test.

A line of a patch's header says which, and how far to look:

    seeds 0..60 x 2000                 swarm worlds of bare cores, 2,000 steps of each
    seeds 0..60 x 3000 in crashing     runs of a world made for it
    nodes 0..10 x 1000                 swarm clusters of whole nodes
    explore A to 20000                 a scope of the exhaustive search, up to so many states
    explore walks to 60                one that is walked through, so many times
    test tests/core/test_log.py::test_a_gap
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from attrs import frozen

from raftkv.testing.explore.scopes import SCOPES
from raftkv.testing.mutants.worlds import WORLDS

_SEEDS: Final = re.compile(r"(seeds|nodes) (\d+)\.\.(\d+) x (\d+)(?: in ([a-z]+))?")
_SCOPE: Final = re.compile(r"explore ([\w-]+) to (\d+)")


@frozen
class BySeeds:
    """Runs of simulated bare cores, one for each seed."""

    first: int
    stop: int
    steps: int
    world: str | None = None
    """A name in WORLDS; None: whatever each seed draws."""

    def __str__(self) -> str:
        where = f" in {self.world}" if self.world else ""
        return f"seeds {self.first}..{self.stop} x {self.steps}{where}"

    def only(self, seed: int) -> BySeeds:
        """One of the seeds."""
        return BySeeds(seed, seed + 1, self.steps, self.world)


@frozen
class ByNodes:
    """Runs of simulated clusters of whole nodes, one for each seed."""

    first: int
    stop: int
    steps: int

    def __str__(self) -> str:
        return f"nodes {self.first}..{self.stop} x {self.steps}"

    def only(self, seed: int) -> ByNodes:
        """One of the seeds."""
        return ByNodes(seed, seed + 1, self.steps)


@frozen
class ByScope:
    """An exploration of all worlds of a scope, or walks through it."""

    name: str
    stop: int
    """States, or walks, after which it ends."""

    def __str__(self) -> str:
        return f"explore {self.name} to {self.stop}"


@frozen
class ByTest:
    """A test, by pytest's id; of a parametrised one all cases, of a file all tests."""

    node: str

    def __str__(self) -> str:
        return f"test {self.node}"


Catcher: TypeAlias = BySeeds | ByNodes | ByScope | ByTest


def parse_catcher(text: str) -> Catcher:
    """The catcher that a line of a header names. Raises ValueError."""
    text = text.strip()
    if text.startswith("test tests/"):
        return ByTest(text.removeprefix("test "))
    scope = _SCOPE.fullmatch(text)
    if scope is not None:
        if scope[1] not in SCOPES:
            raise ValueError(f"there is no scope {scope[1]!r}: it is one of {', '.join(SCOPES)}")
        return ByScope(scope[1], int(scope[2]))
    found = _SEEDS.fullmatch(text)
    if found is None or (found[1] == "nodes" and found[5]):
        raise ValueError(
            f"{text!r} is none of 'seeds A..B x STEPS [in WORLD]', 'nodes A..B x STEPS',"
            " 'explore SCOPE to N' and 'test tests/…'"
        )
    first, stop, steps, world = int(found[2]), int(found[3]), int(found[4]), found[5]
    if found[1] == "nodes":
        return ByNodes(first, stop, steps)
    if world is not None and world not in WORLDS:
        raise ValueError(f"there is no world {world!r}: it is one of {', '.join(sorted(WORLDS))}")
    return BySeeds(first, stop, steps, world)
