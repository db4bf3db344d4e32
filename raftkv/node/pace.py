"""A token bucket: how fast something may go, on average and at once."""

from __future__ import annotations

from raftkv.runtime.base import Clock


class Pace:
    """Lets bytes pass at a bounded rate; what was not used lasts for a fifth of a second."""

    __slots__ = ("_burst_ns", "_clock", "_free_ns", "_rate")

    def __init__(self, clock: Clock, bytes_per_second: float) -> None:
        self._clock = clock
        self._rate = bytes_per_second
        self._burst_ns = 200_000_000
        self._free_ns = 0  # all that passed so far would have taken until then

    async def take(self, size_bytes: int) -> None:
        """Return once so many bytes more may go. They count at once, also for others who ask."""
        now = self._clock.monotonic_ns()
        self._free_ns = max(self._free_ns, now - self._burst_ns)
        self._free_ns += round(size_bytes / self._rate * 1e9)
        if self._free_ns > now:
            await self._clock.sleep_until(self._free_ns)
