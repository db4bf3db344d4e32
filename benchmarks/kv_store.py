"""The stores of the KV benchmark, in a process of their own: one job, told as JSON; one answer."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import cast

import anyio
import anyio.lowlevel
from attrs import frozen

import raftkv
from benchmarks.load import PRELOAD_CLIENTS, closed_loop, preload_key, value_of
from benchmarks.processes import Answer, rss_mib
from raftkv import Kv
from raftkv.kv.client import op, when

_HOT_KEYS = 1000
_RANGE_KEYS = 100
_BATCH = 100
_LEASES = 100
_ERRORS = (raftkv.UnavailableError,)


@frozen
class Job:
    """What to do: ``what`` is operations, fill or open."""

    what: str
    directory: str
    size: int
    keys: int
    seconds: float


async def run(job: Job) -> Answer:
    """Do it."""
    begun = perf_counter()
    no_quota = raftkv.KvSettings(quota_bytes=0)  # ten million keys are more than the default
    async with raftkv.open_cluster(job.directory, size=job.size, kv=no_quota) as cluster:
        kv = (await cluster.leader()).kv
        answer: Answer
        if job.what == "open":
            answer = await _opened(kv, begun)
        elif job.what == "fill":
            await _fill(kv, job.keys)
            answer = {"seconds": perf_counter() - begun}
        else:
            await _fill(kv, job.keys)
            answer = {"rows": await _operations(kv, job)}
        answer["rss_mib"] = rss_mib(os.getpid())
        return answer


async def _opened(kv: Kv, begun: float) -> Answer:
    """After the first answer of a store that was closed in order."""
    first = await kv.get(preload_key(0))
    seconds = perf_counter() - begun
    if first is None:
        raise SystemExit("the store opened does not hold what was put")
    return {"seconds": seconds}


async def _fill(kv: Kv, keys: int) -> None:
    """Transactions of many puts: the fill is no figure."""
    numbers = iter(range(0, keys, _BATCH))

    async def client() -> None:
        for first in numbers:
            puts = [
                op.put(preload_key(one), value_of(one))
                for one in range(first, min(first + _BATCH, keys))
            ]
            await kv.txn(then=puts, timeout=60)

    async with anyio.create_task_group() as tasks:
        for _ in range(min(PRELOAD_CLIENTS // _BATCH, 1 + keys // _BATCH)):
            tasks.start_soon(client)


Operation = Callable[[int], Awaitable[object]]


async def _operations(kv: Kv, job: Job) -> list[Answer]:
    for first in range(0, _HOT_KEYS, _BATCH):
        await kv.txn(then=[op.put(_hot(first + one), b"0") for one in range(_BATCH)])
    seconds = job.seconds

    async def put(number: int) -> object:
        return await kv.put(_hot(number), value_of(number))

    async def get(number: int) -> object:
        return await kv.get(_hot(number))

    async def get_local(number: int) -> object:
        return await kv.get(_hot(number), serializable=True)

    rows = [await _row("put", put, clients, seconds) for clients in (1, 100, 1000)]
    rows += [await _row("get, linearizable", get, clients, seconds) for clients in (1, 100)]
    rows += [await _row("get, serializable", get_local, 1, seconds)]
    rows += [
        await _row("txn: compare and swap", _swap(kv), clients, seconds) for clients in (1, 100)
    ]
    if job.keys:
        what = f"range of {_RANGE_KEYS} of {job.keys:,}, serializable"
        rows.append(await _row(what, lambda n: _range(kv, n, job.keys), 1, seconds))
    rows.append(await _keep_alives(kv, seconds))
    rows.append(await _watch(kv, seconds))
    return rows


def _hot(number: int) -> bytes:
    return b"bench/hot/%03d" % (number % _HOT_KEYS)


def _range(kv: Kv, number: int, keys: int) -> Awaitable[object]:
    start = preload_key(number * 7919 % keys)
    return kv.range(start, limit=_RANGE_KEYS, counted=False, serializable=True)


def _swap(kv: Kv) -> Operation:
    """Each client swaps keys of its own, so that every swap succeeds."""
    versions: dict[int, int] = {}

    async def swap(number: int) -> object:
        key = b"bench/swap/%06d" % (number // 1_000_000)
        seen = versions.get(number // 1_000_000)
        if seen is None:
            found = await kv.get(key)
            seen = found.mod_revision if found else 0
        done = await kv.txn(
            when=[when.mod_revision(key) == seen],
            then=[op.put(key, value_of(number))],
        )
        if not done.succeeded:
            raise SystemExit("a swap of a key that nobody else writes has failed")
        versions[number // 1_000_000] = done.revision
        return done

    return swap


async def _row(what: str, operation: Operation, clients: int, seconds: float) -> Answer:
    """A closed loop; the number an operation gets is its client's million and its turn."""

    async def call(key: bytes, value: bytes) -> object:
        client = int(key[11:16])
        return await operation(client * 1_000_000 + int.from_bytes(value[:8], "big"))

    result = await closed_loop(call, _ERRORS, run=0, clients=clients, seconds=seconds)
    return {"operation": what, "clients": clients, **result.answer()}


async def _keep_alives(kv: Kv, seconds: float) -> Answer:
    leases = [(await kv.grant(600)).id for _ in range(_LEASES)]
    row = await _row("lease keep-alive", lambda n: kv.keep_alive(leases[n % _LEASES]), 100, seconds)
    for lease in leases:
        await kv.revoke(lease)
    return row


async def _watch(kv: Kv, seconds: float) -> Answer:
    """One put after the other: when its event came, counted from its call, and from its answer."""
    seen: dict[int, float] = {}
    after_put: list[float] = []
    after_answer: list[float] = []

    async def listen() -> None:
        async for change in changes:
            seen[change.revision] = perf_counter()

    begun = perf_counter()
    async with kv.watch(prefix="bench/watched/") as changes, anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        while perf_counter() < begun + seconds:
            asked = perf_counter()
            done = await kv.put(b"bench/watched/%03d" % (len(after_put) % 100), b"1")
            answered = perf_counter()
            while done.revision not in seen:
                await anyio.lowlevel.checkpoint()
            at = seen.pop(done.revision)
            after_put.append(at - asked)
            after_answer.append(max(at - answered, 0.0))
        tasks.cancel_scope.cancel()
    after_put.sort()
    after_answer.sort()
    count = len(after_put)
    return {
        "operation": "watch: put to event",
        "clients": 1,
        "count": count,
        "failed": 0,
        "seconds": perf_counter() - begun,
        "p50_ms": after_put[count // 2] * 1e3,
        "p99_ms": after_put[count * 99 // 100] * 1e3,
        "event_after_answer_p50_ms": after_answer[count // 2] * 1e3,
    }


def main() -> None:
    """Argument: the job as JSON. Prints one JSON object."""
    given = cast("dict[str, object]", json.loads(sys.argv[1]))
    job = Job(
        str(given["what"]),
        str(given["directory"]),
        int(str(given["size"])),
        int(str(given["keys"])),
        float(str(given["seconds"])),
    )
    print(json.dumps(anyio.run(run, job)))


if __name__ == "__main__":
    main()
