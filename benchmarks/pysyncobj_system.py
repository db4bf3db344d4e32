"""Three PySyncObj members in three processes: a replicated dictionary with journals on disk.

A journal is a file mapped into memory, which PySyncObj does not sync: a killed process loses
nothing of it, a machine that loses power may.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from benchmarks.processes import Answer, Child, end_children, free_ports
from benchmarks.systems import NAMES, System, check_counts

TUNED: Mapping[str, float] = {"autoTickPeriod": 0.001, "appendEntriesPeriod": 0.001}


class PySyncObj(System):
    """Three members; ``conf`` is what is set beside ``journalFile``."""

    def __init__(self, name: str, directory: Path, conf: Mapping[str, float]) -> None:
        self.name = name
        self._directory = directory
        self._conf = conf
        ports = free_ports(len(NAMES))
        self._addresses = {
            name: f"127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=True)
        }
        directory.mkdir(parents=True, exist_ok=True)
        self._children: dict[str, Child] = {}

    @staticmethod
    def is_installed() -> bool:
        """Whether the package is here."""
        return find_spec("pysyncobj") is not None

    def start(self, name: str) -> None:
        """Start one member."""
        own = self._addresses[name]
        others = [one for one in self._addresses.values() if one != own]
        conf = {**self._conf, "journalFile": str(self._directory / f"{name}.journal")}
        arguments = (own, json.dumps(others), json.dumps(conf))
        self._children[own] = Child("benchmarks.pysyncobj_member", *arguments)

    def end(self) -> None:
        """End all members."""
        end_children(self._children.values())
        self._children.clear()

    def leader(self) -> str:
        """The address that all members agree to be the leader's, once they do."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            leaders = {one.ask({"do": "status"})["leader"] for one in self._children.values()}
            if len(leaders) == 1 and leaders < set(self._addresses.values()):
                return str(leaders.pop())
            time.sleep(0.05)
        raise SystemExit(f"{self.name}: no leader within 60 s")

    def load(self, mode: str, run: int, clients: int, seconds: float) -> Answer:
        """Put from the leader's process."""
        command: Answer = {"do": "load", "run": run, "clients": clients, "seconds": seconds}
        return self._children[self.leader()].ask(command)

    def pids(self) -> list[int]:
        """Its members' process ids."""
        return [child.pid for child in self._children.values()]

    def verify(self, expected_min: int, expected_max: int) -> int:
        """Compare the content of all members, once they have what the leader committed."""
        index = self._children[self.leader()].ask({"do": "status"})["commit"]
        command: Answer = {"do": "verify", "index": index}
        found = [child.ask(command) for child in self._children.values()]
        if len({one["digest"] for one in found}) != 1:
            raise SystemExit(f"{self.name}: the members' contents differ")
        counts = [cast("int", one["count"]) for one in found]
        return check_counts(self.name, counts, expected_min, expected_max)
