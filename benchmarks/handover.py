"""Orderly handing over of leadership under load: the longest time without an acknowledgement.

Three processes on loopback, every write synced, with raftkv's default times. Writers at every
member go on all the time. In half of the runs the leader is told to transfer its leadership, in the
others its node is closed; its process then ends and is started again. The gap is the longest time
between two acknowledgements at one member, the worst of all members that stay open, in a second
that begins with the handing over. The same second before it, with nothing to disturb, is given
beside it. ``slowest`` is the slowest single put; none may fail.
"""

from __future__ import annotations

import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import cast

from benchmarks.processes import Answer
from benchmarks.report import Cell, Report, Target, percentiles_ms
from benchmarks.systems import NAMES, Raftkv

WAYS = ("transfer", "close")


def add_arguments(parser: ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--runs", type=int, default=20, help="times to hand over in each way")
    parser.add_argument("--ways", default=",".join(WAYS), help="how to hand over")
    parser.add_argument("--clients", type=int, default=4, help="outstanding puts at each member")
    parser.add_argument(
        "--window-seconds", type=float, default=1.0, help="where gaps are looked at"
    )
    parser.add_argument(
        "--tick-ms", type=float, default=50.0, help="heartbeat 2, election 20 ticks"
    )
    parser.add_argument("--dir", type=Path, help="where to put data (default: temporary)")


def measure(options: Namespace) -> Report:
    """Hand over again and again."""
    rows: list[dict[str, Cell]] = []
    details: list[dict[str, Cell]] = []
    targets: list[Target] = []
    settings = {"tick_seconds": options.tick_ms / 1e3, "heartbeat_ticks": 2, "election_ticks": 20}
    with (
        tempfile.TemporaryDirectory(prefix="raftkv-bench-", dir=options.dir) as directory,
        Raftkv(Path(directory), "asyncio", settings=settings) as system,
    ):
        for way in cast("str", options.ways).split(","):
            runs = [_run(system, way, number, options) for number in range(options.runs)]
            seconds = [cast("float", run["gap_ms"]) / 1e3 for run in runs]
            quiet = [cast("float", run["quiet_gap_ms"]) / 1e3 for run in runs]
            row: dict[str, Cell] = {"system": "raftkv", "way": way, **percentiles_ms(seconds)}
            row["quiet_p50_ms"] = percentiles_ms(quiet)["p50_ms"]
            row["slowest_put_ms"] = max(cast("float", run["slowest_ms"]) for run in runs)
            row["failed"] = sum(cast("int", run["failed"]) for run in runs)
            rows.append(row)
            details += runs
            targets.append(Target(f"{way}: median gap, ms", _cell(row, "p50_ms"), at_most=200))
            targets.append(Target(f"{way}: longest gap, ms", _cell(row, "max_ms"), at_most=200))
            targets.append(Target(f"{way}: failed puts", _cell(row, "failed"), at_most=0))
    notes: dict[str, Cell] = {
        "outstanding_puts": f"{options.clients} at each member",
        "value_bytes": 256,
        "heartbeat_ms": 2 * options.tick_ms,
        "election_ms": 20 * options.tick_ms,
    }
    return Report("handover", rows, notes, targets, details)


def _cell(row: dict[str, Cell], name: str) -> float:
    return cast("float", row[name])


def _run(system: Raftkv, way: str, number: int, options: Namespace) -> dict[str, Cell]:
    """Hand over once."""
    leader = system.settle()
    others = [name for name in NAMES if name != leader]
    writing: Answer = {"do": "write", "clients": options.clients, "patience_seconds": None}
    for name in NAMES:
        system.ask(name, {**writing, "prefix": f"{way}{number}-{name}"})
    time.sleep(0.3)  # until all write
    quiet_since = time.monotonic()
    time.sleep(options.window_seconds)
    quiet = _gaps(system, NAMES, quiet_since)
    since = time.monotonic()
    problem = None
    if way == "transfer":
        answer = system.ask(leader, {"do": "transfer", "to": others[number % 2]})
        problem = cast("str | None", answer["problem"])
        open_members = NAMES
    else:
        system.children[leader].tell({"do": "close"})
        open_members = tuple(others)
    time.sleep(max(0.0, since + options.window_seconds - time.monotonic()))
    found = _gaps(system, open_members, since)
    for name in open_members:
        system.ask(name, {"do": "rest"})
    if way == "close":
        system.children.pop(leader).end()
        system.start(leader)
    failures: dict[str, int] = {}
    for gap in found:
        for kind, count in cast("dict[str, int]", gap["failures"]).items():
            failures[kind] = failures.get(kind, 0) + count
    return {
        "way": way,
        "run": number,
        "gap_ms": _worst(found, "gap_ms"),
        "quiet_gap_ms": _worst(quiet, "gap_ms"),
        "slowest_ms": _worst(found, "slowest_ms"),
        "failed": sum(failures.values()),
        "failures": ", ".join(f"{count} {kind}" for kind, count in sorted(failures.items())),
        "problem": problem,
    }


def _gaps(system: Raftkv, names: tuple[str, ...], since: float) -> list[Answer]:
    return [system.ask(name, {"do": "gap", "since": since}) for name in names]


def _worst(gaps: list[Answer], what: str) -> float:
    return max(cast("float", gap[what]) for gap in gaps)


__all__ = ["add_arguments", "measure"]
