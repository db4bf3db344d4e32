"""One input tried on one target: what came of it, and what it cost."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Final

from attrs import frozen

CPU_SECONDS_MAX: Final = 0.05
"""What one frame may cost the loop."""
EXTRA_BYTES_MAX: Final = 8 * 2**20
"""What reading it may allocate, beside a copy of its own bytes."""
_REPEATS: Final = 5


@frozen(kw_only=True)
class Target:
    """A family of decoders."""

    name: str
    about: str
    read: Callable[[bytes], object]
    """Decode all of it."""
    check: Callable[[bytes], None] | None = None
    """What else must hold of an input that it took; AssertionError if it does not."""
    refusals: tuple[type[Exception], ...]
    """What it may raise, and nothing else; none for what handles a peer's frame by itself."""
    valid: Callable[[], Sequence[bytes]]
    """Inputs that it takes, of every kind."""
    more: Callable[[], Sequence[bytes]] = tuple
    """Inputs that it refuses by what they say, to start from as well."""
    fix: Callable[[bytes], bytes] | None = None
    """Makes the checksums of a changed input right, so that what lies behind them is reached."""
    bytes_max: int = 64 * 1024
    """No longer input ever reaches it."""


@frozen
class Crash:
    """An input that a decoder did not withstand."""

    target: str
    data: bytes
    why: str

    def __str__(self) -> str:
        shown = self.data[:200].hex() + ("..." if len(self.data) > 200 else "")
        return f"{self.target}: {self.why}; {len(self.data)} bytes: {shown}"


def attempt(target: Target, data: bytes) -> Crash | bool:
    """Whether it was decoded (else it was refused), or a crash."""
    try:
        if not _is_read(target, data):
            return False
        if target.check is not None:
            target.check(data)
    except Exception as error:
        return Crash(target.name, data, f"{type(error).__name__}: {error}")
    return True


def _is_read(target: Target, data: bytes) -> bool:
    try:
        target.read(data)
    except target.refusals:
        return False
    return True


def extra_bytes(target: Target, data: bytes) -> int:
    """What reading the input allocates at its peak, beside a copy of its own bytes.

    Read one like it before: what is made once and kept is no cost of this one.
    """
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        _is_read(target, data)
        return max(0, tracemalloc.get_traced_memory()[1] - before - len(data))
    finally:
        tracemalloc.stop()


def cpu_seconds(target: Target, data: bytes) -> float:
    """The CPU time of reading the input: the best of a few times, as others share the machine."""
    best = float("inf")
    for _ in range(_REPEATS):
        began = time.process_time()
        _is_read(target, data)
        best = min(best, time.process_time() - began)
        if best < CPU_SECONDS_MAX / 10:
            break
    return best
