"""What 10,000 watchers on 1,000 prefixes cost the puts of their node, and how late they hear.

One member in this process, on a real disk, every put synced, 256-byte values. Four cases: nobody
watches; all watch, but other keys than those that are put; all watch and each put is in one of the
prefixes, so that ten readers are handed it, and each is a task that takes it; and the same with all
watches of a prefix read by one task, as a server reads them for a connection. Readers run in the
loop of the node: what they do with a change is taken from the same core as the puts.
"""

from __future__ import annotations

import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

import raftkv
from benchmarks.report import Cell, Report, Target
from raftkv.kv.client import Kv

VALUE = b"v" * 256
READY_SECONDS = 30.0


def add_arguments(parser: ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--clients", default="1,100", help="outstanding puts, by commas")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each load")
    parser.add_argument("--watchers", type=int, default=10_000, help="how many watch")
    parser.add_argument("--prefixes", type=int, default=1_000, help="how many prefixes they watch")
    parser.add_argument("--dir", type=Path, help="where to put data (default: temporary)")


def measure(options: Namespace) -> Report:
    """Every case in turn."""
    with tempfile.TemporaryDirectory(prefix="raftkv-bench-", dir=options.dir) as directory:
        rows = anyio.run(_measure, Path(directory), options)
    notes: dict[str, Cell] = {
        "value_bytes": len(VALUE),
        "members": 1,
        "seconds": options.seconds,
        "watchers": options.watchers,
        "prefixes": options.prefixes,
    }
    return Report("watch", rows, notes, _targets(rows))


class Bench:
    """A node with readers, and how late they were."""

    def __init__(self, kv: Kv, options: Namespace, tasks: TaskGroup) -> None:
        self.kv = kv
        self.watchers: int = options.watchers
        self.prefixes: int = options.prefixes
        self.tasks = tasks
        self.delivered = 0
        self.acknowledged: dict[int, float] = {}
        self.late: list[float] = []
        self.noted = 0

    def prefix(self, number: int) -> str:
        return f"{number % self.prefixes:06}/"

    async def read(self, prefix: str, times: int, started: anyio.Event) -> None:
        """So many watches of one prefix, in one task. The first tells how late it is."""
        async with AsyncExitStack() as stack:
            watches = [
                await stack.enter_async_context(self.kv.watch(prefix=prefix, serializable=True))
                for _ in range(times)
            ]
            started.set()
            if times == 1:
                async for change in watches[0]:
                    self.delivered += 1
                    self.note(change.revision)
            while True:
                for watch in watches:
                    change = await anext(watch)
                    self.delivered += 1
                    self.note(change.revision)

    def note(self, revision: int) -> None:
        """How late an event came; 0 if who put it has not even heard that it is done."""
        at = self.acknowledged.pop(revision, None)
        if revision > self.noted:
            self.noted = revision
            self.late.append(0.0 if at is None else time.perf_counter() - at)

    async def start(self, count: int, prefix: Callable[[int], str], times: int = 1) -> None:
        for number in range(count):
            started = anyio.Event()

            async def body(number: int = number, started: anyio.Event = started) -> None:
                await self.read(prefix(number), times, started)

            self.tasks.start_soon(body)
            await started.wait()

    async def put(self, clients: int, seconds: float) -> tuple[int, float]:
        """Puts over all prefixes for so long; how many, and how long it took."""
        end = time.perf_counter() + seconds
        done = 0

        async def client(number: int) -> None:
            nonlocal done
            while time.perf_counter() < end:
                put = await self.kv.put(f"{self.prefix(number)}key", VALUE, timeout=60.0)
                self.acknowledged[put.revision] = time.perf_counter()
                done += 1
                number += clients

        begun = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for number in range(clients):
                tasks.start_soon(client, number)
        return done, time.perf_counter() - begun


Case = Callable[[Bench], Awaitable[None]]


async def _nobody(_bench: Bench) -> None:
    return


async def _elsewhere(bench: Bench) -> None:
    await bench.start(bench.watchers, lambda number: "other/" + bench.prefix(number))


async def _each(bench: Bench) -> None:
    await bench.start(bench.watchers, bench.prefix)


async def _together(bench: Bench) -> None:
    times = max(1, bench.watchers // bench.prefixes)
    await bench.start(bench.prefixes, bench.prefix, times)


NOBODY, ELSEWHERE, EACH = "nobody watches", "all watch other keys", "ten tasks take each put"
CASES: dict[str, Case] = {
    NOBODY: _nobody,
    ELSEWHERE: _elsewhere,
    EACH: _each,
    "one task takes each put ten times": _together,
}


async def _measure(directory: Path, options: Namespace) -> list[dict[str, Cell]]:
    """Every case on the same node, with readers of its own."""
    rows: list[dict[str, Cell]] = []
    async with raftkv.open_cluster(directory, size=1) as cluster:
        node = cluster.node("n1")
        await node.ready(timeout=READY_SECONDS)
        for name, case in CASES.items():
            async with anyio.create_task_group() as tasks:
                bench = Bench(node.kv, options, tasks)
                await case(bench)
                rows += [
                    await _load(name, bench, int(clients), options.seconds)
                    for clients in options.clients.split(",")
                ]
                tasks.cancel_scope.cancel()
    return rows


async def _load(name: str, bench: Bench, clients: int, seconds: float) -> dict[str, Cell]:
    bench.delivered = 0
    bench.late.clear()
    bench.acknowledged.clear()
    busy = time.process_time()
    count, elapsed = await bench.put(clients, seconds)
    busy = time.process_time() - busy
    late = sorted(bench.late)
    return {
        "case": name,
        "clients": clients,
        "puts_per_second": count / elapsed,
        "cpu_us_per_put": busy / count * 1e6,
        "delivered_per_put": bench.delivered / count,
        "event_after_answer_p50_ms": late[len(late) // 2] * 1e3 if late else None,
        "event_after_answer_p99_ms": late[len(late) * 99 // 100] * 1e3 if late else None,
    }


def _targets(rows: list[dict[str, Cell]]) -> list[Target]:
    rates = {(row["case"], row["clients"]): row["puts_per_second"] for row in rows}
    targets: list[Target] = []
    for case, clients in rates:
        alone, with_watchers = rates.get((NOBODY, clients)), rates[case, clients]
        if case in (ELSEWHERE, EACH) and alone and with_watchers:
            what = f"puts without watchers, times those with: {case}, {clients} clients"
            targets.append(Target(what, float(alone) / float(with_watchers), at_most=2.0))
    return targets


__all__ = ["add_arguments", "measure"]
