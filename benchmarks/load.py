"""A closed-loop load: so many clients, each with one put outstanding, for so many seconds."""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable
from time import perf_counter

import anyio
from attrs import frozen

VALUE_BYTES = 256


@frozen
class Result:
    """What a load saw. Latencies in milliseconds; only successes count."""

    clients: int
    count: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Successful puts per second."""
        return self.count / self.seconds


def key_of(run: int, client: int, number: int) -> bytes:
    """A key of its own for every put."""
    return b"bench/%04d/%05d/%09d" % (run, client, number)


def value_of(number: int) -> bytes:
    """A value of 256 bytes that differs from its neighbours."""
    return number.to_bytes(8, "big") * (VALUE_BYTES // 8)


async def closed_loop(
    put: Callable[[bytes, bytes], Awaitable[object]],
    errors: tuple[type[Exception], ...],
    *,
    run: int,
    clients: int,
    seconds: float,
) -> Result:
    """Put from ``clients`` tasks until the time is over, each with one outstanding."""
    latencies = array("d")
    failed = 0
    begin = perf_counter()
    end = begin + seconds

    async def client(number: int) -> None:
        nonlocal failed
        for turn in range(1_000_000_000):
            asked = perf_counter()
            if asked >= end:
                return
            try:
                await put(key_of(run, number, turn), value_of(turn))
            except errors:
                failed += 1
                continue
            latencies.append(perf_counter() - asked)

    async with anyio.create_task_group() as tasks:
        for number in range(clients):
            tasks.start_soon(client, number)
    elapsed = perf_counter() - begin
    ranked = sorted(latencies)
    return Result(
        clients,
        len(ranked),
        failed,
        elapsed,
        _percentile_ms(ranked, 0.50),
        _percentile_ms(ranked, 0.99),
    )


def _percentile_ms(ranked: list[float], part: float) -> float:
    if not ranked:
        return 0.0
    return ranked[min(int(len(ranked) * part), len(ranked) - 1)] * 1e3
