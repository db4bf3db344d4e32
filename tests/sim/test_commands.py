"""The commands, as a user runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import pytest

from raftkv.testing.__main__ import main
from raftkv.testing.artifact import Artifact, load, save
from raftkv.testing.campaign import Share, Summary
from raftkv.testing.choices import encode_decisions
from raftkv.testing.marks import FLOORS_PER_MILLION_STEPS, Marks, missing
from raftkv.testing.mutants import broken, load_mutants
from tests.source import ROOT

BROKEN = next(one for one in load_mutants(ROOT) if one.name == "half is a majority")


def test_simulate_tells_what_it_met(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--seeds", "0..10", "--steps", "300"]) == 0
    shown = capsys.readouterr()
    assert "10 seeds" in shown.out
    assert "elected" in shown.out
    assert "10/10 seeds" in shown.err


def test_simulate_gives_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--seeds", "3", "--steps", "300", "--json"]) == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert (told["seeds"], told["steps_per_seed"], told["findings"]) == (1, 300, [])
    assert told["marks"]["recovered"] == 1
    assert not shown.err


def test_what_simulated_members_log_is_not_told(tmp_path: Path) -> None:
    arguments = ["simulate", "--level", "2", "--seeds", "0..2", "--steps", "600", "--jobs", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "raftkv.testing", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "2 seeds" in done.stdout
    told = done.stderr.replace("\r", "\n").splitlines()
    assert [line for line in told if line and not line.startswith("level 2: ")] == []


def test_processes_find_what_one_finds(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[dict[str, object]] = []
    for jobs in ("1", "2"):
        main(["simulate", "--seeds", "0..24", "--steps", "100", "--jobs", jobs, "--json"])
        told.append(json.loads(capsys.readouterr().out))
    for one in told:
        for name in ("seconds", "jobs", "steps_per_second", "steps_per_second_and_process"):
            del one[name]
    assert told[0] == told[1]


def test_a_finding_is_told_kept_and_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with broken(BROKEN):
        arguments = ["simulate", "--seeds", "0..8", "--steps", "800", "--save", str(tmp_path)]
        assert main(arguments) == 1
        told = capsys.readouterr().out
        path = min(tmp_path.glob("*.json"))
        kept = load(path)
        assert f"replay {path}" in path.with_suffix(".html").read_text(encoding="utf-8")
        assert f"seed {kept.seed} of level 1: {kept.invariant} at step {kept.step}" in told
        assert f"replay {path}" in told

        assert main(["replay", str(path)]) == 1
        again = capsys.readouterr().out
        assert f"{kept.invariant} at step {kept.step}: {kept.broken}" in again
        assert f"VIOLATION {kept.invariant}: {kept.broken}" in again

        assert main(["replay", str(path), "--until", "20"]) == 0
        assert capsys.readouterr().out.count("\n") >= 21

        page, lines = tmp_path / "small.html", tmp_path / "small.ndjson"
        files = ["--html", str(page), "--ndjson", str(lines)]
        small = tmp_path / "small.json"
        assert main(["shrink", str(path), "--seconds", "3", "--out", str(small), *files]) == 1
        assert f"replay {small}" in capsys.readouterr().out
        assert main(["replay", str(small)]) == 1
        assert f"VIOLATION {kept.invariant}" in capsys.readouterr().out
        assert len(encode_decisions(load(small).decisions)) < len(encode_decisions(kept.decisions))
        assert kept.invariant in page.read_text(encoding="utf-8")
        events = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
        assert events[0]["violated"]["invariant"] == kept.invariant
        # How little is left depends on how far it came in that time.
        assert {one["kind"] for one in events[1:]} >= {"INPUT", "VIOLATION"}
        states = [one["state"] for one in events[1:] if one.get("state")]
        assert any(state["role"] == "LEADER" and state["term"] == 2 for state in states)

        stops: list[object] = []
        monkeypatch.setattr("pdb.post_mortem", stops.append)
        assert main(["replay", str(small), "--break", "I99"]) == 1
        assert not stops
        assert main(["replay", str(small), "--break", kept.invariant]) == 1
        assert isinstance(stops[0], TracebackType)

    assert main(["replay", str(path)]) == 0
    assert "nothing is broken" in capsys.readouterr().out
    assert main(["shrink", str(path)]) == 0
    assert "nothing is broken" in capsys.readouterr().out
    copy = tmp_path / "copy.json"
    save(copy, kept)
    assert copy.read_bytes() == path.read_bytes()


def test_a_finding_is_told_by_its_seed_and_a_command_that_shows_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with broken(BROKEN):
        assert main(["simulate", "--seeds", "0..8", "--steps", "800"]) == 1
        told = capsys.readouterr().out
        seed, what = re.findall(r"^seed (\d+) of level 1: (I\d+) at step", told, re.MULTILINE)[0]
        _, _, again = told.partition("  replay with: python -m raftkv.testing ")
        command = again.splitlines()[0].split()
        assert command[:5] == ["simulate", "--level", "1", "--seeds", seed]
        assert "Options(" not in told
        assert max(len(line) for line in told.splitlines()) < 200
        assert main(command) == 1
        assert f"seed {seed}: {what}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2, "level": "L1"}', '{"format": 1, "level": "L1"}', "\0"]
)
def test_a_file_that_is_no_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = tmp_path / "run.json"
    path.write_text(text, encoding="utf-8")
    assert main(["replay", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize("level", ["L1", "L2", "L3"])
def test_a_run_of_every_level_is_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], level: str
) -> None:
    path = tmp_path / "run.json"
    save(path, Artifact(level, 1, 30, (), "I1", "", 1, "", ()))
    assert main(["replay", str(path)]) == 0
    told = capsys.readouterr().out
    assert "nothing is broken in this run any more" in told
    assert f"python -m raftkv.testing replay {path}" in told


@pytest.mark.parametrize("command", ["replay", "shrink"])
def test_a_run_of_another_world_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = tmp_path / "run.json"
    save(path, Artifact("L9", 1, 2, (), "I1", "", 1, "", ()))
    assert main([command, str(path)]) == 2
    assert "no level L9: known are L1, L2, L3" in capsys.readouterr().err


def test_a_missing_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["simulate", "--seeds", "5..5"], ["simulate", "--steps", "0"], ["simulate", "--seeds", "x"]],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "error" in capsys.readouterr().err


def test_a_campaign_that_tried_nothing_is_not_green() -> None:
    summary = Summary()
    summary.add(Share(1000, 2_000_000, 0, Marks(), Marks(), ()))
    assert len(summary.unmet) == len(FLOORS_PER_MILLION_STEPS)
    assert not summary.is_green


def test_floors_grow_with_the_campaign_and_spare_small_ones() -> None:
    floor = FLOORS_PER_MILLION_STEPS["elected"]
    enough = Marks({name: 10 * count for name, count in FLOORS_PER_MILLION_STEPS.items()})
    assert missing(enough, 2_000_000) == []
    enough["elected"] = floor
    assert missing(enough, 2_000_000) == [f"elected: {floor} of at least {2 * floor}"]
    assert missing(Marks(), 1000) == []
