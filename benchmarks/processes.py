"""Child processes that the benchmarks measure: starting, asking, ending them, and their cost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

Answer = dict[str, object]

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def free_ports(count: int) -> list[int]:
    """So many loopback ports that are free now."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def rss_mib(pid: int) -> float:
    """Resident memory of a process now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Child:
    """A Python child that answers lines of JSON on its standard input with lines of JSON."""

    def __init__(self, module: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def tell(self, command: Answer) -> None:
        """Send a command."""
        pipe = self.process.stdin
        if pipe is None:
            raise RuntimeError("the child has no standard input")
        pipe.write(json.dumps(command).encode() + b"\n")
        pipe.flush()

    def hear(self) -> Answer:
        """Wait for its next answer."""
        line = self.process.stdout.readline() if self.process.stdout else b""
        if not line:
            raise RuntimeError(f"a child ended unexpectedly with code {self.process.wait()}")
        return cast("Answer", json.loads(line))

    def ask(self, command: Answer) -> Answer:
        """Send a command and wait for its answer."""
        self.tell(command)
        return self.hear()

    def end(self) -> None:
        """Close its input, which ends it, and wait."""
        end_process(self.process)


def start_quietly(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a program with its output in a file."""
    with log.open("wb") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Close pipes, ask it to end, and insist after a while."""
    if process.stdin is not None:
        process.stdin.close()
    else:
        process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
