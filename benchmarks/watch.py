"""What 10,000 watchers on 1,000 prefixes cost the puts of their node, and how late they hear.

One member in this process, on a real disk, every put synced, 256-byte values. Four cases: nobody
watches; all watch, but other keys than those that are put; all watch and each put is in one of the
prefixes, so that ten readers are handed it, and each is a task that takes it; and the same with all
watches of a prefix read by one task, as a server reads them for a connection. Readers run in the
loop of the node: what they do with a change is taken from the same core as the puts. So what a
delivery costs is set against the floor: waking as many bare asyncio tasks, one after another.
"""

from __future__ import annotations

import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from statistics import median

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

import raftkv
from benchmarks.report import Cell, Report, Target
from raftkv.kv.client import Kv
from raftkv.runtime.base import Promise
from raftkv.runtime.system import make_promise

VALUE = b"v" * 256
READY_SECONDS = 30.0
FLOOR_ROUNDS = 5


def add_arguments(parser: ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--clients", default="1,100", help="outstanding puts, by commas")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each load")
    parser.add_argument("--rounds", type=int, default=3, help="how often every case is measured")
    parser.add_argument("--watchers", type=int, default=10_000, help="how many watch")
    parser.add_argument("--prefixes", type=int, default=1_000, help="how many prefixes they watch")
    parser.add_argument("--dir", type=Path, help="where to put data (default: temporary)")


def measure(options: Namespace) -> Report:
    """Every case in turn, several times; each figure is the median of the rounds.

    A machine is not equally fast from one minute to the next: ratios are taken within a round.
    """
    with tempfile.TemporaryDirectory(prefix="raftkv-bench-", dir=options.dir) as directory:
        rounds = anyio.run(_measure, Path(directory), options)
    notes: dict[str, Cell] = {
        "value_bytes": len(VALUE),
        "members": 1,
        "seconds": options.seconds,
        "watchers": options.watchers,
        "prefixes": options.prefixes,
        "rounds": len(rounds),
    }
    rows = [
        {name: _median([row[name] for row in same]) for name in same[0]}
        for same in zip(*rounds, strict=True)
    ]
    return Report("watch", rows, notes, _targets(rounds))


class Bench:
    """A node with readers, and how late they were."""

    def __init__(self, kv: Kv, options: Namespace, tasks: TaskGroup) -> None:
        self.kv = kv
        self.watchers: int = options.watchers
        self.prefixes: int = options.prefixes
        self.tasks = tasks
        self.missing = 0
        self.all_began = anyio.Event()
        self.delivered = 0
        self.acknowledged: dict[int, float] = {}
        self.late: list[float] = []
        self.noted = 0

    def prefix(self, number: int) -> str:
        return f"{number % self.prefixes:06}/"

    async def read(self, prefix: str) -> None:
        """One watch, as an application reads it."""
        async with self.kv.watch(prefix=prefix, serializable=True) as changes:
            self.began(1)
            async for change in changes:
                self.delivered += 1
                self.note(change.revision)

    async def read_all(self, prefix: str, times: int) -> None:
        """So many watches of one prefix, in one task."""
        async with AsyncExitStack() as stack:
            watches = [
                await stack.enter_async_context(self.kv.watch(prefix=prefix, serializable=True))
                for _ in range(times)
            ]
            self.began(times)
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

    def began(self, watches: int) -> None:
        """So many more watches have begun."""
        self.missing -= watches
        if not self.missing:
            self.all_began.set()

    async def ready(self, watches: int) -> None:
        """Wait until so many have begun, none of which has yet."""
        self.missing = watches
        await self.all_began.wait()

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
    for number in range(bench.watchers):
        bench.tasks.start_soon(bench.read, "other/" + bench.prefix(number))
    await bench.ready(bench.watchers)


async def _each(bench: Bench) -> None:
    for number in range(bench.watchers):
        bench.tasks.start_soon(bench.read, bench.prefix(number))
    await bench.ready(bench.watchers)


async def _together(bench: Bench) -> None:
    times = max(1, bench.watchers // bench.prefixes)
    for number in range(bench.watchers // times):
        bench.tasks.start_soon(bench.read_all, bench.prefix(number), times)
    await bench.ready(bench.watchers // times * times)


FLOOR = "bare tasks woken"
NOBODY, ELSEWHERE, EACH = "nobody watches", "all watch other keys", "ten tasks take each put"
CASES: dict[str, Case] = {
    NOBODY: _nobody,
    ELSEWHERE: _elsewhere,
    EACH: _each,
    "one task takes each put ten times": _together,
}


async def _measure(directory: Path, options: Namespace) -> list[list[dict[str, Cell]]]:
    """The rounds, each with every case on the same node, with readers of its own."""
    rounds: list[list[dict[str, Cell]]] = []
    async with raftkv.open_cluster(directory, size=1) as cluster:
        node = cluster.node("n1")
        await node.ready(timeout=READY_SECONDS)
        for _ in range(options.rounds):
            rows = [await _floor(options.watchers)]
            for name, case in CASES.items():
                rows += await _measure_case(name, case, node.kv, options)
            _add_deliveries(rows)
            rounds.append(rows)
    return rounds


async def _floor(tasks: int) -> dict[str, Cell]:
    """What it costs to wake a task that does nothing but wait again, among so many, ten a turn."""
    waiting: dict[int, Promise[object]] = {}
    order = list(range(tasks))
    Random(1).shuffle(order)
    busy, woken = 0.0, 0

    async def wait(number: int) -> None:
        while True:
            waiting[number] = make_promise()
            await waiting[number]

    async with anyio.create_task_group() as group:
        for number in order:
            group.start_soon(wait, number)
        while len(waiting) < tasks:
            await checkpoint()
        began = time.process_time()
        together = min(10, tasks)
        for first in range(0, FLOOR_ROUNDS * tasks, together):
            for place in range(first, first + together):
                waiting[order[place % tasks]].set_result(None)
            woken += together
            await checkpoint()
        busy += time.process_time() - began
        group.cancel_scope.cancel()
    return _row(FLOOR, tasks) | {"cpu_us_per_delivery": busy / woken * 1e6}


async def _measure_case(name: str, case: Case, kv: Kv, options: Namespace) -> list[dict[str, Cell]]:
    rows: list[dict[str, Cell]] = []
    async with anyio.create_task_group() as tasks:
        bench = Bench(kv, options, tasks)
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
    return _row(name, clients) | {
        "puts_per_second": count / elapsed,
        "cpu_us_per_put": busy / count * 1e6,
        "delivered_per_put": bench.delivered / count,
        "event_after_answer_p50_ms": late[len(late) // 2] * 1e3 if late else None,
        "event_after_answer_p99_ms": late[len(late) * 99 // 100] * 1e3 if late else None,
    }


def _row(case: str, clients: int) -> dict[str, Cell]:
    return {
        "case": case,
        "clients": clients,
        "puts_per_second": None,
        "cpu_us_per_put": None,
        "delivered_per_put": None,
        "event_after_answer_p50_ms": None,
        "event_after_answer_p99_ms": None,
        "cpu_us_per_delivery": None,
    }


def _median(cells: list[Cell]) -> Cell:
    numbers = [cell for cell in cells if isinstance(cell, int | float)]
    return median(numbers) if len(numbers) == len(cells) else cells[0]


def _add_deliveries(rows: list[dict[str, Cell]]) -> None:
    """What a delivery costs: the CPU time of a put that it adds to that of one nobody watches."""
    alone = {row["clients"]: row["cpu_us_per_put"] for row in rows if row["case"] == NOBODY}
    for row in rows:
        base, cost, times = (
            alone.get(row["clients"]),
            row["cpu_us_per_put"],
            row["delivered_per_put"],
        )
        if base and cost and times:
            row["cpu_us_per_delivery"] = (float(cost) - float(base)) / float(times)


def _targets(rounds: list[list[dict[str, Cell]]]) -> list[Target]:
    slower: dict[tuple[Cell, Cell], list[float]] = {}
    dearer: dict[Cell, list[float]] = {}
    for rows in rounds:
        rates = {(row["case"], row["clients"]): row["puts_per_second"] for row in rows}
        floor = next(row["cpu_us_per_delivery"] for row in rows if row["case"] == FLOOR)
        for row in rows:
            case, clients, cost = row["case"], row["clients"], row["cpu_us_per_delivery"]
            alone, rate = rates.get((NOBODY, clients)), rates[case, clients]
            if case in (ELSEWHERE, EACH) and alone and rate:
                slower.setdefault((case, clients), []).append(float(alone) / float(rate))
            if case == EACH and clients != 1 and cost and floor:  # alone, all is cold
                dearer.setdefault(clients, []).append(float(cost) / float(floor))
    what = "puts without watchers, times those with: {}, {} clients"
    whole = "a delivery to a task, all in, in wakes of a bare task: {} clients"
    return [
        Target(what.format(*key), median(measured), at_most=2.0) for key, measured in slower.items()
    ] + [
        Target(whole.format(clients), median(measured), at_most=2.0)
        for clients, measured in dearer.items()
    ]


__all__ = ["add_arguments", "measure"]
