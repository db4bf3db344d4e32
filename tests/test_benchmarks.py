"""The benchmarks run and tell what they promise. Their figures are no business of a test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable
from typing import cast

import anyio
import psutil
import pytest
from anyio.lowlevel import checkpoint

from benchmarks import __main__ as command
from benchmarks.load import Writers, preload, preload_key
from benchmarks.report import Report, Target, percentiles_ms
from tests.source import ROOT

Cell = str | int | float | None


def report(*arguments: str) -> dict[str, list[dict[str, Cell]]]:
    """What a benchmark prints with ``--json``."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments, "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        timeout=50,
    )
    found = json.loads(done.stdout)
    assert found["environment"]["raftkv"]
    (one,) = found["reports"]
    assert one["benchmark"] == arguments[0]
    assert one["conditions"]
    return one


def number(row: dict[str, Cell], name: str) -> float:
    value = row[name]
    assert isinstance(value, int | float)
    return value


# --- the commands -----------------------------------------------------------------------------


def test_core_tells_what_a_step_costs() -> None:
    rows = report("core", "--rounds", "1")["rows"]
    assert all(number(row, "us") > 0 for row in rows)


def test_put_compares_raftkv_with_pysyncobj_and_verifies_both() -> None:
    options = ("--clients", "4", "--seconds", "0.2", "--modes", "leader")
    found = report("put", *options, "--systems", "disk,raftkv,pysyncobj")
    systems = {str(row["system"]): row for row in found["rows"]}
    assert set(systems) == {"disk", "raftkv", "pysyncobj", "pysyncobj_tuned"}
    for name, row in systems.items():
        assert number(row, "per_second") > 0
        assert name == "disk" or number(row, "verified_puts") > 0
    assert number(systems["raftkv"], "times_pysyncobj") > 0
    assert [target["verdict"] for target in found["targets"]] == ["not measured"] * 2


def test_kv_tells_what_operations_and_stores_cost() -> None:
    options = ("--keys", "2000", "--seconds", "0.2", "--sizes", "1", "--systems", "raftkv")
    found = report("kv", *options)
    rows = found["rows"]
    assert len(rows) == 12
    # A busy machine may not get to one operation in so short a time, but not to none of any kind.
    assert sum(number(row, "per_second") for row in rows[:-1]) > 0
    assert all(number(row, "failed") == 0 for row in rows[:-1])
    assert number(rows[-1], "rss_mib") > 0
    assert [target["holds"] is None for target in found["targets"]] == [False] * 3 + [True]


def test_watch_tells_what_watchers_cost_puts() -> None:
    few = ("--watchers", "20", "--prefixes", "4", "--clients", "4", "--seconds", "0.1")
    floor, *rows = report("watch", *few, "--rounds", "1")["rows"]
    assert number(floor, "cpu_us_per_delivery") > 0
    assert [number(row, "puts_per_second") > 0 for row in rows] == [True] * 4
    delivered = [number(row, "delivered_per_put") for row in rows]
    assert delivered[:2] == [0, 0]
    assert 0 < delivered[2] <= 5
    assert 0 < delivered[3] <= 5


def test_failover_kills_a_leader_and_sees_writes_go_on() -> None:
    times = ("--heartbeat-ms", "20", "--election-ms", "200")
    found = report("failover", "--runs", "1", "--systems", "raftkv", *times)
    (row,) = found["rows"]
    assert number(row, "p50_ms") > 0
    (run,) = found["details"]
    assert number(run, "elections") >= 1
    assert [target["holds"] for target in found["targets"]] == [
        number(row, "p50_ms") <= 1500,
        None,
    ]


def test_handover_transfers_and_closes_leaders() -> None:
    found = report("handover", "--runs", "1", "--window-seconds", "0.2", "--tick-ms", "15")
    assert [row["way"] for row in found["rows"]] == ["transfer", "close"]
    assert all(number(row, "max_ms") > 0 for row in found["rows"])
    assert {run["problem"] for run in found["details"]} == {None}


def test_catchup_brings_an_empty_member_up() -> None:
    found = report("catchup", "--keys", "3000", "--before-seconds", "0.2", "--tick-ms", "15")
    (row,) = found["rows"]
    assert row["way"] == "snapshot"
    for name in ("keys_per_second", "put_rate_kept", "sender_rss_peak_mib"):
        assert number(row, name) > 0
    assert {line["who"] for line in found["details"]} == {"sender", "receiver"}


class _Sound:
    """A benchmark."""

    @staticmethod
    def add_arguments(parser: ArgumentParser) -> None:
        parser.add_argument("--rounds", type=int, default=3)

    @staticmethod
    def measure(options: Namespace) -> Report:
        return Report("sound", [{"rounds": options.rounds}], {"machine": "this one"})


class _Unsound(_Sound):
    @staticmethod
    def measure(options: Namespace) -> Report:
        raise SystemExit("members differ")


def _no_handler(number: int, action: object) -> None:
    """The suite's own handlers stay."""


def test_one_that_fails_does_not_cost_the_figures_of_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"sound": _Sound, "unsound": _Unsound, "last": _Sound}
    monkeypatch.setattr(command, "BENCHMARKS", found)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "all", "--json"])
    monkeypatch.setattr(signal, "signal", _no_handler)
    assert command.main() == 1
    reports = json.loads(capsys.readouterr().out)["reports"]
    assert [one["rows"] for one in reports] == [[{"rounds": 3}], [], [{"rounds": 3}]]
    assert reports[1]["conditions"] == {"failed": "SystemExit: members differ"}
    monkeypatch.setattr(sys, "argv", ["benchmarks", "sound"])
    assert command.main() == 0
    assert "machine=this one" in capsys.readouterr().out


def test_what_a_killed_benchmark_started_ends_with_it() -> None:
    script = (
        "import os, signal, pathlib\n"
        "from benchmarks.processes import start_quietly\n"
        "print(start_quietly(['sleep', '600'], pathlib.Path(os.devnull)).pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, check=False
    )
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    try:
        left = psutil.Process(pid)
        left.wait(timeout=20)  # TimeoutExpired if it lives on
    except psutil.NoSuchProcess:
        pass
    except psutil.TimeoutExpired:
        os.kill(pid, signal.SIGKILL)
        raise


# --- what they count with ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        (Target("rate", 5.0, at_least=5), "holds"),
        (Target("rate", 4.9, at_least=5), "does not hold"),
        (Target("gap", 200.0, at_most=200), "holds"),
        (Target("gap", 201.0, at_most=200), "does not hold"),
        (Target("gap", None, at_most=200), "not measured"),
        (Target("share", 3.0, at_least=1, at_most=2), "does not hold"),
    ],
)
def test_a_target_holds_within_its_bounds(target: Target, verdict: str) -> None:
    assert target.row()["verdict"] == verdict


def test_percentiles_are_of_the_runs_there_were() -> None:
    assert percentiles_ms([]) == {}
    found = percentiles_ms([number / 1000 for number in range(20, 0, -1)])
    assert found == pytest.approx(
        {"runs": 20, "min_ms": 1, "p50_ms": 10.5, "p90_ms": 19, "max_ms": 20}
    )


class _Refused(Exception):
    pass


async def _written(
    answers: Callable[[], Awaitable[None]], patience_seconds: float | None
) -> Writers:
    """Writers that have been stopped by their own third put."""
    turns = 0
    writers: Writers | None = None

    async def put(key: bytes, value: bytes) -> None:
        nonlocal turns
        turns += 1
        if turns == 4 and writers is not None:
            writers.stop()
        await answers()

    writers = Writers(put, (_Refused,), prefix="w", clients=1, patience_seconds=patience_seconds)
    await writers.run()
    return writers


async def test_writers_count_what_was_acknowledged_and_when() -> None:
    writers = await _written(checkpoint, None)
    assert (writers.count, writers.failed) == (3, 0)
    assert writers.first_since(0.0) is not None
    assert writers.first_since(float("inf")) is None
    assert 0 <= writers.slowest_seconds(0.0) < 60


async def test_writers_count_refusals_and_answers_that_do_not_come() -> None:
    async def refuse() -> None:
        raise _Refused

    refused = await _written(refuse, None)
    assert (refused.count, refused.failures) == (0, {"_Refused": 4})
    silent = await _written(anyio.sleep_forever, 0.001)
    assert (silent.count, silent.failures) == (0, {"TimeoutError": 3})


async def test_a_preload_repeats_what_was_refused() -> None:
    seen: dict[bytes, int] = {}

    async def put(key: bytes, value: bytes) -> None:
        seen[key] = seen.get(key, 0) + 1
        if seen[key] == 1 and key == preload_key(1):
            raise _Refused

    await preload(put, (_Refused,), 5)
    assert seen == {preload_key(number): 2 if number == 1 else 1 for number in range(5)}


async def test_the_longest_gap_reaches_over_both_ends() -> None:
    async def put(key: bytes, value: bytes) -> None: ...

    writers = Writers(put, (), prefix="w", clients=1, patience_seconds=None)
    for ended in (1.0, 2.0, 5.0, 5.5):
        writers.note(ended - 0.5, ended)
    assert writers.longest_gap_seconds(2.5, 6.0) == 3.0  # from 2 to 5
    assert writers.longest_gap_seconds(5.2, 10.0) == 4.5  # nothing since 5.5
    assert writers.longest_gap_seconds(0.0, 6.0) == 3.0
    assert writers.longest_gap_seconds(-4.0, 1.5) == 5.0  # nothing before 1
    assert writers.first_since(0.6) == 2.0
    assert cast("float", writers.first_since(4.5)) == 5.0
    assert writers.slowest_seconds(1.0) == 0.5
