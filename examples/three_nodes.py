"""Three processes, real disks and sockets, and the leader killed in the middle of the load.

    python examples/three_nodes.py --ops 2000 --kill-leader

starts three members, writes through one that will survive, sends SIGKILL to the leader after half
of the operations, goes on, restarts the killed member, and then compares every acknowledged write
with what each member has in its own store. Each acknowledgement is recorded with fsync before it
counts. Exit 1 if one is missing or differs anywhere. ``--dir`` keeps the data; run it again on it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, cast

import anyio
import anyio.to_thread

import raftkv

NAMES: tuple[str, ...] = ("n1", "n2", "n3")
WORKERS = 16
PAGE = 1_000
Reply = dict[str, object]


# --- a member: one process ------------------------------------------------------------------------


async def commands() -> AsyncIterator[tuple[str, str]]:
    """Commands from the parent, with their argument, until it closes the pipe or dies."""
    os.set_blocking(sys.stdin.fileno(), False)
    rest = b""
    while True:
        await anyio.wait_readable(sys.stdin)
        data = os.read(sys.stdin.fileno(), 65536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            command, _, argument = line.decode().partition(" ")
            yield command, argument


def reply(**fields: object) -> None:
    """Answer the parent with one line of JSON."""
    print(json.dumps(fields), flush=True)


class Acknowledgements:
    """Acknowledged writes, on disk before they count; many share one fsync."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lines: list[bytes] = []
        self._wake = anyio.Event()

    def add(self, key: str, value: str, revision: int) -> None:
        """An acknowledgement arrived."""
        row = [key, value, revision, time.monotonic()]
        self._lines.append(json.dumps(row).encode() + b"\n")
        self._wake.set()

    async def record(self) -> None:
        """Store what arrives and tell the parent how many are stored; until cancelled."""
        count = 0
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            lines, self._lines = self._lines, []
            await anyio.to_thread.run_sync(self._store, b"".join(lines))
            count += len(lines)
            reply(recorded=count)

    def _store(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())


async def load(node: raftkv.Node[raftkv.KvResult], run: str, file: Path) -> None:
    """Put one key after another from several workers until the parent says stop (by cancelling)."""
    numbers = iter(range(1_000_000_000))
    with file.open("ab") as stored:
        acknowledgements = Acknowledgements(stored)

        async def work() -> None:
            for number in numbers:
                key, value = f"run/{run}/{number:09}", f"value {number} of {run}"
                while True:
                    try:
                        put = await node.kv.put(key, value, timeout=2)
                    except (raftkv.UnavailableError, raftkv.OutcomeUnknownError):
                        # No leader just now, or nobody knows. The same value under the same key may
                        # safely be put again.
                        await anyio.sleep(0.01)
                        continue
                    acknowledgements.add(key, value, put.revision)
                    break

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(acknowledgements.record)
            for _ in range(WORKERS):
                tasks.start_soon(work)


async def dump(node: raftkv.Node[raftkv.KvResult], run: str, file: Path) -> int:
    """Write what this member's own store holds of the run, without asking anybody else."""
    rows: dict[str, str] = {}
    start = f"run/{run}/"
    while True:
        page = await node.kv.range(start, f"run/{run}0", limit=PAGE, serializable=True)
        rows.update((item.key.decode(), item.value.decode()) for item in page.items)
        if not page.more:
            break
        start = page.items[-1].key.decode() + "\0"
    await anyio.Path(file).write_text(json.dumps(rows))
    return len(rows)


async def member(options: Namespace) -> None:
    """Run one member until the parent closes the pipe."""
    directory: Path = options.dir
    cluster = cast("dict[str, str]", json.loads((directory / "cluster.json").read_text()))
    async with (
        raftkv.open_node(directory / options.member, name=options.member, cluster=cluster) as node,
        anyio.create_task_group() as tasks,
    ):
        loading = anyio.CancelScope()

        async def run_load(run: str) -> None:
            with loading:
                await load(node, run, directory / f"acknowledged-{run}.log")

        async for command, argument in commands():
            if command == "status":
                status = node.status()
                reply(
                    role=status.role.value,
                    leader=status.leader_name,
                    applied=status.applied,
                    commit=status.commit,
                )
            elif command == "load":
                tasks.start_soon(run_load, argument)
            elif command == "stop":
                loading.cancel()
            elif command == "hand-over":
                await node.transfer_leadership(argument)
                reply()
            elif command == "dump":
                file = directory / f"dump-{options.member}.json"
                reply(rows=await dump(node, argument, file))
        tasks.cancel_scope.cancel()


# --- the parent -----------------------------------------------------------------------------------


class Member:
    """A member's process as the parent sees it."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C reaches the parent alone, which then ends all in order.
        return subprocess.Popen(
            [sys.executable, __file__, "--member", self.name, "--dir", str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def kill(self) -> None:
        """SIGKILL: no goodbye, no flush."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._close_pipes()

    def restart(self) -> None:
        """Start it again on the same directory."""
        self.process = self._start()

    def tell(self, *words: str) -> None:
        """Send a command."""
        pipe = self.process.stdin
        if pipe is not None:
            pipe.write(" ".join(words).encode() + b"\n")
            pipe.flush()

    def hear(self) -> Reply:
        """The next line from the member."""
        line = self.process.stdout.readline() if self.process.stdout else b""
        if not line:
            raise SystemExit(f"{self.name} ended unexpectedly with code {self.process.wait()}")
        return cast("Reply", json.loads(line))

    def ask(self, *words: str) -> Reply:
        """Send a command and wait for its answer, past any progress lines of the load."""
        self.tell(*words)
        while "recorded" in (answer := self.hear()):
            pass
        return answer

    def end(self) -> None:
        """Close the pipe, which ends the member in order, and wait for it."""
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()


def cluster_addresses(directory: Path) -> None:
    """Choose free loopback ports once; they are part of the cluster's identity."""
    file = directory / "cluster.json"
    if file.exists():
        return
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in NAMES]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    addresses = {name: f"127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=True)}
    file.write_text(json.dumps(addresses))


def wait_until(what: str, answer: Callable[[], Reply | None], seconds: float = 60) -> Reply:
    """Ask until there is an answer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = answer()
        if found is not None:
            return found
        time.sleep(0.02)
    raise SystemExit(f"gave up after {seconds:.0f} s waiting for {what}")


def find_leader(members: dict[str, Member]) -> str:
    """The name that every living member calls leader."""

    def agreed() -> Reply | None:
        statuses = [one.ask("status") for one in members.values()]
        leaders = {status["leader"] for status in statuses}
        return statuses[0] if len(leaders) == 1 and all(leaders) else None

    return str(wait_until("a leader", agreed)["leader"])


def run_load(members: dict[str, Member], run: str, options: Namespace) -> tuple[str, str | None]:
    """Write through a survivor, kill the leader half way; the survivor's and the victim's names."""
    half = (options.ops + 1) // 2
    leader = find_leader(members)
    survivor = next(name for name in NAMES if name != leader)
    print(f"{leader} leads; the load comes from {survivor}, {WORKERS} puts at a time")
    loader = members[survivor]
    loader.tell("load", run)
    count = 0
    while count < half:
        count = cast("int", loader.hear()["recorded"])
    victim = None
    if options.kill_leader:
        victim = find_leader({survivor: loader})
        if victim == survivor:  # an election under the load made it leader; it must not be killed
            loader.ask("hand-over", leader)
            victim = leader
        members[victim].kill()
        print(f"SIGKILL to {victim}, the leader, after {count} recorded acknowledgements")
    killed = time.monotonic()
    (loader.directory / f"killed-{run}").write_text(str(killed))
    before = count
    while count < before + half or after(loader.directory, run, killed) < half:
        count = cast("int", loader.hear()["recorded"])
    loader.ask("status")
    loader.tell("stop")
    return survivor, victim


def read_acknowledged(directory: Path, run: str) -> dict[str, tuple[str, float]]:
    """Every recorded acknowledgement: key to (value, time)."""
    rows: dict[str, tuple[str, float]] = {}
    for line in (directory / f"acknowledged-{run}.log").read_bytes().splitlines():
        key, value, _, when = cast("tuple[str, str, int, float]", tuple(json.loads(line)))
        rows[key] = (value, when)
    return rows


def after(directory: Path, run: str, killed: float) -> int:
    """How many acknowledgements came after the kill."""
    return sum(1 for _, when in read_acknowledged(directory, run).values() if when > killed)


def report_pause(directory: Path, run: str, acknowledged: dict[str, tuple[str, float]]) -> None:
    """How long no write was acknowledged around the kill."""
    killed = float((directory / f"killed-{run}").read_text())
    times = sorted(when for _, when in acknowledged.values())
    earlier = max((when for when in times if when <= killed), default=killed)
    gaps = [b - a for a, b in zip([earlier, *times], times, strict=False) if b > killed]
    done = sum(1 for when in times if when <= killed)
    print(f"{done} acknowledged before the kill and {len(times) - done} after it;", end=" ")
    print(f"writing paused for {max(gaps, default=0.0):.2f} s")


def verify(members: dict[str, Member], directory: Path, run: str) -> bool:
    """Compare every acknowledged write with each member's own store; print a table."""
    acknowledged = read_acknowledged(directory, run)
    report_pause(directory, run, acknowledged)
    commits = [cast("int", one.ask("status")["commit"]) for one in members.values()]
    good = True
    print(f"\n{'member':8}{'role':12}{'applied':>10}{'rows':>10}{'missing':>10}{'differ':>10}")
    for name, one in members.items():

        def caught_up(one: Member = one) -> Reply | None:
            status = one.ask("status")
            return status if cast("int", status["applied"]) >= max(commits) else None

        status = wait_until(f"{name} to catch up", caught_up)
        one.ask("dump", run)
        rows = cast("dict[str, str]", json.loads((directory / f"dump-{name}.json").read_text()))
        missing = sum(1 for key in acknowledged if key not in rows)
        differ = sum(1 for key, (value, _) in acknowledged.items() if rows.get(key, value) != value)
        good = good and not missing and not differ
        print(
            f"{name:8}{status['role']!s:12}{status['applied']!s:>10}{len(rows):>10}"
            f"{missing:>10}{differ:>10}"
        )
    verdict = "every one is in every store" if good else "WRITES WERE LOST"
    print(f"\n{len(acknowledged)} acknowledged writes: {verdict}")
    return good


def parent(options: Namespace, directory: Path) -> int:
    """Run the whole story."""
    directory.mkdir(parents=True, exist_ok=True)
    cluster_addresses(directory)
    run = str(len(list(directory.glob("acknowledged-*.log"))) + 1)
    members: dict[str, Member] = {}
    try:
        for name in NAMES:
            members[name] = Member(name, directory)
        _, victim = run_load(members, run, options)
        if victim is not None:
            members[victim].restart()
            print(f"{victim} restarted")
        return 0 if verify(members, directory, run) else 1
    except KeyboardInterrupt:
        print("interrupted; ending the members")
        return 130
    finally:
        for one in members.values():
            one.end()


def main() -> int:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ops", type=int, default=2_000, help="acknowledgements to wait for")
    parser.add_argument("--kill-leader", action="store_true", help="SIGKILL the leader half way")
    parser.add_argument("--dir", type=Path, help="where to keep the data (default: temporary)")
    parser.add_argument("--member", choices=NAMES, help="run one member (used by the parent)")
    options = parser.parse_args()
    if options.ops < 2:
        parser.error("--ops must be at least 2")
    if options.member:
        anyio.run(member, options)
        return 0
    if options.dir:
        return parent(options, options.dir)
    with tempfile.TemporaryDirectory(prefix="raftkv-three-nodes-") as directory:
        return parent(options, Path(directory))


if __name__ == "__main__":
    sys.exit(main())
