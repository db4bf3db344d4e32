"""Closed-loop loads: so many clients, each with one put outstanding."""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable
from time import monotonic, perf_counter

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

    def answer(self) -> dict[str, object]:
        """What a child process tells of it."""
        return {
            "count": self.count,
            "failed": self.failed,
            "seconds": self.seconds,
            "p50_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
        }


Put = Callable[[bytes, bytes], Awaitable[object]]


def key_of(run: int, client: int, number: int) -> bytes:
    """A key of its own for every put."""
    return b"bench/%04d/%05d/%09d" % (run, client, number)


def value_of(number: int) -> bytes:
    """A value of 256 bytes that differs from its neighbours."""
    return number.to_bytes(8, "big") * (VALUE_BYTES // 8)


async def closed_loop(
    put: Put,
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
    return result_of(latencies, clients, failed, perf_counter() - begin)


def result_of(latencies: array[float], clients: int, failed: int, elapsed: float) -> Result:
    """What a load saw, from the seconds that each success took."""
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


PRELOAD_CLIENTS = 4000
_AGAIN_SECONDS = 0.005  # after a refusal, which comes at once


def preload_key(number: int) -> bytes:
    """The key of the so many-th put of a preload; scattered, like keys of applications are."""
    return b"bench/load/%08x/%09d" % (number * 2654435761 % 2**32, number)


async def preload(put: Put, errors: tuple[type[Exception], ...], keys: int) -> None:
    """Put so many keys, as fast as it goes; what fails is tried again."""
    numbers = iter(range(keys))

    async def client() -> None:
        for number in numbers:
            while True:
                try:
                    await put(preload_key(number), value_of(number))
                except errors:
                    await anyio.sleep(_AGAIN_SECONDS)
                else:
                    break

    async with anyio.create_task_group() as tasks:
        for _ in range(min(PRELOAD_CLIENTS, keys)):
            tasks.start_soon(client)


class Writers:
    """A load that goes on until it is stopped, and remembers when each put began and ended.

    Times are of the monotonic clock, which all processes of a machine share. ``patience_seconds``
    is how long a client waits for an answer before it puts the next; None: as long as ``put`` does.
    """

    def __init__(
        self,
        put: Put,
        errors: tuple[type[Exception], ...],
        *,
        prefix: str,
        clients: int,
        patience_seconds: float | None,
    ) -> None:
        self._put = put
        self._errors = errors
        self._prefix = prefix.encode()
        self._clients = clients
        self._patience_seconds = patience_seconds
        self._scope = anyio.CancelScope()
        self._begun = array("d")
        self._ended = array("d")
        self.failed = 0
        self.failures: dict[str, int] = {}

    @property
    def count(self) -> int:
        """Puts that were acknowledged."""
        return len(self._ended)

    async def run(self) -> None:
        """Put until :meth:`stop`."""
        with self._scope:
            async with anyio.create_task_group() as tasks:
                for number in range(self._clients):
                    tasks.start_soon(self._client, number)

    def stop(self) -> None:
        """End it, without waiting for answers."""
        self._scope.cancel()

    async def _client(self, number: int) -> None:
        # Few keys: what is counted is puts, and keys of a preload stay most of what there is.
        key = b"bench/%s/%05d" % (self._prefix, number)
        turn = 0
        while True:
            turn += 1
            begun = monotonic()
            try:
                if self._patience_seconds is None:
                    await self._put(key, value_of(turn))
                else:
                    with anyio.fail_after(self._patience_seconds):
                        await self._put(key, value_of(turn))
            except (TimeoutError, *self._errors) as error:
                self.failed += 1
                kind = type(error).__name__
                self.failures[kind] = self.failures.get(kind, 0) + 1
                await anyio.sleep(_AGAIN_SECONDS)
            else:
                self.note(begun, monotonic())

    def note(self, begun: float, ended: float) -> None:
        """A put was acknowledged."""
        self._begun.append(begun)
        self._ended.append(ended)

    def first_since(self, since: float) -> float | None:
        """When the first put that began at ``since`` or later was acknowledged; None if none."""
        found = None
        for begun, ended in zip(reversed(self._begun), reversed(self._ended), strict=True):
            if ended < since:
                break
            if begun >= since:
                found = ended
        return found

    def longest_gap_seconds(self, since: float, until: float) -> float:
        """The longest time without acknowledgement that reaches into ``since`` .. ``until``."""
        longest, after = 0.0, until
        for ended in reversed(self._ended):
            if ended > until:
                continue
            longest = max(longest, after - ended)
            after = ended
            if ended < since:
                return longest
        return max(longest, after - since)

    def slowest_seconds(self, since: float) -> float:
        """The longest wait among puts acknowledged at ``since`` or later."""
        longest = 0.0
        for begun, ended in zip(reversed(self._begun), reversed(self._ended), strict=True):
            if ended < since:
                break
            longest = max(longest, ended - begun)
        return longest
