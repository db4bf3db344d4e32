"""What is measured: three raftkv members, the systems beside them, and the disk's own floor."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from rocksdict import Options, Rdict, WriteBatch, WriteOptions

from benchmarks.load import key_of, value_of
from benchmarks.processes import Answer, Child, end_children, free_ports, kill_process

NAMES: tuple[str, ...] = ("n1", "n2", "n3")


class System(ABC):
    """Three members that are started together, and ended whatever happens."""

    name: str
    names: Sequence[str] = NAMES

    def __enter__(self) -> Self:
        """Start it and wait for a leader."""
        try:
            for name in self.names:
                self.start(name)
            self.leader()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self.end()

    @abstractmethod
    def start(self, name: str) -> object:
        """Start one member."""

    @abstractmethod
    def end(self) -> None:
        """End all members, those that do not answer as well."""

    @abstractmethod
    def leader(self) -> str:
        """The member that all agree to be the leader, once they do."""

    @abstractmethod
    def load(self, mode: str, run: int, clients: int, seconds: float) -> Answer:
        """Put for so long; ``mode`` says from where."""

    @abstractmethod
    def pids(self) -> list[int]:
        """Its members' process ids."""

    @abstractmethod
    def verify(self, expected_min: int, expected_max: int) -> int:
        """How many puts every member holds; raises unless all are equal and within the bounds."""


def check_counts(system: str, counts: list[int], least: int, most: int) -> int:
    """Members must agree, hold all that was acknowledged, and nothing that was never asked for."""
    if len(set(counts)) != 1 or not least <= counts[0] <= most:
        raise SystemExit(f"{system}: members hold {counts} puts, {least} to {most} were expected")
    return counts[0]


class Raftkv(System):
    """Three members in three processes, over loopback TCP and RocksDB, every write synced."""

    name = "raftkv"

    def __init__(
        self,
        directory: Path,
        backend: str,
        *,
        settings: Mapping[str, float] | None = None,
        names: Sequence[str] = NAMES,
    ) -> None:
        ports = free_ports(len(NAMES))
        self.cluster = {name: f"127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=True)}
        self.directory = directory
        self._backend = backend
        self._settings = dict(settings or {})
        self.names = names
        self.children: dict[str, Child] = {}

    def start(self, name: str, *, joins: bool = False) -> Child:
        """Start one member; ``joins``: one that was added to a running cluster."""
        what = {
            "name": name,
            "directory": str(self.directory / name),
            "cluster": {one: at for one, at in self.cluster.items() if not joins or one != name},
            "joins": joins,
            "settings": self._settings,
        }
        child = self.children[name] = Child("benchmarks.member", json.dumps(what), self._backend)
        return child

    def kill(self, name: str) -> float:
        """SIGKILL one member; when that was, by the monotonic clock."""
        return kill_process(self.children.pop(name).process)

    def end(self) -> None:
        """End all members, those that do not answer as well."""
        end_children(self.children.values())
        self.children.clear()

    def ask(self, name: str, command: Answer) -> Answer:
        """Have a member do something, and wait until it has."""
        return self.children[name].ask(command)

    def status(self, name: str) -> Answer:
        """What a member tells about itself."""
        return self.ask(name, {"do": "status"})

    def leader(self) -> str:
        """The member that all agree to be the leader, once they do."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            leaders = {str(self.status(name)["leader"]) for name in self.children}
            if len(leaders) == 1 and leaders < set(self.children):
                return leaders.pop()
            time.sleep(0.02)
        raise SystemExit("raftkv: no leader within 60 s")

    def settle(self) -> str:
        """Wait until all members follow one leader closely; the leader."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            leader = self.leader()
            peers = cast("dict[str, Answer]", self.status(leader)["peers"])
            others = [peers[name] for name in self.children if name != leader]
            if all(one["connected"] and one["state"] == "REPLICATE" for one in others):
                return leader
            time.sleep(0.02)
        raise SystemExit("raftkv: the members did not get together within 60 s")

    def load(self, mode: str, run: int, clients: int, seconds: float) -> Answer:
        """Put from the leader's process or from a follower's."""
        leader = self.leader()
        name = leader if mode == "leader" else next(one for one in NAMES if one != leader)
        command: Answer = {"do": "load", "run": run, "clients": clients, "seconds": seconds}
        return self.ask(name, command)

    def pids(self) -> list[int]:
        """Its members' process ids."""
        return [child.pid for child in self.children.values()]

    def verify(self, expected_min: int, expected_max: int) -> int:
        """Compare what every member's own store holds."""
        counts = [
            cast("int", child.ask({"do": "verify"})["count"]) for child in self.children.values()
        ]
        return check_counts(self.name, counts, expected_min, expected_max)


def disk_floor(directory: Path, seconds: float) -> tuple[int, list[float], float]:
    """Synced RocksDB batches of one put: what any durable store pays. Count, latencies, seconds."""
    options = Options(raw_mode=True)
    store = Rdict(str(directory), options)
    unsynced = WriteOptions()
    latencies: list[float] = []
    begin = time.perf_counter()
    now = begin
    try:
        while now - begin < seconds:
            batch = WriteBatch(raw_mode=True)
            batch.put(key_of(0, 0, len(latencies)), value_of(len(latencies)))
            store.write(batch, unsynced)
            store.flush_wal(True)
            latencies.append(-now)
            now = time.perf_counter()
            latencies[-1] += now
    finally:
        store.close()
    return len(latencies), sorted(latencies), now - begin
