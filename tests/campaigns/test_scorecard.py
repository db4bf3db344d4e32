"""The scorecard says what the ledger holds, and *not run* where it holds nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from raftkv.testing.__main__ import main
from raftkv.testing.campaigns.ledger import Ledger, Line, add_line, load_ledger
from raftkv.testing.campaigns.scorecard import NOT_COUNTED, NOT_RUN, Row, read_limits, scorecard

HOURS = 3600.0


def ledger(*lines: tuple[str, str, Line]) -> Ledger:
    grown: Ledger = {}
    for campaign, part, line in lines:
        grown = add_line(grown, campaign, part, line)
    return grown


def line(cases: int = 1, findings: int = 0, **figures: float) -> Line:
    named = {name.replace("_", " "): value for name, value in figures.items()}
    return Line(1, cases, findings, 1.0, "2030-01-02", named)


def rows(*lines: tuple[str, str, Line]) -> Mapping[str, Row]:
    return {row.name: row for row in scorecard(ledger(*lines), ())}


def test_of_an_empty_ledger_nothing_was_run() -> None:
    told = {row.name: row.text for row in scorecard({}, None)}
    assert told.pop("open known limits") == "no list"
    assert set(told.values()) == {NOT_RUN}
    assert len(told) == 19


def test_simulations_of_all_levels_are_summed_and_told_apart() -> None:
    told = rows(
        (
            "simulate",
            "L1",
            line(2000, steps=12_000_000, faults=160_000, simulated_seconds=48 * HOURS),
        ),
        ("simulate", "L2", line(200, steps=600_000, faults=9_000, simulated_seconds=2 * HOURS)),
        ("simulate", "L2", line(20, histories=20, operations=31_000)),
        ("crash", "cluster", line(30, operations=5)),
    )
    assert told["simulated cluster time"] == Row(
        "simulated cluster time",
        50 * HOURS,
        "2.1 days",
        ("simulate L1 2.0 days", "simulate L2 2.0 hours"),
    )
    assert told["seeds"].text == "2 220"
    assert told["faults injected"].value == 169_000
    assert told["steps of cores"].text == "12 600 000"
    assert told["operations checked"].value == 31_005
    assert told["histories given up as inconclusive"].text == "0"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (90, "1.5 minutes"),
        (2 * HOURS, "2.0 hours"),
        (60 * HOURS, "2.5 days"),
        (86_400 * 365.25 * 5, "5.00 years"),
    ],
)
def test_a_time_is_told_in_what_it_is_long_in(seconds: float, text: str) -> None:
    told = rows(("simulate", "L1", line(simulated_seconds=seconds)))
    assert told["simulated cluster time"].text == text


def test_histories_that_a_checker_gave_up_are_counted_apart() -> None:
    told = rows(("simulate", "L2", line(histories=20, inconclusive=3)))
    assert told["histories given up as inconclusive"].value == 3
    assert rows(("a", "b", line()))["histories given up as inconclusive"].text == NOT_RUN


def test_a_mutant_is_killed_once_it_was_noticed_and_alive_before() -> None:
    told = rows(
        ("mutants", "01 vote", line(killed=0, findings=1)),
        ("mutants", "01 vote", line(killed=1)),
        ("mutants", "02 index", line(killed=0, findings=1)),
        ("mutants", "03 lost", line(killed=1)),
    )
    assert told["mutants killed"] == Row(
        "mutants killed", 2, "2 of 3", ("alive: mutants 02 index",)
    )


def test_a_configuration_explored_twice_counts_once() -> None:
    told = rows(
        ("explore", "A", line(states_max=1000)),
        ("explore", "A", line(states_max=1000)),
        ("explore", "B", line(states_max=30)),
    )
    assert told["distinct states explored"].value == 1030


def test_kills_are_at_least_the_cases_of_lines_from_before_figures() -> None:
    told = rows(
        ("crash", "store", line(300)),
        ("crash", "cluster", line(30, kills=119)),
        ("crash", "pause", line(3)),
        ("power", "store", line(100, cuts=100)),
        ("members", "changes", line(3, cuts=9)),
    )
    assert (told["kill -9 cycles"].value, told["kill -9 cycles"].text) == (419, "at least 419")
    assert told["power cuts"].value == 100, "a cut network is no cut power"


def test_flips_are_told_by_what_became_of_them() -> None:
    figures: dict[str, float] = {
        "flips": 20, "alone: identical": 5, "alone: refused": 15, "with peers: quarantined": 14,
        "with peers: identical": 6,
    }  # fmt: skip
    stores = Line(1, 2, 1, 1.0, "2030-01-02", figures)
    told = rows(("flip", "stores", stores), ("flip", "members", line(9, flips=3, equal=3)))
    of_bits = [row.value for name, row in told.items() if name == "bits flipped" or name[0] == "…"]
    assert of_bits == [
        23, 14, 14, 15, 1,
    ]  # fmt: skip
    old = rows(("flip", "stores", line(44)))
    assert old["bits flipped"].text == NOT_COUNTED
    assert old["… wrong, short, or an error of no type of ours"].value == 0


def test_the_longest_stall_is_one_and_says_whose() -> None:
    told = rows(
        ("crash", "pause", Line(figures={"loop stall ms max": 4.5})),
        ("crash", "cluster", Line(figures={"loop stall ms max": 31.25})),
    )
    assert told["longest loop stall"] == Row(
        "longest loop stall", 31.2, "31.2 ms", ("crash cluster",)
    )


def test_findings_are_never_forgotten() -> None:
    assert rows(("a", "b", line()))["findings ever entered"].text == "0"
    told = rows(("a", "b", line(findings=2)), ("a", "c", line(findings=1)))
    assert told["findings ever entered"] == Row("findings ever entered", 3, "3", ("a b 2", "a c 1"))


def test_limits_are_counted_and_named(tmp_path: Path) -> None:
    path = tmp_path / "known_limits.txt"
    assert read_limits(path) is None
    path.write_text("# a comment\n\nFirst.\n  Second.\n")
    limits = read_limits(path)
    assert scorecard({}, limits)[-1] == Row("open known limits", 2, "2", ("First.", "Second."))


def test_the_command_prints_a_table_or_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ledger.json"
    path.write_text(
        '{"fuzz": {"frames": {"runs": 1, "cases": 7, "findings": 0, "seconds": 1, "last": ""}}}'
    )
    assert main(["report", "--ledger", str(path)]) == 0
    table = capsys.readouterr().out
    assert "fuzz inputs" in table
    assert len(table.splitlines()) == 20
    assert main(["report", "--ledger", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["value"] for row in told["rows"]}["fuzz inputs"] == 7


@pytest.mark.parametrize("text", [None, "[]"])
def test_the_command_says_what_is_wrong_with_the_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    path = tmp_path / "ledger.json"
    if text is not None:
        path.write_text(text)
    assert main(["report", "--ledger", str(path)]) == 2
    assert "ledger.json" in capsys.readouterr().err


def test_the_recorded_ledger_has_a_scorecard() -> None:
    folder = Path(__file__).parents[1]
    limits = read_limits(folder / "known_limits.txt")
    told = {row.name: row for row in scorecard(load_ledger(folder / "campaigns.json"), limits)}
    assert (told["kill -9 cycles"].value or 0) >= 300
    assert told["open known limits"].value is not None
