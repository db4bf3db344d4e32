"""What ``benchmarks put`` compares: three raftkv members, three etcd members, one disk."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, cast

from rocksdict import Options, Rdict, WriteBatch, WriteOptions

from benchmarks.load import key_of, value_of
from benchmarks.processes import (
    Answer,
    Child,
    cpu_seconds,
    end_process,
    free_ports,
    rss_mib,
    start_quietly,
)

NAMES: tuple[str, ...] = ("n1", "n2", "n3")


class System(Protocol):
    """Three members under a load."""

    name: str

    def __enter__(self) -> Self:
        """Start it and wait for a leader."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        ...

    def load(self, mode: str, run: int, clients: int, seconds: float) -> Answer:
        """Put for so long; ``mode`` says from where."""
        ...

    def pids(self) -> list[int]:
        """Its members' process ids."""
        ...

    def verify(self, expected_min: int, expected_max: int) -> int:
        """How many puts every member holds; raises unless all are equal and within the bounds."""
        ...


def check_counts(system: str, counts: list[int], least: int, most: int) -> int:
    """Members must agree, hold all that was acknowledged, and nothing that was never asked for."""
    if len(set(counts)) != 1 or not least <= counts[0] <= most:
        raise SystemExit(f"{system}: members hold {counts} puts, {least} to {most} were expected")
    return counts[0]


class Raftkv:
    """Three members in three processes, over loopback TCP and RocksDB, every write synced."""

    name = "raftkv"

    def __init__(self, directory: Path, backend: str) -> None:
        ports = free_ports(len(NAMES))
        cluster = {name: f"127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=True)}
        self._members = {
            name: (name, str(directory / name), json.dumps(cluster), backend) for name in NAMES
        }
        self._children: dict[str, Child] = {}

    def __enter__(self) -> Self:
        """Start it and wait for a leader."""
        for name, arguments in self._members.items():
            self._children[name] = Child("benchmarks.member", *arguments)
        self._leader()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        for child in self._children.values():
            child.end()

    def _leader(self) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            leaders = {str(one.ask({"do": "status"})["leader"]) for one in self._children.values()}
            if len(leaders) == 1 and leaders < set(NAMES):
                return leaders.pop()
            time.sleep(0.05)
        raise SystemExit("raftkv: no leader within 60 s")

    def load(self, mode: str, run: int, clients: int, seconds: float) -> Answer:
        """Put from the leader's process or from a follower's."""
        leader = self._leader()
        name = leader if mode == "leader" else next(one for one in NAMES if one != leader)
        command: Answer = {"do": "load", "run": run, "clients": clients, "seconds": seconds}
        return self._children[name].ask(command)

    def pids(self) -> list[int]:
        """Its members' process ids."""
        return [child.pid for child in self._children.values()]

    def verify(self, expected_min: int, expected_max: int) -> int:
        """Compare what every member's own store holds."""
        counts = [
            cast("int", child.ask({"do": "verify"})["count"]) for child in self._children.values()
        ]
        return check_counts(self.name, counts, expected_min, expected_max)


class Etcd:
    """Three etcd members in three processes on loopback, as Debian ships them."""

    name = "etcd"

    def __init__(self, directory: Path) -> None:
        ports = free_ports(2 * len(NAMES))
        self._clients = dict(zip(NAMES, ports[:3], strict=True))
        self._peers = dict(zip(NAMES, ports[3:], strict=True))
        self._directory = directory
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @staticmethod
    def is_installed() -> bool:
        """Whether the ``etcd`` command exists."""
        return shutil.which("etcd") is not None

    def __enter__(self) -> Self:
        """Start it and wait for a leader."""
        peers = {name: f"http://127.0.0.1:{port}" for name, port in self._peers.items()}
        clients = {name: f"http://127.0.0.1:{port}" for name, port in self._clients.items()}
        self._directory.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            command = ["etcd", "--name", name, "--data-dir", str(self._directory / name)]
            command += ["--listen-client-urls", clients[name]]
            command += ["--advertise-client-urls", clients[name]]
            command += ["--listen-peer-urls", peers[name]]
            command += ["--initial-advertise-peer-urls", peers[name]]
            cluster = ",".join(f"{one}={url}" for one, url in peers.items())
            command += ["--initial-cluster", cluster, "--logger", "zap"]
            self._processes[name] = start_quietly(command, self._directory / f"{name}.log")
        self._leader()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        for process in self._processes.values():
            end_process(process)

    def _call(self, name: str, path: str, body: Answer) -> Answer:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._clients[name]}/v3/{path}", json.dumps(body).encode()
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return cast("Answer", json.loads(answer.read()))

    def _leader(self) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                for name in NAMES:
                    status = self._call(name, "maintenance/status", {})
                    header = cast("Answer", status["header"])
                    if status.get("leader") == header["member_id"]:
                        return name
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.05)
        raise SystemExit("etcd: no leader within 60 s")

    def load(self, mode: str, run: int, clients: int, seconds: float) -> Answer:
        """Put through a client process connected to the leader."""
        port = self._clients[self._leader()]
        arguments = ["127.0.0.1", str(port), str(run), str(clients), str(seconds)]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.etcd_load", *arguments],
            stdout=subprocess.PIPE,
            check=True,
        )
        return cast("Answer", json.loads(done.stdout))

    def pids(self) -> list[int]:
        """Its members' process ids."""
        return [process.pid for process in self._processes.values()]

    def verify(self, expected_min: int, expected_max: int) -> int:
        """Compare what every member answers to a linearizable count."""
        start, stop = (base64.b64encode(key).decode() for key in (b"bench/", b"bench0"))
        body: Answer = {"key": start, "range_end": stop, "count_only": True}
        counts = [int(str(self._call(name, "kv/range", body).get("count", 0))) for name in NAMES]
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


__all__ = ["Etcd", "Raftkv", "System", "cpu_seconds", "disk_floor", "rss_mib"]
