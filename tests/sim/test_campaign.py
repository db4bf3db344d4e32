"""Hundreds of swarm worlds: nothing breaks, everything recovers, and enough was met to mean it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raftkv.testing import simulate
from raftkv.testing.campaign import Summary, run_campaign
from raftkv.testing.marks import STEPS_TO_JUDGE

# A night gives more: RAFTKV_SIMULATION_SCALE=100 makes 50,000 seeds of the 500.
SCALE = int(os.environ.get("RAFTKV_SIMULATION_SCALE", "1"))
SEEDS = 500 * SCALE
STEPS = 1200


@pytest.fixture(scope="module")
def campaign() -> Summary:
    return run_campaign(range(SEEDS), STEPS, jobs=min(os.cpu_count() or 1, 8))


@pytest.mark.campaign
@pytest.mark.timeout(300 * SCALE)
def test_no_world_breaks_an_invariant_and_every_world_recovers(campaign: Summary) -> None:
    assert campaign.seeds == SEEDS
    story = [
        f"seed {one.seed}: {one.invariant} at step {one.step}: {one.broken}\n"
        + "\n".join(one.trace[-30:])
        for one in campaign.found
    ]
    how = f"python -m raftkv.testing simulate --seeds SEED --steps {STEPS} --trace"
    assert not campaign.found, "\n".join([*story, how])


@pytest.mark.campaign
def test_the_worlds_met_what_they_are_meant_to_try(campaign: Summary) -> None:
    assert campaign.steps >= STEPS_TO_JUDGE
    assert not campaign.unmet


def old_failures() -> list[tuple[int, int]]:
    lines = Path(__file__).with_name("seeds.txt").read_text(encoding="utf-8").splitlines()
    kept = [line.split() for line in lines if line and not line.startswith("#")]
    return [(int(words[0]), int(words[1])) for words in kept]


@pytest.mark.parametrize(("seed", "steps"), old_failures())
def test_what_once_failed_does_not_fail_again(seed: int, steps: int) -> None:
    outcome = simulate(seed, steps)
    assert outcome.finding is None, outcome.finding
    assert outcome.steps >= steps
