"""Hundreds of swarm worlds: nothing breaks, everything recovers, and enough was met to mean it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftkv.testing import simulate
from raftkv.testing.campaign import Summary, run_campaign
from raftkv.testing.marks import STEPS_TO_JUDGE

# A night gives more: RAFTKV_SIMULATION_SCALE=100 makes 80,000 seeds of the 800.
SCALE = int(os.environ.get("RAFTKV_SIMULATION_SCALE", "1"))
SEEDS = 800 * SCALE
STEPS = 600
SEEDS_PER_ROW = {"7": 40, "8": 10, "15": 40, "16": 40, "24": 100, "25": 50}
"""How many of the seeds must count for each row of the fault table: a fifth of what each change is
to be tried with, which takes a scale of 6 (python -m raftkv.testing simulate --seeds 0..4800)."""


@pytest.fixture(scope="module")
def campaign() -> Iterator[Summary]:
    with pytest.MonkeyPatch.context() as patch:
        # Other tests show which lines are run; to measure that here takes four times as long.
        patch.delenv("COVERAGE_PROCESS_START", raising=False)
        yield run_campaign(range(SEEDS), STEPS, jobs=min(os.cpu_count() or 1, 8))


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


@pytest.mark.campaign
def test_the_rows_of_the_fault_table_had_their_share_of_the_seeds(campaign: Summary) -> None:
    met = {row.partition(":")[0]: count for row, count in campaign.rows.items()}
    few = {row for row, wanted in SEEDS_PER_ROW.items() if met.get(row, 0) < wanted * SCALE}
    assert not few, met


def old_failures() -> list[tuple[int, int]]:
    lines = Path(__file__).with_name("seeds.txt").read_text(encoding="utf-8").splitlines()
    kept = [line.split() for line in lines if line and not line.startswith("#")]
    return [(int(words[0]), int(words[1])) for words in kept]


@pytest.mark.parametrize(("seed", "steps"), old_failures())
def test_what_once_failed_does_not_fail_again(seed: int, steps: int) -> None:
    outcome = simulate(seed, steps)
    assert outcome.finding is None, outcome.finding
    assert outcome.steps >= steps
