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
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from benchmarks.processes import Answer, end_process, free_ports, start_quietly
from benchmarks.systems import NAMES, check_counts


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
