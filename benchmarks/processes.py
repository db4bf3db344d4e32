"""Child processes that the benchmarks measure: starting, asking, ending them, and their cost."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
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
    return _status_mib(pid, "VmRSS:")


def rss_peak_mib(pid: int) -> float:
    """The most resident memory a process has had since it began, or since :func:`forget_peak`."""
    return _status_mib(pid, "VmHWM:")


def forget_peak(pid: int) -> None:
    """Let :func:`rss_peak_mib` count from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status_mib(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return 0.0


class Child:
    """A Python child that answers lines of JSON on its standard input with lines of JSON."""

    def __init__(self, module: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=_die_with_parent,
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


def _die_with_parent() -> None:
    """In the child: whatever ends the benchmark, SIGKILL included, ends what it started."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def start_quietly(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a program with its output in a file."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,
        )


def kill_process(process: subprocess.Popen[bytes]) -> float:
    """SIGKILL; when that was, by the monotonic clock."""
    at = time.monotonic()
    process.kill()
    process.wait()
    _close_pipes(process)
    return at


def end_children(children: Iterable[Child]) -> None:
    """End all, also when one of them or our own user is in the way."""
    left = list(children)
    for child in left:  # all at once: one that hands over waits for others
        if child.process.stdin is not None:
            with suppress(OSError):  # it is dead already
                child.process.stdin.close()
    for child in left:
        child.end()


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Close pipes, ask it to end, and insist after a while."""
    try:
        if process.stdin is None:
            process.terminate()
        else:
            with suppress(OSError):
                process.stdin.close()
        process.wait(timeout=20)
    except BaseException as error:
        process.kill()
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
    finally:
        _close_pipes(process)


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
