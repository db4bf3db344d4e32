"""``node.kv``: the database as applications use it.

Everything is checked here before anything is proposed: an InvalidArgumentError means that nothing
left this member. Reads are linearizable unless asked otherwise: one round to a majority, shared by
all reads that begin together, and then a read of this member's own store.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, Protocol

from anyio import move_on_after
from anyio.lowlevel import checkpoint

from raftkv.errors import (
    DeadlineError,
    Error,
    InvalidArgumentError,
    InvariantError,
    RequestTooLargeError,
)
from raftkv.kv.commands import encode_delete, encode_delete_span, encode_put
from raftkv.kv.machine import KvMachine
from raftkv.kv.model import (
    KEY_BYTES_MAX,
    REQUEST_BYTES_MAX,
    DeleteResult,
    KeyValue,
    KvResult,
    PutResult,
    RangeResult,
    Refused,
    Span,
    check_key,
    prefix_span,
    to_bytes,
)
from raftkv.kv.reader import RangeRead, read_key
from raftkv.node.waiters import checked_timeout

STEP_KEYS: Final = 256
"""A range read looks at so many keys before it lets the event loop run."""

LOCAL_READS: Final = 64
"""So many serializable gets are answered in a row before one lets the event loop run."""


class Replica(Protocol):
    """What a :class:`Kv` needs of the node it belongs to."""

    def propose(self, command: bytes, *, timeout: float = 5.0) -> Awaitable[KvResult]:
        """Replicate a command and return what applying it gave."""
        ...

    def read(self, *, lease: bool = False, timeout: float = 5.0) -> Awaitable[int]:
        """Wait until this member's store holds everything acknowledged before the call."""
        ...

    def check(self) -> None:
        """Raise what any call would: closed, stopped, another thread or loop, after a fork."""
        ...


class Kv:
    """An etcd-like key-value store. Made by ``raftkv.open_node``, as ``node.kv``.

    Keys and values are ``str`` (encoded as UTF-8) or ``bytes``; results are always bytes. A key has
    1 byte to 64 KiB, a request at most 1.5 MiB in all.

    Every call has a deadline, ``timeout`` in seconds. After it writes raise OutcomeUnknownError if
    the command had left, else UnavailableError (surely not done); reads raise DeadlineError.
    Cancelling a write abandons the wait, not the write.

    Reads are linearizable: they show every write acknowledged before they began. ``lease=True``
    trusts the leader's clock instead of asking a majority; ``serializable=True`` asks nobody and
    shows what this member has, perhaps stale, even without a leader.
    """

    __slots__ = ("_local_reads", "_machine", "_node")

    def __init__(self, node: Replica, machine: KvMachine) -> None:
        self._node = node
        self._machine = machine
        self._local_reads = 0

    # --- writing --------------------------------------------------------------------------------

    async def put(
        self,
        key: str | bytes,
        value: str | bytes,
        *,
        previous: bool = False,
        timeout: float = 5.0,
    ) -> PutResult:
        """Set ``key`` to ``value``; on return that is durable on a majority.

        With ``previous`` the result holds what the key was before. Raises InvalidArgumentError for
        an empty or oversized key or a wrong type, RequestTooLargeError beyond 1.5 MiB.
        """
        data = encode_put(_key(key), _value(value), 0, _flag("previous", previous))
        if len(data) > REQUEST_BYTES_MAX:
            raise _too_large(len(data))
        result = await self._node.propose(data, timeout=checked_timeout(timeout))
        if type(result) is PutResult:
            return result
        raise _refusal(result)

    async def delete(
        self,
        key: str | bytes | None = None,
        *,
        start: str | bytes | None = None,
        stop: str | bytes | None = None,
        prefix: str | bytes | None = None,
        previous: bool = False,
        timeout: float = 5.0,
    ) -> DeleteResult:
        """Delete ``key``, or all keys with ``prefix``, or all from ``start`` up to ``stop``.

        ``stop`` itself stays. All of them in one revision; deleting what does not exist is no error
        and makes none. With ``previous`` the result holds what they were. ``prefix=""`` deletes
        everything. Each member deletes about 200 keys a millisecond, in one go: split a delete of
        far more than 10,000 into several.
        Raises InvalidArgumentError unless exactly one of the three ways is used.
        """
        wanted = _flag("previous", previous)
        if key is None:
            data = encode_delete_span(_span_to_delete(start, stop, prefix), wanted)
        elif start is None and stop is None and prefix is None:
            data = encode_delete(_key(key), wanted)
        else:
            raise InvalidArgumentError(
                "delete takes a key, or prefix=, or start= and stop=, and not several of them"
            )
        result = await self._node.propose(data, timeout=checked_timeout(timeout))
        if type(result) is DeleteResult:
            return result
        raise _refusal(result)

    # --- reading --------------------------------------------------------------------------------

    async def get(
        self,
        key: str | bytes,
        *,
        revision: int = 0,
        serializable: bool = False,
        lease: bool = False,
        timeout: float = 5.0,
    ) -> KeyValue | None:
        """The key now, or as it was right after ``revision``; None if it did not exist.

        Raises FutureRevisionError for a revision not reached, CompactedError for one forgotten.
        """
        key = _key(key)
        if revision != 0 or type(revision) is not int:
            _check_count("revision", revision)
        if serializable is False and lease is False:
            await self._node.read(timeout=checked_timeout(timeout))
        else:
            await self._begin_read(serializable, lease, timeout)
        return read_key(self._machine.store, key, revision)

    async def range(
        self,
        start: str | bytes | None = None,
        stop: str | bytes | None = None,
        *,
        prefix: str | bytes | None = None,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        counted: bool = True,
        serializable: bool = False,
        lease: bool = False,
        timeout: float = 5.0,
    ) -> RangeResult:
        """The keys from ``start`` up to and excluding ``stop``, or with ``prefix``, in order.

        Without ``start`` from the first key, without ``stop`` to the last. All at one revision: the
        current one, or ``revision``. ``limit`` bounds the items (0: all) and ``more`` tells whether
        it cut them; ``count`` is the number of keys all the same, which means a walk over all of
        them: ``counted=False`` spares it. ``keys_only`` leaves values empty, ``count_only`` gives
        no items.
        Raises InvalidArgumentError for ``prefix`` beside ``start`` or ``stop``, or a negative
        number; FutureRevisionError and CompactedError as ``get`` does.
        """
        read = RangeRead(
            _span(start, stop, prefix),
            revision=_check_count("revision", revision),
            limit=_check_count("limit", limit),
            keys_only=_flag("keys_only", keys_only),
            count_only=_flag("count_only", count_only),
            counted=_flag("counted", counted),
        )
        await self._begin_read(serializable, lease, timeout)
        return await self._finish(read, timeout)

    async def count(
        self,
        start: str | bytes | None = None,
        stop: str | bytes | None = None,
        *,
        prefix: str | bytes | None = None,
        revision: int = 0,
        serializable: bool = False,
        lease: bool = False,
        timeout: float = 5.0,
    ) -> int:
        """How many keys ``range`` would find. Walks over all of them."""
        found = await self.range(
            start,
            stop,
            prefix=prefix,
            revision=revision,
            count_only=True,
            serializable=serializable,
            lease=lease,
            timeout=timeout,
        )
        return found.count

    async def _begin_read(self, serializable: bool, lease: bool, timeout: float) -> None:
        timeout = checked_timeout(timeout)
        if _flag("serializable", serializable):
            if _flag("lease", lease):
                raise InvalidArgumentError(
                    "serializable and lease exclude each other: the first asks nobody, the "
                    "second the leader"
                )
            self._node.check()
            # Answered without waiting, a loop of such reads would starve the node of its loop.
            self._local_reads += 1
            if self._local_reads >= LOCAL_READS:
                self._local_reads = 0
                await checkpoint()
            return
        await self._node.read(lease=_flag("lease", lease), timeout=timeout)

    async def _finish(self, read: RangeRead, timeout: float) -> RangeResult:
        if read.advance(self._machine.store, STEP_KEYS):
            return read.result
        with move_on_after(timeout):
            while True:
                await checkpoint()
                if read.advance(self._machine.store, STEP_KEYS):
                    return read.result
        raise DeadlineError(
            f"the range was not read to its end in {timeout} s; read it in pages with limit= and "
            "counted=False, or give it a longer timeout="
        )


# --- the edge: what is accepted, and the sentence for what is not -------------------------------


def _key(key: str | bytes) -> bytes:
    if type(key) is not bytes:
        key = to_bytes("key", key)
    if not 0 < len(key) <= KEY_BYTES_MAX:
        check_key("key", key)
    return key


def _value(value: str | bytes) -> bytes:
    return value if type(value) is bytes else to_bytes("value", value)


def _span(start: str | bytes | None, stop: str | bytes | None, prefix: str | bytes | None) -> Span:
    if prefix is not None:
        if start is not None or stop is not None:
            raise InvalidArgumentError(
                "prefix says all about the range: leave out start and stop, or give them alone"
            )
        return prefix_span(_bound("prefix", prefix))
    return Span(
        b"" if start is None else _bound("start", start),
        None if stop is None else _bound("stop", stop),
    )


def _span_to_delete(
    start: str | bytes | None, stop: str | bytes | None, prefix: str | bytes | None
) -> Span:
    if start is None and stop is None and prefix is None:
        raise InvalidArgumentError(
            "key is not provided: give delete a key, prefix=, or start= and stop=; "
            'prefix="" deletes everything'
        )
    return _span(start, stop, prefix)


def _bound(what: str, given: str | bytes) -> bytes:
    bound = to_bytes(what, given)
    return check_key(what, bound) if bound else bound


def _check_count(what: str, given: int) -> int:
    if type(given) is not int:
        raise InvalidArgumentError(f"{what} must be an int, not {type(given).__name__}")
    if given < 0:
        raise InvalidArgumentError(f"{what} must not be negative, but is {given}; 0 means none")
    return given


def _flag(what: str, given: bool) -> bool:
    if given is not True and given is not False:
        raise InvalidArgumentError(f"{what} must be True or False, not {given!r}")
    return given


def _too_large(size: int) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"request is too large: {size} bytes, at most {REQUEST_BYTES_MAX}; split the value over "
        "several keys, or store it elsewhere and put a reference"
    )


def _refusal(result: KvResult) -> Error:
    if isinstance(result, Refused):
        return InvalidArgumentError(result.message)
    return InvariantError(f"a KV command was answered with a {type(result).__name__}")
