"""Three etcd members in three processes, as Debian ships them."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

from benchmarks.processes import Answer, end_process, free_ports, kill_process, start_quietly
from benchmarks.systems import NAMES, System, check_counts


class Etcd(System):
    """Three etcd members in three processes on loopback, as Debian ships them."""

    name = "etcd"

    def __init__(self, directory: Path, options: Sequence[str] = ()) -> None:
        ports = free_ports(2 * len(NAMES))
        self._options = options
        self.ports = dict(zip(NAMES, ports[:3], strict=True))
        self._peers = dict(zip(NAMES, ports[3:], strict=True))
        self._directory = directory
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        directory.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def is_installed() -> bool:
        """Whether the ``etcd`` command exists."""
        return shutil.which("etcd") is not None

    def start(self, name: str) -> None:
        """Start one member."""
        peers = {one: f"http://127.0.0.1:{port}" for one, port in self._peers.items()}
        client = f"http://127.0.0.1:{self.ports[name]}"
        command = ["etcd", "--name", name, "--data-dir", str(self._directory / name)]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peers[name]]
        command += ["--initial-advertise-peer-urls", peers[name]]
        cluster = ",".join(f"{one}={url}" for one, url in peers.items())
        command += ["--initial-cluster", cluster, "--logger", "zap", *self._options]
        self._processes[name] = start_quietly(command, self._directory / f"{name}.log")

    def kill(self, name: str) -> float:
        """SIGKILL one member; when that was, by the monotonic clock."""
        return kill_process(self._processes.pop(name))

    def end(self) -> None:
        """End all members."""
        for process in self._processes.values():
            end_process(process)
        self._processes.clear()

    def _call(self, name: str, path: str, body: Answer) -> Answer:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports[name]}/v3/{path}", json.dumps(body).encode()
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return cast("Answer", json.loads(answer.read()))

    def term(self) -> int:
        """The term of a living member."""
        status = self._call(next(iter(self._processes)), "maintenance/status", {})
        return int(str(status["raftTerm"]))

    def leader(self) -> str:
        """The member that all living ones agree to be the leader, once they do."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(urllib.error.URLError, OSError):
                found = {
                    name: self._call(name, "maintenance/status", {}) for name in self._processes
                }
                leaders = {status.get("leader") for status in found.values()}
                for name, status in found.items():
                    if leaders == {cast("Answer", status["header"])["member_id"]}:
                        return name
            time.sleep(0.02)
        raise SystemExit("etcd: no leader within 60 s")

    def load(self, mode: str, run: int, clients: int, seconds: float) -> Answer:
        """Put through a client process connected to the leader."""
        port = self.ports[self.leader()]
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
