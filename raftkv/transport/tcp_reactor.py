"""Who calls us when a socket is ready: the loop's own callbacks on asyncio, small tasks elsewhere.

Sockets are used directly, without a stream between: one read of anyio's TCP stream costs a task
switch and a hundred microseconds, a callback a tenth of it. Everything above (TLS included) is the
same code on all backends, because it only ever hears "readable" and "writable".
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import current_token

from raftkv.runtime.base import Waker

__all__ = ["Reactor", "Stop", "make_reactor"]

Stop = Callable[[], object]
"""Ends a watch; to be called before the socket is closed."""


class Reactor(Protocol):
    """Calls back on the loop. A callback that raises ends ``serve`` with its error."""

    def when_readable(self, sock: socket.socket, callback: Callable[[], None]) -> Stop:
        """Call ``callback`` whenever there is something to read, until stopped."""
        ...

    def when_writable(self, sock: socket.socket, callback: Callable[[], None]) -> Stop:
        """Call ``callback`` whenever something can be written, until stopped."""
        ...

    def soon(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when everybody who can run now has run."""
        ...


def make_reactor(tasks: TaskGroup, waker: Waker) -> Reactor:
    """The running backend's reactor; its tasks and its failures belong to ``tasks``."""
    token = current_token().native_token
    if isinstance(token, asyncio.AbstractEventLoop):
        return _LoopReactor(token, tasks)
    return _TaskReactor(tasks, waker)


class _LoopReactor:
    """The asyncio loop's readiness callbacks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tasks: TaskGroup) -> None:
        self._loop = loop
        self._error: Exception | None = None
        self._failed = anyio.Event()
        tasks.start_soon(self._watch, name="raftkv.transport.reactor")

    def when_readable(self, sock: socket.socket, callback: Callable[[], None]) -> Stop:
        self._loop.add_reader(sock, self._call, callback)
        return partial(self._loop.remove_reader, sock)

    def when_writable(self, sock: socket.socket, callback: Callable[[], None]) -> Stop:
        self._loop.add_writer(sock, self._call, callback)
        return partial(self._loop.remove_writer, sock)

    def soon(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(self._call, callback)

    def _call(self, callback: Callable[[], None]) -> None:
        if self._error is not None:
            return  # we are ending
        try:
            callback()
        except Exception as error:  # the loop would log it and go on; our owner must hear of it
            self._error = error
            self._failed.set()

    async def _watch(self) -> None:
        await self._failed.wait()
        if self._error is not None:
            raise self._error


class _TaskReactor:
    """A task for each watch, on any backend that anyio knows."""

    def __init__(self, tasks: TaskGroup, waker: Waker) -> None:
        self._tasks = tasks
        self._waker = waker
        self._soon: list[Callable[[], None]] = []
        tasks.start_soon(self._run_soon, name="raftkv.transport.soon")

    def when_readable(self, sock: socket.socket, callback: Callable[[], None]) -> Stop:
        return self._start(anyio.wait_readable, sock, callback, "raftkv.transport.read")

    def when_writable(self, sock: socket.socket, callback: Callable[[], None]) -> Stop:
        return self._start(anyio.wait_writable, sock, callback, "raftkv.transport.write")

    def soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)
        self._waker.set()

    async def _run_soon(self) -> None:
        while True:
            await self._waker.wait()
            callbacks, self._soon = self._soon, []
            for callback in callbacks:
                callback()

    def _start(
        self,
        wait: Callable[[socket.socket], Awaitable[None]],
        sock: socket.socket,
        callback: Callable[[], None],
        name: str,
    ) -> Stop:
        scope = anyio.CancelScope()

        async def watch() -> None:
            with scope:
                # The scope is looked at first: a cancelled watch's socket may be closed by now.
                while not scope.cancel_called:
                    await wait(sock)
                    callback()

        self._tasks.start_soon(watch, name=name)
        return scope.cancel
