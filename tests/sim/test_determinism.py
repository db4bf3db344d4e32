"""One seed is one run: in any process, under any hash seed, drawn or replayed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from raftkv.core import digest
from raftkv.testing import Outcome, SeededChoices, replay, run

TRACE = "import sys; from raftkv.testing.__main__ import main; sys.exit(main(sys.argv[1:]))"


def whole(outcome: Outcome) -> str:
    """Everything that was seen of a run."""
    states = [record[3] for record in outcome.trace.records() if record[3] is not None]
    digests = hashlib.sha256(b"".join(map(digest, states))).hexdigest()
    return "\n".join([*outcome.trace.lines(), str(sorted(outcome.marks.items())), digests])


@pytest.mark.parametrize("seed", [3, 26, 71])
def test_a_seed_gives_one_trace_under_every_hash_seed(seed: int) -> None:
    traces = [
        subprocess.run(
            [
                sys.executable,
                "-c",
                TRACE,
                "simulate",
                "--seeds",
                str(seed),
                "--steps",
                "700",
                "--trace",
            ],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1", "4711")
    ]
    assert traces[0].count(b"\n") > 700
    assert traces[0] == traces[1] == traces[2]


@pytest.mark.parametrize("seed", range(6))
def test_a_run_replayed_from_its_decisions_is_the_same_run(seed: int) -> None:
    drawn = run(SeededChoices(seed), 500, keep=None)
    again = replay(drawn.decisions, 500, keep=None)
    assert whole(again) == whole(drawn)
    assert again.decisions == drawn.decisions


def test_different_seeds_give_different_runs() -> None:
    assert len({whole(run(SeededChoices(seed), 200, keep=None)) for seed in range(10)}) == 10


@pytest.mark.parametrize("keep", [0, 1, 3, 10, 100])
def test_every_part_of_a_record_is_a_run(keep: int) -> None:
    """What is missing is the default: in order, no fault."""
    decisions = run(SeededChoices(11), 400).decisions
    for part in (decisions[:keep], decisions[:1] + decisions[1 + keep :]):
        outcome = replay(part, 400)
        assert outcome.finding is None
        assert outcome.steps >= 400


def test_a_run_without_decisions_has_no_faults() -> None:
    outcome = replay((), 500)
    assert outcome.finding is None
    for fault in ("crash", "partition", "message lost", "pause"):
        assert not outcome.marks[fault]
    assert outcome.marks["elected"]
    assert outcome.marks["committed"]
