"""Exploration meets every world, finds planted bugs, and says how."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import evolve

from raftkv.testing.__main__ import main
from raftkv.testing.campaigns.ledger import load_ledger
from raftkv.testing.explore.command import as_line as told_as_line
from raftkv.testing.explore.kept import as_deed, as_line, load, told
from raftkv.testing.explore.scope import Scope
from raftkv.testing.explore.scopes import SCOPES, SMALL
from raftkv.testing.explore.search import Explored, Limits, explore, violation_on
from raftkv.testing.explore.space import Act, Deed, Space
from raftkv.testing.explore.symmetry import Symmetry
from raftkv.testing.explore.walks import walk_all
from raftkv.testing.mutants import broken, checkout, load_mutants
from raftkv.testing.story import Kind
from tests.source import ROOT

MUTANTS = {one.number: one for one in load_mutants(checkout())}
TINY = Scope(name="tiny", about="one election", elections=1)


def reached(scope: Scope) -> set[tuple[int, ...]]:
    """All worlds, by the plainest search there is, each as the one that stands for it.

    Without what may still happen in them.
    """
    space = Space(scope)
    symmetry = Symmetry(space)
    todo, seen = [space.first()], {space.first()}
    while todo:
        world = todo.pop()
        for code in space.codes(world):
            after = space.after(world, code)
            if after not in seen:
                seen.add(after)
                todo.append(after)
    return {symmetry.least(world)[:-1] for world in seen}


@pytest.mark.parametrize(
    "scope",
    [
        TINY,
        Scope(name="pair", about="", voters=2, elections=2, drops=1, crashes=1, alike=((1, 2),)),
        evolve(TINY, proposals=1, slow_disks=False),
    ],
)
def test_every_world_is_met_once_whatever_its_members_are_called(scope: Scope) -> None:
    alone = explore(evolve(scope, alike=()))
    found = explore(scope)
    assert found.complete
    assert alone.complete
    assert found.states == len(reached(scope)) < alone.states
    assert found.depth == alone.depth


def test_an_exploration_ends_where_it_is_told_to() -> None:
    few = explore(SCOPES["A"], Limits(states=500))
    assert not few.complete
    assert few.stopped == "500 states"
    assert few.frontier
    shallow = explore(evolve(SCOPES["A"], depth_max=6))
    assert shallow.stopped == "depth 6"
    assert shallow.depth == 6
    assert explore(SCOPES["A"], Limits(seconds=0)).stopped == "0 s"


# Mutant, scope, and the invariants that may say so: the first violation is a shortest one.
PLANTED = [
    (1, "A", {"I12"}),  # no up-to-date check
    (3, "B", {"I2", "I9"}),  # a vote forgotten
    (4, "A", {"I9"}),
    (5, "A", {"I20"}),
    (6, "F-grow", {"I20"}),  # half is a majority
    (7, "figure-8", {"I14"}),
    (11, "F-grow", {"InvariantError"}),
    (13, "A", {"I9"}),
    (15, "A", {"I15"}),
]


@pytest.mark.parametrize(("number", "name", "invariants"), PLANTED)
def test_a_planted_bug_is_found(number: int, name: str, invariants: set[str]) -> None:
    with broken(MUTANTS[number]):
        found = explore(SCOPES[name], Limits(states=20_000)).broken
        assert found is not None
        assert found.invariant in invariants, found
        error = violation_on(Space(SCOPES[name]), found.path)
        assert error is not None
        assert found.broken in str(error)
    assert violation_on(Space(SCOPES[name]), found.path) is None, "the sound core does not fail"


def test_what_is_found_is_confirmed_by_the_simulator_and_told() -> None:
    with broken(MUTANTS[15]):
        found = explore(SCOPES["A"]).broken
        assert found is not None
        retold = told("A", found)
    assert retold.finding is not None
    assert retold.finding.invariant == found.invariant
    kinds = {event.kind for event in retold.story.events}
    assert {Kind.INPUT, Kind.SEND, Kind.DELIVER, Kind.SYNC, Kind.VIOLATION} <= kinds
    assert retold.story.violated is not None


# A match that goes backwards, two changes at once, a snapshot that drops what follows it, half of a
# joint configuration forgotten.
DEEP = [(12, {"I7"}), (21, {"I17"}), (25, {"InvariantError", "I9"}), (43, {"I15"})]


@pytest.mark.parametrize(("number", "invariants"), DEEP)
def test_walks_find_what_breadth_does_not_reach(number: int, invariants: set[str]) -> None:
    with broken(MUTANTS[number]):
        found = walk_all(SCOPES["walks-joint"], range(60)).broken
    assert found is not None
    assert found.invariant in invariants, found


def test_walks_go_deep() -> None:
    sound = walk_all(SCOPES["walks-joint"], range(20))
    assert sound.complete
    assert sound.broken is None
    assert sound.depth == 200
    assert walk_all(SCOPES["walks-joint"], range(60), Limits(seconds=0)).stopped == "0 s"


@pytest.mark.parametrize(
    "deed",
    [Deed(Act.TIMEOUT, 1), Deed(Act.DELIVER, 2, 3), Deed(Act.CRASH, 1, 0, 2)],
)
def test_a_deed_is_a_line(deed: Deed) -> None:
    assert as_deed(as_line(deed)) == deed


# --- the command ----------------------------------------------------------------------------


def test_the_command_explores_and_enters_the_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "ledger.json"
    arguments = ["explore", "--config", "figure-8,walks", "--seeds", "0..3", "--json"]
    assert main([*arguments, "--ledger", str(ledger)]) == 0
    scopes = json.loads(capsys.readouterr().out)["scopes"]
    assert scopes["figure-8"]["complete"]
    assert scopes["walks"]["states"] == 3
    lines = load_ledger(ledger)["explore"]
    assert lines["figure-8"].figures["states max"] == scopes["figure-8"]["states"]
    assert lines["walks"].cases == 3


def test_the_command_keeps_what_it_finds_and_tells_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with broken(MUTANTS[13]):
        assert main(["explore", "--config", "A", "--save", str(tmp_path)]) == 1
        shown = capsys.readouterr().out
        (path,) = tmp_path.glob("*.json")
        assert f"--replay {path}" in shown
        assert "AppendEntries" in shown
        page = tmp_path / "again.html"
        assert main(["explore", "--replay", str(path), "--html", str(page)]) == 1
        assert "I9" in capsys.readouterr().out
        first = tmp_path / "first.html"
        assert main(["explore", "--config", "A", "--html", str(first)]) == 1
    for one in (page, first):
        assert "I9" in one.read_text()
    assert path.with_suffix(".html").read_text().startswith("<!doctype html>")
    assert load(path)[0] == "A"
    assert main(["explore", "--replay", str(path)]) == 0
    assert "nothing is broken" in capsys.readouterr().out


def test_an_unfinished_scope_is_a_fault_if_that_was_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["explore", "--config", "A", "--max-states", "100"]
    assert main(arguments) == 0
    assert "up to 100 states" in capsys.readouterr().out
    assert main([*arguments, "--require"]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"format": 1, "level": "L1"}',
        '{"format": 1, "level": "explore", "scope": "Q"}',
        '{"format": 1, "level": "explore", "scope": "A", "path": ["DELIVER 1 to 2"]}',
    ],
)
def test_a_file_that_is_no_path_is_refused(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "found.json"
    path.write_text(text)
    assert main(["explore", "--replay", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_an_unknown_scope_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["explore", "--config", "A,Q"])
    assert "no scope Q" in capsys.readouterr().err


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_a_b_and_c_are_explored_completely_and_nothing_is_broken() -> None:
    """In a process of its own, which nobody measures: coverage would double its time."""
    command = [sys.executable, "-m", "raftkv.testing", "explore", "--json", "--require"]
    plain = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    done = subprocess.run(
        [*command, "--jobs", "2"], cwd=ROOT, env=plain, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    scopes = json.loads(done.stdout)["scopes"]
    assert set(scopes) == set(SMALL)
    for name, told_of in scopes.items():
        assert told_of["complete"], name
        assert told_of["states"] > 50_000, "far fewer worlds than there are: something is blocked"


def test_what_is_told_of_an_exploration_says_how_far_it_is() -> None:
    some = Explored("A", states=5, generated=9, depth=2, frontier=3, seconds=1.0)
    assert told_as_line(some) == "A: 5 states of 9 met, depth 2, 3 to go, 9/s, 1.0 s, 0 MiB"
