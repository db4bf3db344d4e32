"""Watching keys: what happened since a revision, and from now on, in order and without gaps."""

from __future__ import annotations

from types import TracebackType
from typing import Final

from anyio import Lock, move_on_after
from anyio.lowlevel import checkpoint

from raftkv.errors import ClosedError, InvalidArgumentError, UsageError
from raftkv.kv.client.base import Part, Replica
from raftkv.kv.client.edge import bound_of, check_count, flag_of, key_of, span_of
from raftkv.kv.client.hub import Hub
from raftkv.kv.client.watchers import Watcher
from raftkv.kv.history import FRAGMENT_BYTES_MAX, Wanted
from raftkv.kv.machine import KvMachine
from raftkv.kv.model import Change, Span
from raftkv.kv.settings import KvSettings
from raftkv.node.waiters import checked_timeout
from raftkv.runtime.base import Promise

TAKEN_MAX: Final = 64
"""So many Changes are taken in a row before one lets the event loop run."""

_CLOSED: Final = "the watch was closed: make another one with kv.watch()"
_ONE_READER: Final = "one task at a time may read a watch: give each a watch of its own"
_TO_THE_END: Final = b"\0"  # as a stop, as in etcd: it could only make a range empty


class Watch:
    """One watch: an async context manager, and inside an async iterator of :class:`Change`.

    Made by ``kv.watch``. For one task at a time. What it guarantees, as etcd does:

    - *ordered, unique, whole*: one Change for each revision that touched the keys, in order of the
      revisions, every one of them once, and never a part of one (but see ``fragment``);
    - *resumable*: ``watch(start=watch.next_revision)`` goes on where this one ended, on any member;
    - *bookmarks*: a Change without events says that everything up to its revision was delivered.

    A Change is delivered once it is committed and applied on this member. What a slow reader has
    not taken waits in memory up to a bound, and is read from history afterwards: nothing is lost
    but by compaction, which raises CompactedError with the revision to resume from.

    Iterating raises that; ClosedError or NodeStoppedError when the node ends; StorageCorruptError.
    Cancelling a wait loses nothing.
    """

    __slots__ = (
        "_clock",
        "_hub",
        "_lock",
        "_node",
        "_progress_ns",
        "_promise",
        "_quiet_ns",
        "_serializable",
        "_start",
        "_taken",
        "_timeout",
        "_wanted",
        "_watcher",
        "next_revision",
    )

    def __init__(
        self,
        node: Replica,
        hub: Hub,
        lock: Lock,
        wanted: Wanted,
        *,
        start: int,
        serializable: bool,
        progress_seconds: float | None,
        timeout: float,
    ) -> None:
        self._node = node
        self._clock = node.runtime.clock
        self._promise = node.runtime.promise
        self._hub = hub
        self._lock = lock
        self._wanted = wanted
        self._start = start
        self._serializable = serializable
        self._progress_ns = None if progress_seconds is None else round(progress_seconds * 1e9)
        self._timeout = timeout
        self._watcher: Watcher | None = None
        self._taken = 0  # Changes since the loop last ran
        self._quiet_ns = 0  # since when nothing was delivered
        self.next_revision = start
        """What to pass as ``start=`` to go on behind what was delivered. With fragments: of a
        revision that was delivered in part, the whole of it."""

    # --- life -----------------------------------------------------------------------------------

    async def __aenter__(self) -> Watch:
        """Begin to watch: from here on nothing is missed.

        Raises CompactedError if ``start`` is below what history remembers, TooManyRequestsError if
        this member has too many watchers; for ``start=0`` what a linearizable read raises.
        """
        if self._watcher is not None:
            raise UsageError("this watch was used before: make another one with kv.watch()")
        if self._start == 0 and not self._serializable:
            await self._node.read(timeout=self._timeout)
        else:
            await checkpoint()
        self._node.check()
        self._watcher = self._hub.watch(self._wanted, self._start)
        self.next_revision = self._start or self._hub.revision + 1
        self._quiet_ns = self._clock.monotonic_ns()
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
        """Stop watching: who iterates comes to the end. Idempotent."""
        if self._watcher is not None:
            self._watcher.close()

    # --- reading --------------------------------------------------------------------------------

    def __aiter__(self) -> Watch:
        """Itself."""
        return self

    async def __anext__(self) -> Change:
        """The next Change; the end once the watch is closed."""
        watcher = self._watcher or self._inside()
        if self._taken >= TAKEN_MAX:
            # Answered without waiting, a fast reader would starve the node of its loop.
            self._taken = 0
            await checkpoint()
            if watcher.is_synced and watcher.queued and not watcher.is_awaited:
                await self._wait_for_turn(watcher)
        while (change := watcher.take()) is None:
            if watcher.is_closed:
                raise StopAsyncIteration
            self._check(watcher)
            if watcher.is_awaited:
                raise UsageError(_ONE_READER)
            self._taken = 0
            if not watcher.is_synced:
                # One step of one watcher in a turn of the loop, however many are behind.
                async with self._lock:
                    watcher.step()
                    await checkpoint()
                continue
            promise = self._promise()
            watcher.park(promise)
            try:
                if self._progress_ns is None:
                    await promise
                else:
                    await self._wait_quietly(watcher, promise, self._progress_ns)
            finally:
                watcher.unpark()
        self._took(change)
        return change

    async def next(self, changes_max: int = TAKEN_MAX) -> tuple[Change, ...]:
        """The Changes that are there, up to ``changes_max``; waits until there is one at least.

        For readers that go to and fro between threads for them. Raises ClosedError once closed.
        """
        if check_count("changes_max", changes_max) == 0:
            raise InvalidArgumentError("changes_max must be at least 1")
        try:
            changes = [await self.__anext__()]
        except StopAsyncIteration:
            raise ClosedError(_CLOSED) from None
        watcher = self._inside()
        while len(changes) < changes_max and (change := watcher.take()) is not None:
            self._took(change)
            changes.append(change)
        return tuple(changes)

    async def progress(self, *, timeout: float = 5.0) -> int:
        """Ask for a progress mark; returns a revision that it will reach at least.

        The mark comes among the Changes, behind all that happened before, and everything that was
        acknowledged before the call is up to the revision returned. So whoever has read on to a
        Change of that revision, or beyond, has seen it all. Marks asked for while one waits to be
        read are one. Any task may ask, while another one reads. Raises what a linearizable read
        does.
        """
        watcher = self._inside()
        await self._node.read(timeout=checked_timeout(timeout))
        self._check(watcher)
        if watcher.is_closed:
            raise ClosedError(_CLOSED)
        watcher.ask_mark()
        return self._hub.revision

    def _inside(self) -> Watcher:
        watcher = self._watcher
        if watcher is None:
            raise UsageError("the watch has not begun: use it in `async with kv.watch(...)`")
        return watcher

    def _took(self, change: Change) -> None:
        self._taken += 1
        if self._progress_ns is not None:
            self._quiet_ns = self._clock.monotonic_ns()
        behind = change.revision if change.is_fragment else change.revision + 1
        if behind > self.next_revision:  # else it is a mark of before a start in the future
            self.next_revision = behind

    async def _wait_for_turn(self, watcher: Watcher) -> None:
        """Let others go first: for who has taken much, and finds more.

        Thousands with long queues would else read all at once, for they need not be woken again.
        """
        promise = self._promise()
        watcher.line_up(promise)
        try:
            await promise
        finally:
            watcher.unpark()

    async def _wait_quietly(
        self, watcher: Watcher, promise: Promise[object], progress_ns: int
    ) -> None:
        """Wait until the hub rings, or it is time for a progress mark."""
        left_ns = self._quiet_ns + progress_ns - self._clock.monotonic_ns()
        with move_on_after(max(0, left_ns) / 1e9):
            await promise
            return
        if watcher.is_synced and not watcher.queued:
            watcher.ask_mark()

    def _check(self, watcher: Watcher) -> None:
        """Raise what ended the watch, if anything did."""
        if watcher.failure is not None:
            raise watcher.failure
        if self._hub.is_ended:
            self._node.check()
            raise ClosedError("the node is closed: watch again from next_revision on another one")


class Watching(Part):
    """Watches of a node's own store: they work on any member, follower or leader."""

    def __init__(
        self, node: Replica, machine: KvMachine, settings: KvSettings | None = None
    ) -> None:
        super().__init__(node, machine, settings)
        self._hub = Hub(machine, self._settings, node.runtime)
        self._catching_up = Lock()
        node.tell(self._hub)

    def watch(
        self,
        key: str | bytes | None = None,
        stop: str | bytes | None = None,
        *,
        prefix: str | bytes | None = None,
        start: int = 0,
        previous: bool = False,
        puts: bool = True,
        deletes: bool = True,
        progress_seconds: float | None = None,
        fragment: bool = False,
        serializable: bool = False,
        timeout: float = 5.0,
    ) -> Watch:
        r"""Watch ``key``, or the keys from it up to ``stop``, or with ``prefix``; all without any.

        ``stop="\0"`` means to the end, as in etcd. To be used as ``async with kv.watch(...) as
        changes: async for change in changes: ...``; see :class:`Watch`.

        ``start`` is the first revision to show, in the past or future. 0 is from now: the watch
        shows nothing that was acknowledged before it began and everything that is afterwards, by
        whichever member; for that it begins with a linearizable read, within ``timeout`` seconds.
        With ``serializable`` it asks nobody, and "now" is what this member has applied.

        ``previous`` adds what the keys were before, as far as compaction has left it. ``puts`` and
        ``deletes`` say which events are wanted: a Change has those alone. ``progress_seconds`` asks
        for a progress mark whenever nothing was delivered for so long. ``fragment`` lets a revision
        of more than 1.5 MiB come in several Changes, ``is_fragment`` on all but the last.

        Raises InvalidArgumentError for a span that is empty or said twice, a negative ``start``,
        or wrong types.
        """
        wanted = Wanted(
            _watched(key, stop, prefix),
            flag_of("previous", previous),
            flag_of("puts", puts),
            flag_of("deletes", deletes),
            FRAGMENT_BYTES_MAX if flag_of("fragment", fragment) else 0,
        )
        if not (puts or deletes):
            raise InvalidArgumentError("a watch of neither puts nor deletes shows nothing")
        if progress_seconds is not None and checked_timeout(progress_seconds) <= 0:
            raise InvalidArgumentError("progress_seconds must be above zero; None: no marks")
        return Watch(
            self._node,
            self._hub,
            self._catching_up,
            wanted,
            start=check_count("start", start),
            serializable=flag_of("serializable", serializable),
            progress_seconds=progress_seconds,
            timeout=checked_timeout(timeout),
        )


def _watched(key: str | bytes | None, stop: str | bytes | None, prefix: str | bytes | None) -> Span:
    """The keys to watch. Raises InvalidArgumentError if there can be none."""
    if key is not None and stop is None and prefix is None:
        alone = key_of(key)
        return Span(alone, alone + b"\0")
    if stop is not None and prefix is None and bound_of("stop", stop) == _TO_THE_END:
        return span_of(key, None, None)
    span = span_of(key, stop, prefix)
    if span.is_empty:
        raise InvalidArgumentError(
            f"watcher range is empty: nothing lies between {span.start!r} and {span.stop!r}; "
            "stop must be greater"
        )
    return span
