"""Bugs that other systems had do not happen here, and would be noticed if they did."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

from raftkv.errors import InvariantError
from raftkv.testing.invariants import ViolationError
from raftkv.testing.mutants import Mutant, broken, checkout, load_mutants
from tests.source import ROOT
from tests.zoo import elections, membership, reads, replication, snapshots
from tests.zoo.stage import Scenario, Stage

SCENARIOS = (
    *elections.SCENARIOS,
    *replication.SCENARIOS,
    *reads.SCENARIOS,
    *membership.SCENARIOS,
    *snapshots.SCENARIOS,
)
MUTANTS = {one.number: one for one in load_mutants(checkout())}
# What may say so: a law, the core itself, or a disk that is to keep what makes no log.
JUDGEMENTS = (ViolationError, InvariantError, ValueError)


def bug(scenario: Scenario) -> Mutant:
    """What brings the bug of a scenario back."""
    if isinstance(scenario.mutant, int):
        return MUTANTS[scenario.mutant]
    return Mutant(0, scenario.name, "", "", "core", (), (scenario.mutant,))


def name_of(scenario: Scenario) -> str:
    return scenario.name


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
def test_the_bug_does_not_happen(scenario: Scenario) -> None:
    for seed in range(scenario.seeds):
        scenario.play(Stage(scenario.options, seed))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
def test_the_bug_is_noticed_where_it_is_brought_back(scenario: Scenario) -> None:
    with broken(bug(scenario)):
        for seed in range(scenario.seeds):
            try:
                scenario.play(Stage(scenario.options, seed))
            except JUDGEMENTS:
                return
    pytest.fail(f"nobody noticed in {scenario.seeds} seeds")


def test_one_seed_is_one_story() -> None:
    for scenario in SCENARIOS[::5]:
        stages = [Stage(scenario.options, 5) for _ in range(2)]
        for stage in stages:
            scenario.play(stage)
        first, second = (list(stage.trace.lines()) for stage in stages)
        assert first == second


def defined() -> Iterator[tuple[Path, str]]:
    """The names of all functions and classes of the package but its tools, and where they are."""
    for path in sorted((ROOT / "raftkv").rglob("*.py")):
        place = path.relative_to(ROOT)
        if not place.is_relative_to("raftkv/testing"):
            for name in re.findall(r"^\s*(?:async def|def|class) (\w+)", path.read_text(), re.M):
                yield place, name


DEFINED = tuple(defined())


# --- the table ------------------------------------------------------------------------------


@frozen
class Row:
    """A bug, and where it is tried."""

    source: str
    bug: str
    kind: str
    where: str

    def __str__(self) -> str:
        return f"{self.source}: {self.bug}"


def rows() -> Iterator[Row]:
    for line in (ROOT / "tests/zoo/table.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            source, what, where = line.split(" | ")
            kind, _, rest = where.partition(": ")
            yield Row(source, what, kind, rest)


ROWS = tuple(rows())


def test_every_row_says_where_its_bug_is_tried() -> None:
    assert {row.kind for row in ROWS} == {"scenario", "test", "pending"}
    named = {row.where for row in ROWS if row.kind == "scenario"}
    assert named == {scenario.name for scenario in SCENARIOS}
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)


@pytest.mark.parametrize("row", [row for row in ROWS if row.kind == "test"], ids=str)
def test_a_test_that_is_named_is_there(row: Row) -> None:
    path, _, name = row.where.partition("::")
    assert re.search(rf"^\s*(async )?def {name}\(", (ROOT / path).read_text(), re.M)


@pytest.mark.parametrize("row", [row for row in ROWS if row.kind == "pending"], ids=str)
def test_what_is_pending_has_nothing_to_be_tried_on(row: Row) -> None:
    package, expression = row.where.split(" ", 1)
    subject = re.compile(expression)
    there = [name for place, name in DEFINED if place.is_relative_to(package.replace(".", "/"))]
    assert there
    found = [name for name in there if subject.search(name)]
    assert not found, f"{row} can be tried now"
