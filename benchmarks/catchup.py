"""An empty member is brought up to a full store, with puts going on: keys/s, put rate, memory.

Three processes on loopback, every write synced. The store is filled first; then one member is
closed, its directory emptied, and it is removed and added again while the leader's process goes on
putting. (With ``--way late`` it is a first member that was never started until then.) The time
counts from the moment it serves, after Python's own start. It has caught up when it has
applied what the leader had committed a moment before. Phases are what both members' status shows,
asked every few milliseconds, and what both log; memory is the kernel's peak of resident memory
since the member began.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from attrs import define

from benchmarks.processes import (
    Answer,
    Child,
    cpu_seconds,
    end_process,
    forget_peak,
    rss_mib,
    rss_peak_mib,
    start_quietly,
)
from benchmarks.report import Cell, Report, Target
from benchmarks.systems import NAMES, Raftkv

_POLL_SECONDS = 0.02
_KEY_LOG_BYTES = 300  # of one put of the preload, in the log
_EMPTY = NAMES[-1]


def add_arguments(parser: ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--keys", type=int, default=1_000_000, help="keys in the store")
    parser.add_argument("--way", default="added", choices=("added", "late"), help="who is empty")
    parser.add_argument("--clients", type=int, default=10, help="outstanding puts meanwhile")
    parser.add_argument(
        "--before-seconds", type=float, default=5.0, help="length of the load to compare with"
    )
    parser.add_argument("--limit-seconds", type=float, default=600.0, help="then it has failed")
    parser.add_argument("--spy", type=Path, help="write profiles by py-spy to this folder")
    parser.add_argument(
        "--tick-ms", type=float, default=50.0, help="heartbeat 2, election 20 ticks"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=NUMBER", help="a setting of the nodes"
    )
    parser.add_argument("--dir", type=Path, help="where to put data (default: temporary)")


def measure(options: Namespace) -> Report:
    """Fill, measure puts alone, measure catching up."""
    keys: int = options.keys
    # Less than the keys need: the member that comes finds no log from the beginning.
    retention = min(64 * 2**20, keys * _KEY_LOG_BYTES // 8)
    settings = {"retention_bytes": retention, "tick_seconds": options.tick_ms / 1e3}
    settings |= {name: float(number) for name, _, number in _parted(options.set)}
    names = NAMES if options.way == "added" else NAMES[:2]
    with (
        tempfile.TemporaryDirectory(prefix="raftkv-bench-", dir=options.dir) as directory,
        Raftkv(Path(directory), "asyncio", settings=settings, names=names) as system,
    ):
        preload: Answer = {"do": "preload", "keys": keys}
        filled = cast("float", system.ask(system.leader(), preload)["seconds"])
        if options.way == "added":
            _add_anew(system)
        run = _Run(system, system.leader(), options)
        phases = run.catch_up()
        _verify(system, keys)
        row, details = run.row(phases), run.diary(phases)
    row["fill_seconds"] = filled
    notes: dict[str, Cell] = {
        "keys": keys,
        "value_bytes": 256,
        "outstanding_puts": options.clients,
        "retention_bytes": retention,
        "empty_member": "removed, added again" if options.way == "added" else "a first one, late",
        "settings": " ".join(options.set) or "defaults",
        "spied_on": "yes" if options.spy else "no",
    }
    return Report("catchup", [row], notes, _targets(row), details)


def _parted(settings: list[str]) -> list[tuple[str, str, str]]:
    return [setting.partition("=") for setting in settings]


def _targets(row: dict[str, Cell]) -> list[Target]:
    figures = {key: value for key, value in row.items() if isinstance(value, float)}
    return [
        Target("keys per second", figures.get("keys_per_second"), at_least=100_000),
        Target("put rate meanwhile, of before", figures.get("put_rate_kept"), at_least=0.5),
        Target("RSS of the sender, MiB", figures.get("sender_rss_peak_mib"), at_most=300),
        Target("RSS of the receiver, MiB", figures.get("receiver_rss_peak_mib"), at_most=300),
    ]


def _add_anew(system: Raftkv) -> None:
    """Close one member, empty its directory, and have it removed and added again."""
    system.settle()
    system.children.pop(_EMPTY).end()
    shutil.rmtree(system.directory / _EMPTY)
    leader = system.leader()
    system.ask(leader, {"do": "remove", "name": _EMPTY})
    system.ask(leader, {"do": "add", "name": _EMPTY, "address": system.cluster[_EMPTY]})


def _verify(system: Raftkv, keys: int) -> None:
    """All members hold the same number of keys, and all that were put."""
    counts = [cast("int", one.ask({"do": "verify"})["count"]) for one in system.children.values()]
    if len(set(counts)) != 1 or counts[0] < keys:
        raise SystemExit(f"raftkv: members hold {counts} keys, {keys} at least were expected")


@define
class Phases:
    """When what was seen, by the monotonic clock."""

    begun: float
    serving: float = 0.0
    snapshot_begun: float = 0.0
    installed: float = 0.0
    caught_up: float = 0.0
    voting: float = 0.0


class _Run:
    """The members and the figures of one catching-up."""

    def __init__(self, system: Raftkv, leader: str, options: Namespace) -> None:
        self._system = system
        self._leader = leader
        self._sender = system.children[leader]
        self._options = options
        self._figures: dict[str, Cell] = {}

    def catch_up(self) -> Phases:
        """Measure the puts alone, then with a member catching up."""
        options, figures = self._options, self._figures
        writing: Answer = {"do": "write", "prefix": "meanwhile", "clients": options.clients}
        self._sender.ask({**writing, "patience_seconds": None})
        time.sleep(1.0)  # warm
        first = self._puts()
        time.sleep(options.before_seconds)
        before = _rate(first, self._puts())
        forget_peak(self._sender.pid)
        figures["sender_rss_before_mib"] = rss_mib(self._sender.pid)
        cpu = cpu_seconds(self._sender.pid)
        phases = Phases(time.monotonic())
        receiver = self._system.start(_EMPTY, joins=options.way == "added")
        receiver.ask({"do": "status"})
        phases.serving = time.monotonic()
        second = self._puts()
        with _spied(options.spy, {"sender": self._sender, "receiver": receiver}):
            self._watch(phases, receiver)
        meanwhile = _rate(second, self._puts())
        figures["sender_cpu_seconds"] = cpu_seconds(self._sender.pid) - cpu
        figures["receiver_cpu_seconds"] = cpu_seconds(receiver.pid)
        figures["sender_rss_peak_mib"] = rss_peak_mib(self._sender.pid)
        figures["receiver_rss_peak_mib"] = rss_peak_mib(receiver.pid)
        while self._sender.ask({"do": "status"})["voters"] != len(NAMES):
            if time.monotonic() > phases.begun + options.limit_seconds:
                raise SystemExit("the member has not become a voter in time")
            time.sleep(_POLL_SECONDS)
        phases.voting = time.monotonic()
        done = self._sender.ask({"do": "rest"})
        figures["puts_per_second_before"] = before
        figures["puts_per_second_meanwhile"] = meanwhile
        figures["put_rate_kept"] = meanwhile / before if before else None
        figures["puts_failed"] = cast("int", done["failed"])
        return phases

    def _puts(self) -> Answer:
        return self._sender.ask({"do": "count"})

    def _watch(self, phases: Phases, receiver: Child) -> None:
        limit = phases.begun + self._options.limit_seconds
        while time.monotonic() < limit:
            sender = self._sender.ask({"do": "status"})
            target = cast("int", sender["commit"])
            peers = cast("dict[str, Answer]", sender["peers"])
            if not phases.snapshot_begun and peers[_EMPTY]["state"] == "SNAPSHOT":
                phases.snapshot_begun = time.monotonic()
            applied = cast("int", receiver.ask({"do": "status"})["applied"])
            if applied and not phases.installed:
                phases.installed = time.monotonic()
            if applied >= target:
                phases.caught_up = time.monotonic()
                return
            time.sleep(_POLL_SECONDS)
        raise SystemExit(f"the member has not caught up within {limit - phases.begun:g} s")

    def row(self, phases: Phases) -> dict[str, Cell]:
        """Everything as one row."""
        seconds = phases.caught_up - phases.serving
        begun = phases.snapshot_begun or phases.serving
        return {
            "system": "raftkv",
            "way": "snapshot" if phases.snapshot_begun else "log",
            "keys_per_second": self._options.keys / seconds,
            "seconds": seconds,
            "start_seconds": phases.serving - phases.begun,
            "until_snapshot_seconds": begun - phases.serving,
            "until_installed_seconds": phases.installed - begun,
            "log_seconds": phases.caught_up - phases.installed,
            "until_voter_seconds": phases.voting - phases.caught_up,
            **self._figures,
        }

    def diary(self, phases: Phases) -> list[dict[str, Cell]]:
        """What both members logged meanwhile."""
        rows: list[dict[str, Cell]] = []
        for role, name in (("sender", self._leader), ("receiver", _EMPTY)):
            answer = self._system.children[name].ask({"do": "log", "since": phases.begun})
            for at, text in cast("list[tuple[float, str]]", answer["lines"]):
                rows.append({"who": role, "after_seconds": at - phases.begun, "logged": text})
        return sorted(rows, key=lambda row: cast("float", row["after_seconds"]))


def _rate(first: Answer, last: Answer) -> float:
    count = cast("int", last["count"]) - cast("int", first["count"])
    return count / (cast("float", last["at"]) - cast("float", first["at"]))


@contextmanager
def _spied(folder: Path | None, members: dict[str, Child]) -> Generator[None]:
    """Let py-spy watch the members meanwhile, one file of stacks for each."""
    if folder is None:
        yield
        return
    beside = str(Path(sys.executable).parent)
    spy = shutil.which("py-spy", path=os.pathsep.join((beside, os.environ.get("PATH", ""))))
    if spy is None:
        raise SystemExit("--spy needs the command py-spy: pip install py-spy")
    folder.mkdir(parents=True, exist_ok=True)
    watching: list[subprocess.Popen[bytes]] = []
    try:
        for name, child in members.items():
            command = [spy, "record", "--pid", str(child.pid), "--native", "--format", "raw"]
            command += ["--output", str(folder / f"{name}.txt"), "--duration", "3600"]
            watching.append(start_quietly(command, folder / f"{name}.log"))
        yield
        for process in watching:
            process.send_signal(signal.SIGINT)
        for process in watching:
            process.wait(timeout=60)  # it writes what it saw
    finally:
        for process in watching:
            end_process(process)


__all__ = ["add_arguments", "measure"]
