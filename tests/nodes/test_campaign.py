"""Campaigns of whole nodes, as a user runs them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from raftkv.errors import DeadlineError
from raftkv.node.waiters import InFlight
from raftkv.testing.__main__ import main
from raftkv.testing.artifact import load
from raftkv.testing.campaigns.ledger import load_ledger
from raftkv.testing.invariants import ViolationError
from raftkv.testing.nodes.campaign import FLOORS_PER_MILLION_STEPS, ROWS, Share, Summary
from raftkv.testing.nodes.liveness import Liveness


def _guessed(self: InFlight, request: int, what: str) -> DeadlineError:
    del self
    return DeadlineError(f"{request} did not happen: {what}")


def test_simulate_tells_what_whole_nodes_met_and_enters_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "ledger.json"
    command = ["simulate", "--level", "2", "--seeds", "0..2", "--steps", "200"]
    assert main([*command, "--json", "--ledger", str(ledger)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["seeds"], told["findings"], told["marks"]["recovered"]) == (2, [], 2)
    line = load_ledger(ledger)["simulate"]["L2"]
    assert (line.cases, line.figures["histories"]) == (2, 2)
    assert line.figures["steps"] == told["steps"] >= 400


def test_a_campaign_ends_when_its_time_is_up(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["simulate", "--level", "2", "--seeds", "5", "--steps", "100"]
    assert main([*command, "--minutes", "0.0001"]) == 0
    assert "0 found" in capsys.readouterr().out


def test_a_finding_is_kept_with_its_story_and_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(InFlight, "_unknown", _guessed)
        command = ["simulate", "--level", "2", "--seeds", "0..6", "--steps", "600"]
        assert main([*command, "--save", str(tmp_path)]) == 1
        path = min(tmp_path.glob("*.json"))
        kept = load(path)
        assert kept.level == "L2"
        assert kept.invariant in ("I47", "I48", "I49")
        assert kept.broken[:20] in kept.trace[-1]
        assert main(["replay", str(path)]) == 1
    assert main(["replay", str(path)]) == 0
    assert "nothing is broken" in capsys.readouterr().out


def test_rows_and_floors_are_of_marks_that_runs_make() -> None:
    summary = Summary()
    marks = Counter(mark for row in ROWS.values() for mark in row)
    summary.add(Share(1, 1_000_000, 1.0, 1, marks, None))
    assert set(summary.rows) == set(ROWS)
    assert len(summary.unmet) == len(FLOORS_PER_MILLION_STEPS)
    assert not summary.is_green
    summary.add(Share(2, 0, 1.0, 1, Counter(FLOORS_PER_MILLION_STEPS), None))
    assert summary.is_green


def test_one_command_tries_all_levels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = tmp_path / "campaigns.json"
    command = ["simulate", "--level", "all", "--seeds", "3..14", "--steps", "100", "--json"]
    assert main([*command, "--ledger", str(ledger)]) == 0
    told = json.loads(capsys.readouterr().out)["levels"]
    assert {level: one["seeds"] for level, one in told.items()} == {"L1": 11, "L2": 2}
    for level, one in told.items():
        assert one["findings"] == []
        assert one["steps_per_second_and_process"] == one["steps_per_second"] > 0
        assert load_ledger(ledger)["simulate"][level].cases == one["seeds"]


def test_one_level_that_is_red_makes_the_whole_red(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def late(*_given: object) -> None:
        raise ViolationError("I53", "they do not agree")

    monkeypatch.setattr(Liveness, "run", late)
    assert main(["simulate", "--level", "all", "--seeds", "2", "--steps", "60"]) == 1
    told = capsys.readouterr().out
    assert "level 1: 1 seeds" in told
    assert "I53 at step" in told
