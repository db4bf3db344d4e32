"""The frame of campaigns: cases run, findings are kept and told, sums are added up."""

from __future__ import annotations

import doctest
import io
import json
import os
import signal
import time
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path
from threading import Thread

import pytest

from raftkv.testing.__main__ import main
from raftkv.testing.campaigns import command
from raftkv.testing.campaigns import ledger as ledger_module
from raftkv.testing.campaigns.facilities import first_lacking, lacks_program
from raftkv.testing.campaigns.frame import (
    FINDINGS_MAX,
    Campaign,
    Case,
    Facts,
    FindingError,
    Order,
    Part,
    as_json,
    as_text,
    directory_of,
    plan,
    progress,
    run,
    shares,
)
from raftkv.testing.campaigns.ledger import (
    Line,
    add_run,
    enter,
    load_ledger,
    save_ledger,
    today,
)


def good(case: Case) -> Facts:
    (case.directory / "file").write_text("x")
    return {"tried": 2}


def odd(case: Case) -> Facts:
    """Finds something in every odd seed."""
    (case.directory / "child.log").write_text("what the child said\n")
    (case.directory / "000012.log").write_text("RocksDB's own")
    if case.seed % 2:
        raise FindingError(f"broken in {case.seed}")
    return {"tried": 1}


def clumsy(_case: Case) -> Facts:
    raise ValueError("the case itself is wrong")


def deadly(_case: Case) -> Facts:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def hanging(_case: Case) -> Facts:
    time.sleep(60)
    return {}


def lacking() -> str | None:
    return "needs the moon"


GOOD = Part(name="good", about="is good", run=good, cases=6)
ODD = Part(name="odd", about="is odd", run=odd, cases=2)
MOON = Part(name="moon", about="is far", run=good, cases=2, lacks=lacking)


def order(tmp_path: Path, **more: object) -> Order:
    return Order(directory=tmp_path, seed=10, **more)  # pyright: ignore[reportArgumentType] - by name


def test_a_full_run_takes_every_part_in_its_share_and_leaves_nothing(tmp_path: Path) -> None:
    seen: list[str] = []
    campaign = Campaign("trial", "tries", (GOOD, MOON))
    done = run(
        campaign, order(tmp_path, jobs=2), on_progress=lambda one: seen.append(progress(one))
    )
    assert done.parts["good"].cases == 6
    assert done.parts["good"].facts == Counter(tried=12)
    assert done.parts["moon"].skipped == "needs the moon"
    assert not done.findings
    assert not list(tmp_path.iterdir())
    assert seen[0].startswith("trial: 0/6 cases, 0 found")
    assert seen[-1].startswith("trial: 6/6 cases, 0 found")
    assert "trial moon: skipped: needs the moon" in as_text(done)
    assert "trial good: 6 cases" in as_text(done)


def test_a_finding_keeps_its_directory_and_says_how_to_see_it_again(tmp_path: Path) -> None:
    done = run(Campaign("trial", "tries", (ODD,)), order(tmp_path, cases=3))
    (finding,) = done.findings
    assert (finding.part, finding.seed, finding.what) == ("odd", 11, "broken in 11")
    assert finding.command == "python -m raftkv.testing trial --part odd --seed 11 --cases 1"
    kept = tmp_path / "odd-11"
    assert [path.name for path in tmp_path.iterdir()] == ["odd-11"]
    assert finding.command in (kept / "finding.txt").read_text()
    text = as_text(done)
    assert "what the child said" in text
    assert "RocksDB's own" not in text
    told = json.loads(as_json(done))
    assert told["parts"]["odd"] == {
        "cases": 3, "findings": 1, "seconds": told["parts"]["odd"]["seconds"],
        "skipped": None, "facts": {"tried": 2},
    }  # fmt: skip
    assert told["findings"][0]["directory"] == str(kept)


def test_whatever_else_a_case_raises_is_a_finding(tmp_path: Path) -> None:
    part = Part(name="clumsy", about="", run=clumsy, cases=1)
    (finding,) = run(Campaign("trial", "", (part,)), order(tmp_path)).findings
    assert "ValueError: the case itself is wrong" in finding.what


def test_a_worker_that_dies_is_a_finding_and_ends_the_run(tmp_path: Path) -> None:
    part = Part(name="deadly", about="", run=deadly, cases=5)
    done = run(Campaign("trial", "", (part,)), order(tmp_path))
    (finding,) = done.findings
    assert finding.what.startswith("the worker died")


def test_a_case_that_hangs_is_a_finding(tmp_path: Path) -> None:
    part = Part(name="hanging", about="", run=hanging, cases=1, seconds_max=0.2)
    (finding,) = run(Campaign("trial", "", (part,)), order(tmp_path)).findings
    assert finding.what == "the case did not end within 0 s"


def test_a_run_ends_early_when_it_has_found_enough(tmp_path: Path) -> None:
    part = Part(name="clumsy", about="", run=clumsy, cases=100)
    done = run(Campaign("trial", "", (part,)), order(tmp_path))
    assert len(done.findings) == done.cases == FINDINGS_MAX


def test_a_run_by_time_goes_on_with_new_seeds_until_it_is_over(tmp_path: Path) -> None:
    done = run(Campaign("trial", "", (GOOD,)), order(tmp_path, minutes=0.02))
    assert done.planned is None
    assert progress(done).startswith(f"trial: {done.cases} cases")
    endless = plan(Campaign("trial", "", (GOOD,)), order(tmp_path, minutes=1.0), {"good": 6})
    seeds = [next(endless)[1] for _ in range(20)]
    assert seeds == list(range(10, 30))


def test_parts_are_mixed_and_each_counts_its_own_seeds(tmp_path: Path) -> None:
    campaign = Campaign("trial", "", (GOOD, ODD))
    work = [
        (part.name, seed) for part, seed in plan(campaign, order(tmp_path), {"good": 6, "odd": 2})
    ]
    assert [seed for name, seed in work if name == "good"] == list(range(10, 16))
    assert [seed for name, seed in work if name == "odd"] == [10, 11]
    assert {name for name, _ in work[:4]} == {"good", "odd"}
    assert list(plan(campaign, order(tmp_path), {})) == []


@pytest.mark.parametrize(
    ("full", "cases", "given"),
    [
        ({"a": 300, "b": 30}, 11, {"a": 10, "b": 1}),
        ({"a": 300, "b": 30}, 1, {"a": 1, "b": 1}),
        ({"a": 1, "b": 1, "c": 1}, 5, {"a": 2, "b": 2, "c": 1}),
    ],
)
def test_cases_are_shared_out_in_proportion_with_one_of_each(
    full: dict[str, int], cases: int, given: dict[str, int]
) -> None:
    assert shares(full, cases) == given


def test_chance_depends_on_seed_and_purpose_alone(tmp_path: Path) -> None:
    case = Case(3, tmp_path)
    assert case.random("a").random() == Case(3, tmp_path / "x").random("a").random()
    assert case.random("a").random() != case.random("b").random()
    assert directory_of(order(tmp_path), GOOD, 3) == tmp_path / "good-3"


def test_what_a_machine_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lacks_program("sh") is None
    assert lacks_program("no-such-program") == "needs the program 'no-such-program'"
    assert first_lacking(None, "the second", "the third") == "the second"
    assert first_lacking(None) is None


# --- the ledger ---------------------------------------------------------------------------------


def test_a_ledger_sums_runs_and_keeps_the_later_date(tmp_path: Path) -> None:
    done = run(Campaign("trial", "", (ODD, MOON)), order(tmp_path, cases=4))
    path = tmp_path / "ledger.json"
    ledger = add_run(add_run(load_ledger(path), done, "2030-05-02"), done, "2030-05-01")
    save_ledger(path, ledger)
    assert load_ledger(path) == ledger
    assert list(ledger["trial"]) == ["odd"], "what was skipped leaves no trace"
    line = ledger["trial"]["odd"]
    assert (line.runs, line.cases, line.findings, line.last) == (2, 8, 4, "2030-05-02")
    assert line.figures == {name: 2 * told for name, told in done.parts["odd"].facts.items()}
    text = path.read_text()
    assert sum('"odd"' in row for row in text.splitlines()) == 1
    save_ledger(path, load_ledger(path))
    assert path.read_text() == text


_BAD_FIGURE = (
    '{"a": {"b": {"runs": 1, "cases": 1, "findings": 0, "seconds": 1, "last": "",'
    ' "figures": {"steps": "many"}}}}'
)


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"b": {}}}', _BAD_FIGURE])
def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ledger.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"ledger\.json is no ledger"):
        load_ledger(path)


def test_a_run_is_entered_with_its_figures_of_which_some_are_the_greatest(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    for steps, stall in ((5, 7.25), (6, 3.0)):
        figures = {"steps": steps, "loop stall ms max": stall}
        enter(path, "sim", "L2", cases=2, findings=1, seconds=0.26, figures=figures)
    line = load_ledger(path)["sim"]["L2"]
    assert (line.runs, line.cases, line.findings, line.seconds) == (2, 4, 2, 0.6)
    assert line.figures == {"steps": 11, "loop stall ms max": 7.2}
    assert line.last == today()


def test_two_who_enter_their_runs_at_once_lose_none(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"

    def enter_many() -> None:
        for _ in range(20):
            enter(path, "sim", "L1", cases=1, findings=0, seconds=0)

    threads = [Thread(target=enter_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load_ledger(path)["sim"]["L1"].cases == 80


def test_a_line_without_figures_is_written_as_it_always_was(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    old = '{"runs": 1, "cases": 3, "findings": 0, "seconds": 1.5, "last": "2030-01-02"}'
    path.write_text('{\n  "crash": {\n    "store": ' + old + "\n  }\n}\n")
    text = path.read_text()
    save_ledger(path, load_ledger(path))
    assert path.read_text() == text


def test_the_example_of_the_ledger_runs() -> None:
    assert doctest.testmod(ledger_module).failed == 0


def test_the_ledger_of_the_repository_can_be_read() -> None:
    ledger = load_ledger(Path(__file__).parents[1] / "campaigns.json")
    for parts in ledger.values():
        assert all(isinstance(line, Line) and line.cases > 0 for line in parts.values())


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "CAMPAIGNS", (Campaign("trial", "tries", (ODD, MOON)),))


def run_line(*arguments: str) -> tuple[int, str, str]:
    parser = ArgumentParser()
    command.add(parser.add_subparsers(dest="command"))
    errors = io.StringIO()
    status, told = command.run_command(parser.parse_args(arguments), errors)
    return status, told, errors.getvalue()


@pytest.mark.usefixtures("trial")
def test_a_command_succeeds_without_findings_and_shows_progress() -> None:
    status, told, shown = run_line("trial", "--cases", "1", "--seed", "2")
    assert status == 0
    assert "trial odd: 1 cases" in told
    assert "trial: 0/1 cases" in shown


@pytest.mark.usefixtures("trial")
def test_a_command_fails_with_a_finding_or_a_skip_that_may_not_be(tmp_path: Path) -> None:
    where = ("--dir", str(tmp_path), "--json")
    assert run_line("trial", "--cases", "2", "--seed", "2", *where)[0] == 1
    assert run_line("trial", "--part", "moon", *where)[0] == 0
    assert run_line("trial", "--part", "moon", "--require", *where)[0] == 1


@pytest.mark.usefixtures("trial")
def test_a_command_adds_to_the_ledger(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.json"
    for _ in range(2):
        run_line("trial", "--cases", "1", "--seed", "2", "--ledger", str(ledger))
    assert load_ledger(ledger)["trial"]["odd"].runs == 2


@pytest.mark.parametrize(
    "arguments", [["crash", "--cases", "0"], ["crash", "--minutes", "0"], ["crash", "--part", "x"]]
)
def test_wrong_arguments_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "error" in capsys.readouterr().err
