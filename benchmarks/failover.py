"""SIGKILL of the leader: the time until a write is acknowledged again, beside etcd's.

Three processes on loopback, every write synced, heartbeats every 100 ms and an election timeout of
1000 ms. At each member a writer puts one value after the other; it waits 100 ms for an answer
before it tries again. Measured is the time from the kill to the first acknowledgement, at either
survivor, of a put that began after the kill. Then the member is started again, and the next run
begins when all follow the leader. ``elections`` counts the terms it took: more than one means that
votes were split. ``broken`` is when the first survivor saw its connection end, ``elected`` when the
first one knew a new leader.
"""

from __future__ import annotations

import json
import tempfile
import time
from abc import abstractmethod
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import cast

from benchmarks.etcd_system import Etcd
from benchmarks.processes import Answer, Child
from benchmarks.report import Cell, Report, Target, percentiles_ms
from benchmarks.systems import NAMES, Raftkv, System

_PATIENCE_SECONDS = 0.1
_LIMIT_SECONDS = 60.0
_WRITING: Answer = {"do": "write", "clients": 1, "patience_seconds": _PATIENCE_SECONDS}


def add_arguments(parser: ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--runs", type=int, default=20, help="leaders to kill in each system")
    parser.add_argument("--systems", default="raftkv,etcd", help="which to measure")
    parser.add_argument("--heartbeat-ms", type=int, default=100)
    parser.add_argument("--election-ms", type=int, default=1000)
    parser.add_argument(
        "--ticks", type=int, default=2, help="raftkv's ticks for each heartbeat (its default: 2)"
    )
    parser.add_argument("--dir", type=Path, help="where to put data (default: temporary)")


class Writers(System):
    """Three members with a writer at each."""

    @abstractmethod
    def kill(self, name: str) -> float:
        """SIGKILL one member; when that was, by the monotonic clock."""

    @abstractmethod
    def settle(self) -> str:
        """Wait until all members follow one leader; the leader."""

    @abstractmethod
    def term(self) -> int:
        """The term of a living member."""

    @abstractmethod
    def ask(self, name: str, command: Answer) -> Answer:
        """Have the writer at a member do something."""

    @abstractmethod
    def marks(self, killed: float) -> dict[str, Cell]:
        """What happened when after the kill, as far as the survivors tell."""


class RaftkvWriters(Raftkv, Writers):
    """raftkv with writers inside its members' processes."""

    def marks(self, killed: float) -> dict[str, Cell]:
        """When the first survivor saw its connection break, and when it knew a new leader."""
        lines: list[tuple[float, str]] = []
        for name in self.children:
            answer = self.ask(name, {"do": "log", "since": killed})
            lines += cast("list[tuple[float, str]]", answer["lines"])
        found: dict[str, Cell] = {"broken_ms": None, "elected_ms": None}
        for at, text in sorted(lines, reverse=True):
            if text.startswith("connection to") and "lost" in text:
                found["broken_ms"] = (at - killed) * 1e3
            elif text.startswith("the leader of term") and not text.endswith("not known"):
                found["elected_ms"] = (at - killed) * 1e3
        return found

    def term(self) -> int:
        """The term of a living member."""
        return cast("int", self.status(next(iter(self.children)))["term"])


class EtcdWriters(Etcd, Writers):
    """etcd with a client process that has a connection to each member."""

    _client: Child | None = None

    def marks(self, killed: float) -> dict[str, Cell]:
        """Nothing beside the time itself."""
        return {}

    def settle(self) -> str:
        """Wait until all members follow one leader; the leader."""
        return self.leader()

    def ask(self, name: str, command: Answer) -> Answer:
        """Have the writer at a member do something."""
        if self._client is None:
            self._client = Child("benchmarks.etcd_writers", json.dumps(self.ports))
        return self._client.ask({**command, "at": name})

    def end(self) -> None:
        """End all members and the writers."""
        client, self._client = self._client, None
        if client is not None:
            client.end()
        super().end()


def measure(options: Namespace) -> Report:
    """Kill leaders."""
    rows: list[dict[str, Cell]] = []
    details: list[dict[str, Cell]] = []
    wanted: list[str] = options.systems.split(",")
    medians: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="raftkv-bench-", dir=options.dir) as directory:
        for system in _systems(options, Path(directory)):
            with system:
                runs = [_run(system, number) for number in range(options.runs)]
            seconds = [cast("float", run["written_ms"]) / 1e3 for run in runs]
            row = {"system": system.name, **percentiles_ms(seconds)}
            rows.append(row)
            details += [{"system": system.name, **run} for run in runs]
            medians[system.name] = cast("float", row["p50_ms"])
    notes: dict[str, Cell] = {
        "heartbeat_ms": options.heartbeat_ms,
        "election_ms": options.election_ms,
        "raftkv_tick_ms": options.heartbeat_ms / options.ticks,
        "writers": "one at each member, patience 100 ms",
    }
    if "etcd" in wanted:
        notes["etcd"] = "Debian etcd-server" if Etcd.is_installed() else "not installed: skipped"
    return Report("failover", rows, notes, _targets(medians), details)


def _targets(medians: dict[str, float]) -> list[Target]:
    ours, theirs = medians.get("raftkv"), medians.get("etcd")
    ratio = ours / theirs if ours and theirs else None
    return [
        Target("raftkv's median, ms", ours, at_most=1500),
        Target("raftkv's median, of etcd's", ratio, at_most=1),
    ]


def _systems(options: Namespace, directory: Path) -> list[Writers]:
    wanted: list[str] = options.systems.split(",")
    found: list[Writers] = []
    if "raftkv" in wanted:
        tick_ms = options.heartbeat_ms / options.ticks
        settings = {
            "tick_seconds": tick_ms / 1e3,
            "heartbeat_ticks": options.ticks,
            "election_ticks": round(options.election_ms / tick_ms),
        }
        found.append(RaftkvWriters(directory / "raftkv", "asyncio", settings=settings))
    if "etcd" in wanted and Etcd.is_installed():
        times = ["--heartbeat-interval", str(options.heartbeat_ms)]
        times += ["--election-timeout", str(options.election_ms)]
        found.append(EtcdWriters(directory / "etcd", times))
    return found


def _run(system: Writers, number: int) -> dict[str, Cell]:
    """Kill the leader once and start it again."""
    leader = system.settle()
    for name in NAMES:
        system.ask(name, {**_WRITING, "prefix": f"run{number}-{name}"})
    # Long enough that all write, and not in step with heartbeats.
    time.sleep(0.5 + number * 0.0371 % 0.1)
    term = system.term()
    killed = system.kill(leader)
    survivors = [name for name in NAMES if name != leader]
    first = _first(system, survivors, killed)
    elections = system.term() - term
    marks = system.marks(killed)
    for name in survivors:
        system.ask(name, {"do": "rest"})
    system.start(leader)
    return {
        "run": number,
        "killed": leader,
        **marks,
        "written_ms": (first - killed) * 1e3,
        "elections": elections,
    }


def _first(system: Writers, survivors: list[str], killed: float) -> float:
    while time.monotonic() < killed + _LIMIT_SECONDS:
        answers = [system.ask(name, {"do": "first", "since": killed})["at"] for name in survivors]
        found = [cast("float", at) for at in answers if at is not None]
        if found:
            return min(found)
        time.sleep(0.01)
    raise SystemExit(f"{system.name}: no write within {_LIMIT_SECONDS:g} s of the kill")


__all__ = ["add_arguments", "measure"]
