"""Watches of a node in another thread: for other loops, and without await."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Final

from anyio import Lock, get_cancelled_exc_class, move_on_after

from raftkv.errors import ClosedError, DeadlineError, InvalidArgumentError
from raftkv.kv.client.edge import check_count
from raftkv.kv.client.watching import TAKEN_MAX, Watch
from raftkv.kv.model import Change
from raftkv.node.waiters import checked_timeout
from raftkv.runtime.hosting import HostThread, Portal

__all__ = ["BlockingWatch", "HostedWatch"]

_CLOSED: Final = "the watch was closed: make another one with kv.watch()"


class _Arrived:
    """Changes on their way from a watch to another thread: who gives up waiting loses none."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._changes: deque[Change] = deque()  # appended over there, taken over here
        self._lock: Lock | None = None  # of the loop over there
        self.is_closed = False
        self.next_revision = watch.next_revision

    async def begin(self) -> None:
        """Enter the watch, over there."""
        await self._watch.__aenter__()
        self.next_revision = self._watch.next_revision
        if self.is_closed:
            self._watch.close()

    def abandon(self, portal: Portal) -> None:
        """Whoever entered the watch gave up waiting for that: it may have begun all the same."""
        self.is_closed = True
        with suppress(ClosedError):  # the node is closed, and the watch with it
            portal.start_task_soon(self._watch.close)

    async def fetch(self, seconds: float | None) -> None:
        """Wait, over there, until something is here, for so many seconds, or it is closed."""
        if self._lock is None:
            self._lock = Lock()
        # Whoever was cancelled over here may not have ended over there.
        async with self._lock:
            if self._changes:
                return
            try:
                with move_on_after(seconds):
                    self._changes += await self._watch.next()
            except ClosedError:
                if not self.is_closed:
                    raise

    def take(self) -> Change | None:
        """The next one that is here."""
        if not self._changes:
            return None
        change = self._changes.popleft()
        behind = change.revision if change.is_fragment else change.revision + 1
        self.next_revision = max(self.next_revision, behind)
        return change

    def take_all(self, changes_max: int) -> tuple[Change, ...]:
        """The next ones that are here."""
        found: list[Change] = []
        while len(found) < changes_max and (change := self.take()) is not None:
            found.append(change)
        return tuple(found)


class HostedWatch(Watch):
    """A watch of a node in another thread."""

    __slots__ = ("_arrived", "_inner", "_thread")

    def __init__(self, thread: HostThread, inner: Watch) -> None:
        # Not the base's: what it watches is over there.
        self._thread = thread
        self._inner = inner
        self._arrived = _Arrived(inner)
        self.next_revision = inner.next_revision

    async def __aenter__(self) -> Watch:
        """As :meth:`Watch.__aenter__`."""
        try:
            await self._thread.run(self._arrived.begin, writes=False)
        except get_cancelled_exc_class():
            self._arrived.abandon(self._thread.portal)
            raise
        self.next_revision = self._arrived.next_revision
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop watching."""
        self.close()

    def close(self) -> None:
        """As :meth:`Watch.close`; waits for one turn of the node's loop."""
        self._arrived.is_closed = True
        with suppress(ClosedError):  # the node is closed, and the watch with it
            self._thread.portal.look(self._inner.close)

    async def __anext__(self) -> Change:
        """As :meth:`Watch.__anext__`."""
        change = self._arrived.take()
        if change is None:
            await self._thread.run(lambda: self._arrived.fetch(None), writes=False)
            change = self._arrived.take()
        if change is None:
            raise StopAsyncIteration
        self.next_revision = self._arrived.next_revision
        return change

    async def next(self, changes_max: int = TAKEN_MAX) -> tuple[Change, ...]:
        """As :meth:`Watch.next`."""
        _check_changes_max(changes_max)
        await self._thread.run(lambda: self._arrived.fetch(None), writes=False)
        changes = self._arrived.take_all(changes_max)
        self.next_revision = self._arrived.next_revision
        if not changes:
            raise ClosedError(_CLOSED)
        return changes

    async def progress(self, *, timeout: float = 5.0) -> int:
        """As :meth:`Watch.progress`."""
        return await self._thread.run(lambda: self._inner.progress(timeout=timeout), writes=False)


class BlockingWatch:
    """A watch for threads: ``with kv.watch(...) as changes: for change in changes: ...``.

    As :class:`~raftkv.kv.client.watching.Watch`, and for one thread at a time; iterating waits for
    ever, :meth:`next` as long as it is told. Another thread may :meth:`close` it, which ends both.
    """

    def __init__(self, portal: Portal, inner: Watch) -> None:
        self._portal = portal
        self._inner = inner
        self._arrived = _Arrived(inner)

    @property
    def next_revision(self) -> int:
        """What to pass as ``start=`` to go on behind what was delivered."""
        return self._arrived.next_revision

    def __enter__(self) -> BlockingWatch:
        """Begin to watch: from here on nothing is missed. Raises what the async one does."""
        try:
            self._portal.look(self._arrived.begin)
        except BaseException as error:
            if not isinstance(error, Exception):  # an interrupt
                self._arrived.abandon(self._portal)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop watching."""
        self.close()

    def close(self) -> None:
        """Stop watching: who iterates comes to the end. Idempotent."""
        self._arrived.is_closed = True
        with suppress(ClosedError):  # the node is closed, and the watch with it
            self._portal.look(self._inner.close)

    def __iter__(self) -> Iterator[Change]:
        """Itself."""
        return self

    def __next__(self) -> Change:
        """The next Change; the end once the watch is closed."""
        change = self._arrived.take()
        if change is None:
            self._portal.look(self._arrived.fetch, None)
            change = self._arrived.take()
        if change is None:
            raise StopIteration
        return change

    def next(
        self, changes_max: int = TAKEN_MAX, *, timeout: float | None = None
    ) -> tuple[Change, ...]:
        """The Changes that are there, up to ``changes_max``; waits until there is one at least.

        For ``timeout`` seconds at most (None: for ever): then it raises DeadlineError, and nothing
        is lost. Raises ClosedError once closed.
        """
        seconds = None if timeout is None else checked_timeout(timeout)
        _check_changes_max(changes_max)
        self._portal.look(self._arrived.fetch, seconds)
        changes = self._arrived.take_all(changes_max)
        if changes:
            return changes
        if self._arrived.is_closed:
            raise ClosedError(_CLOSED)
        raise DeadlineError(f"nothing that is watched changed for {seconds} s")

    def progress(self, *, timeout: float = 5.0) -> int:
        """Ask for a progress mark; returns a revision that it will reach at least."""
        return self._portal.look(partial(self._inner.progress, timeout=timeout))


def _check_changes_max(changes_max: int) -> None:
    if check_count("changes_max", changes_max) == 0:
        raise InvalidArgumentError("changes_max must be at least 1")
