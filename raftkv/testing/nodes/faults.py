"""Faults as context managers: they are there from the call on, and leaving the block ends them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType


class Fault:
    """A fault that has begun. ``with`` it, or call :meth:`end`; or leave it for good."""

    __slots__ = ("_end",)

    def __init__(self, end: Callable[[], None]) -> None:
        self._end: Callable[[], None] | None = end

    def end(self) -> None:
        """End it. Idempotent."""
        end, self._end = self._end, None
        if end is not None:
            end()

    def __enter__(self) -> Fault:
        """It has begun already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self.end()


class CrashFault:
    """A process that was killed. ``async with`` it to have it started again at the end."""

    __slots__ = ("_restart",)

    def __init__(self, restart: Callable[[], Awaitable[None]]) -> None:
        self._restart = restart

    async def __aenter__(self) -> CrashFault:
        """It is gone already."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Start it again, unless the block failed."""
        if error is None:
            await self._restart()
