"""A mutant is killed by a judgement, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from attrs import evolve

from raftkv.errors import InvariantError, NodeStoppedError, StorageCorruptError
from raftkv.testing import replay, simulate
from raftkv.testing.mutants import Mutant, MutantError, broken, load_mutants
from raftkv.testing.mutants.catchers import ByNodes, ByScope, BySeeds, ByTest, Catcher
from raftkv.testing.mutants.command import as_json, as_lines
from raftkv.testing.mutants.judgement import Sighting, in_words, is_judgement
from raftkv.testing.mutants.patch import FilePatch, Hunk
from raftkv.testing.mutants.runner import Kind, Verdict, run_mutants, sighting_of, without
from raftkv.testing.mutants.watch import judged
from raftkv.testing.mutants.worker import work
from tests.source import ROOT

MUTANTS = {one.number: one for one in load_mutants(ROOT)}
HALF_ELECTS = MUTANTS[6]
SEEDS = BySeeds(0, 8, 800)

# --- what counts --------------------------------------------------------------------------------


def test_assertions_and_checks_of_our_own_are_judgements() -> None:
    assert judged(AssertionError("1 == 2")) is not None
    assert judged(InvariantError("a vote was given twice")) is not None
    group = ExceptionGroup("two", [ValueError("x"), StorageCorruptError("a gap")])
    assert isinstance(judged(group), StorageCorruptError)
    with pytest.raises(pytest.fail.Exception) as failed, pytest.raises(KeyError):
        pass
    assert judged(failed.value) is failed.value


def test_what_an_invariant_caused_is_its_judgement() -> None:
    stopped = NodeStoppedError("the node has stopped")
    stopped.__cause__ = InvariantError("commit moved backwards")
    stopped.__cause__.__cause__ = stopped
    assert judged(stopped) is stopped.__cause__


@pytest.mark.parametrize(
    "error",
    [
        NameError("name 'x' is not defined"),
        ImportError("cannot import"),
        SyntaxError("bad"),
        TimeoutError("late"),
        NodeStoppedError("the node has stopped"),
        ExceptionGroup("one", [TypeError("no")]),
        pytest.fail.Exception("Timeout (>60.0s) from pytest-timeout."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_accidents_are_none(error: BaseException) -> None:
    assert judged(error) is None


def test_findings_name_invariants_or_errors() -> None:
    assert all(is_judgement(one, "") for one in ("I9", "I53", "InvariantError"))
    assert not any(is_judgement(one, "") for one in ("NameError", "KeyError", "Iterator"))
    assert is_judgement("I52", "n1 stopped by itself: StorageCorruptError: a gap")
    assert not is_judgement("I52", "n1 stopped by itself: AttributeError: no setter")
    assert in_words(KeyError()) == "KeyError"
    assert in_words(ValueError("a\n  b")) == "ValueError: a b"


# --- the worker ---------------------------------------------------------------------------------


class Told(list[tuple[str, object]]):
    """What a worker said."""

    def __call__(self, about: str, what: object) -> None:
        self.append((about, what))

    @property
    def sightings(self) -> list[Sighting]:
        seen = [cast("dict[str, object]", what) for about, what in self if about == "seen"]
        return [sighting_of(one) for one in seen]

    @property
    def complaints(self) -> list[object]:
        return [what for about, what in self if about == "broken"]


def tried(*catchers: Catcher, every: bool = False, modules: tuple[str, ...] = ()) -> Told:
    told = Told()
    work(modules, catchers, every=every, say=told)
    return told


def test_the_first_seed_that_judges_is_enough() -> None:
    with broken(HALF_ELECTS):
        told = tried(SEEDS, ByTest("tests/never/asked.py"))
    (seen,) = told.sightings
    assert seen.is_judged
    assert seen.what.startswith(("I20: ", "I10: "))


def test_every_seed_that_judges_is_counted_if_asked_for() -> None:
    with broken(HALF_ELECTS):
        told = tried(SEEDS, BySeeds(0, 2, 800, "crashing"), every=True)
    assert len(told.sightings) >= 2
    assert len({one.catcher for one in told.sightings}) == len(told.sightings)
    assert [what for about, what in told if about == "done"] == [
        "seeds 0..8 x 800",
        "seeds 0..2 x 800 in crashing",
    ]


def test_searches_and_whole_nodes_notice_too() -> None:
    with broken(MUTANTS[5]):
        told = tried(ByNodes(0, 1, 50), ByScope("A", 500), ByTest("tests/never/asked.py"))
    assert [one.catcher for one in told.sightings] == ["explore A to 500"]
    with broken(HALF_ELECTS):
        (seen,) = tried(ByNodes(0, 12, 300), ByScope("walks", 1)).sightings
    assert seen.catcher.startswith("nodes ")
    assert seen.is_judged


def test_what_is_sound_gives_nothing_to_see() -> None:
    catchers = (BySeeds(0, 2, 300), ByScope("A", 200), ByScope("walks", 1), ByNodes(0, 1, 100))
    assert not tried(*catchers, every=True).sightings


def test_a_module_that_cannot_be_imported_is_told() -> None:
    (why,) = tried(SEEDS, modules=("raftkv.no_such_module",)).complaints
    assert "raftkv.no_such_module cannot be imported: ModuleNotFoundError" in str(why)


JUDGING = """
import pytest

def test_judges():
    assert 1 == 2

def test_stumbles():
    no_such_name

def test_passes():
    pass

def test_skips():
    pytest.skip("not here")

@pytest.fixture
def broken_fixture():
    assert False

def test_is_not_reached(broken_fixture):
    pass
"""


def test_tests_judge_in_their_calls_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_some.py").write_text(JUDGING)
    monkeypatch.chdir(tmp_path)
    told = tried(ByTest("test_some.py"), every=True)
    assert {one.catcher.partition("::")[2]: one.is_judged for one in told.sightings} == {
        "test_judges": True,
        "test_stumbles": False,
        "test_is_not_reached": False,
    }
    assert "NameError" in told.sightings[1].what
    (why,) = tried(ByTest("test_some.py::test_gone")).complaints
    assert "pytest could not run test_some.py::test_gone: USAGE_ERROR" in str(why)


# --- in this process ----------------------------------------------------------------------------


def test_a_mutant_lasts_as_long_as_its_with() -> None:
    with broken(HALF_ELECTS):
        outcomes = [simulate(seed, 800) for seed in range(8)]
        outcome = next(one for one in outcomes if one.finding is not None)
        assert replay(outcome.decisions, 800).finding == outcome.finding
    assert replay(outcome.decisions, 800).finding is None, "the sound core does not fail"


def test_a_method_is_swapped_in_its_class() -> None:
    with broken(MUTANTS[12]):
        found = [simulate(seed, 800).finding for seed in range(4)]
    assert "I7" in [one.invariant for one in found if one is not None]


def test_what_changes_more_than_functions_or_does_not_fit_is_refused() -> None:
    with pytest.raises(MutantError, match="changes more than functions"), broken(MUTANTS[20]):
        pass
    patch = FilePatch("raftkv/core/quorum.py", (Hunk(("no such line\n",), ("pass\n",)),))
    misfit = evolve(HALF_ELECTS, files=(*HALF_ELECTS.files, patch))
    with pytest.raises(MutantError, match="are there no more"), broken(misfit):
        pass
    assert not tried(BySeeds(0, 2, 300)).sightings, "what was swapped before that is sound again"


# --- the runner ---------------------------------------------------------------------------------


def patched(number: int, path: str, old: str, new: str, *catchers: Catcher) -> Mutant:
    patch = FilePatch(path, (Hunk((old,), (new,)),))
    return evolve(HALF_ELECTS, number=number, catchers=catchers, files=(patch,))


RETURN = "    return voters // 2 + 1\n"
QUORUM = "raftkv/core/quorum.py"


@pytest.mark.campaign
@pytest.mark.timeout(180)
def test_what_teaches_nothing_is_no_kill() -> None:
    mutants = [
        patched(1, QUORUM, "no such line\n", RETURN, SEEDS),
        patched(2, QUORUM, RETURN, "    return )\n", SEEDS),
        patched(3, QUORUM, RETURN, "    return no_such_name\n", BySeeds(0, 1, 100)),
        patched(4, QUORUM, RETURN, "    return 1 + voters // 2\n", BySeeds(0, 1, 100)),
    ]
    verdicts = run_mutants(ROOT, mutants, jobs=2)
    assert [one.kind for one in verdicts] == [Kind.BROKEN] * 3 + [Kind.SURVIVED]
    for one, why in zip(
        verdicts,
        (
            "change 1 is for are there no more",
            "SyntaxError",
            "an accident, no judgement: seeds 0..1 x 100: NameError",
            "nobody noticed: seeds 0..1 x 100",
        ),
        strict=True,
    ):
        assert why in one.why


def test_who_cries_wolf_without_the_mutant_has_noticed_nothing() -> None:
    seen = Sighting("seeds 3..4 x 100", "I9: too early", True, 1.0)
    other = evolve(seen, catcher="test tests/a.py::test_b[1]")
    more = evolve(seen, catcher="test tests/a.py::test_b[2]")
    verdict = Verdict(HALF_ELECTS, Kind.KILLED, "", 1.0, (seen, other, more))
    assert verdict.killers == 2
    assert without(verdict, set()) is verdict
    left = without(verdict, {seen.catcher})
    assert (left.kind, left.killers) == (Kind.KILLED, 1)
    assert left.why == "test tests/a.py::test_b[1]: I9: too early"
    nothing = without(verdict, {one.catcher for one in verdict.sightings})
    assert nothing.kind is Kind.BROKEN
    assert nothing.why.startswith("red without the mutant, too: ")


def test_verdicts_are_told_in_lines_and_as_json() -> None:
    seen = Sighting("seeds 3..4 x 100", "I9: too early", True, 1.25)
    verdicts = [
        Verdict(HALF_ELECTS, Kind.KILLED, f"{seen.catcher}: {seen.what}", 2.0, (seen,)),
        Verdict(MUTANTS[7], Kind.SURVIVED, "nobody noticed: seeds 0..1 x 100", 3.0),
    ]
    assert as_lines(verdicts, 5.4) == [
        " 6 killed by 1: half is a majority",
        "     seeds 3..4 x 100: I9: too early after 1.2 s",
        " 7 survived: entries of older terms committed by counting",
        "     nobody noticed: seeds 0..1 x 100",
        "1 of 2 mutants killed in 5 s",
    ]
    told = as_json(verdicts, 5.4)
    assert (told["mutants"], told["killed"], told["seconds"]) == (2, 1, 5.4)
