"""When readers are woken: in bursts, and while the node is at work with a rest behind each.

Readers run in the loop of their node. Ten thousand that a write concerns would keep it from its own
work for a tenth of a second, and a steady load of writes that each wake ten would be slowed to a
fraction. So readers are woken a burst at a time, in the order in which there was something for
them; and as long as rows are being written, the loop is left to the node for a while after each
burst. Who waits longer finds more at once, which makes each Change cheaper to take.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from raftkv.runtime.base import Clock, Waker

REST: Final = 4
"""While rows are written, readers rest for so many times as long as their last burst took: they get
a fifth of the loop's time at most."""

REST_MAX_NS: Final = 100_000_000
"""No rest is longer: what seems a long burst was a loop that somebody stalled, in its midst."""

BUSY_NS: Final = 20_000_000
"""For so long after rows were written the node counts as being at work."""


class Sleeper(Protocol):
    """Whose reader waits to be woken."""

    def wake(self) -> bool:
        """Wake it; False if nobody waits any more."""
        ...


Parked: TypeAlias = dict[Sleeper, None]
"""Who waits together; whoever gives up takes himself out."""


class Bell:
    """Wakes the readers of one hub. Loop thread only.

    Without :meth:`run` there is no rest between bursts.
    """

    __slots__ = (
        "_began_ns",
        "_clock",
        "_is_paced",
        "_is_resting",
        "_left",
        "_make_waker",
        "_rest_until_ns",
        "_turns",
        "_waker",
        "_wakes",
        "_woken",
        "_written_ns",
    )

    def __init__(self, clock: Clock, make_waker: Callable[[], Waker], wakes: int) -> None:
        self._clock = clock
        self._make_waker = make_waker
        self._waker: Waker | None = None
        self._wakes = wakes
        self._turns: deque[Parked] = deque()  # for whom there is something, in order
        self._woken = 0  # readers that were woken and have not run yet
        self._left = 0  # that the burst under way may still wake
        self._began_ns = 0  # when the first reader of the burst ran; 0: none has
        self._written_ns = -BUSY_NS
        self._rest_until_ns = 0
        self._is_paced = False
        self._is_resting = False

    @property
    def woken(self) -> int:
        """How many readers were woken and have not run yet."""
        return self._woken

    def written(self) -> None:
        """The node has written rows: it is at work."""
        self._written_ns = self._clock.monotonic_ns()

    def ring(self, parked: Parked) -> None:
        """There is something for all of ``parked``, which is the bell's from now on."""
        self._turns.append(parked)
        if self._woken:
            self._go_on()
        elif not self._is_resting:
            if self._rest_until_ns and self._clock.monotonic_ns() < self._rest_until_ns:
                self._rest()
            else:
                self._begin()

    def ring_now(self, sleeper: Sleeper) -> None:
        """Wake it at once: its watch is over."""
        if sleeper.wake():
            if not self._woken:
                self._began_ns = 0  # or all since the last burst would count as a part of this one
            self._woken += 1

    def ran(self) -> None:
        """A reader that was woken runs, or was cancelled."""
        if not self._began_ns:
            self._began_ns = self._clock.monotonic_ns()
        self._woken -= 1
        if self._woken:
            return
        if self._is_paced:
            now = self._clock.monotonic_ns()
            is_busy = now - self._written_ns < BUSY_NS
            rest_ns = min(REST * (now - self._began_ns), REST_MAX_NS)
            self._rest_until_ns = now + rest_ns if is_busy else 0
        if self._turns:
            if self._rest_until_ns:
                self._rest()
            else:
                self._begin()

    async def run(self) -> None:
        """Give the node its time, until cancelled; to be run beside it."""
        clock = self._clock
        waker = self._waker = self._make_waker()
        self._is_paced = True
        try:
            while True:
                await waker.wait()
                if self._is_resting:
                    await clock.sleep_until(self._rest_until_ns)
                    self._is_resting = False
                    if not self._woken:
                        self._begin()
        finally:
            self._waker = None
            self._is_paced = self._is_resting = False
            self._rest_until_ns = 0
            if not self._woken:
                self._begin()

    def _rest(self) -> None:
        if self._waker is not None:
            self._is_resting = True
            self._waker.set()

    def _begin(self) -> None:
        self._left = self._wakes
        self._began_ns = 0
        self._go_on()

    def _go_on(self) -> None:
        turns = self._turns
        while self._left and turns:
            parked = turns[0]
            if not parked:
                turns.popleft()
                continue
            sleeper, _ = parked.popitem()
            if sleeper.wake():
                self._left -= 1
                self._woken += 1
