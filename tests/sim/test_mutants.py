"""The simulator finds cores that are broken on purpose."""

from __future__ import annotations

import pytest

from raftkv.testing import Finding, replay, simulate
from tests.sim.mutants import MUTANTS, Mutant, broken_core

# What a mutant dies of must be a judgement, not an accident of the change.
ACCIDENTS = {"NameError", "AttributeError", "TypeError", "KeyError", "IndexError", "SyntaxError"}


def first_finding(mutant: Mutant) -> tuple[int, Finding] | None:
    for seed in range(mutant.seeds):
        finding = simulate(seed, mutant.steps, options=mutant.world).finding
        if finding is not None:
            return seed, finding
    return None


@pytest.mark.campaign
@pytest.mark.timeout(180)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_core_is_found(mutant: Mutant) -> None:
    with broken_core(mutant):
        found = first_finding(mutant)
    assert found is not None, f"{mutant.seeds} seeds of {mutant.steps} steps found nothing"
    assert found[1].invariant not in ACCIDENTS, found


def test_a_finding_is_replayed_from_its_decisions() -> None:
    mutant = MUTANTS[0]
    with broken_core(mutant):
        found = first_finding(mutant)
        assert found is not None
        outcome = simulate(found[0], mutant.steps)
        again = replay(outcome.decisions, mutant.steps)
    assert again.finding == outcome.finding == found[1]
    assert replay(outcome.decisions, mutant.steps).finding is None, "the sound core does not fail"


def test_a_mutant_that_does_not_apply_is_an_error() -> None:
    mutant = Mutant("nothing", "quorum", "majority", "no such words", "")
    with pytest.raises(ValueError, match="is not once in majority"), broken_core(mutant):
        pass
