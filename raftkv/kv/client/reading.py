"""The reading half of :class:`~raftkv.kv.client.kv.Kv`.

Reads are linearizable unless asked otherwise: one round to a majority, shared by all reads that
begin together, and then a read of this member's own store.
"""

from __future__ import annotations

from typing import Final

from anyio import move_on_after
from anyio.lowlevel import checkpoint

from raftkv.errors import CompactedError, DeadlineError, InvalidArgumentError
from raftkv.kv.client.base import Part, Replica
from raftkv.kv.client.edge import check_count, flag_of, key_of, option_of, span_of
from raftkv.kv.machine import KvMachine
from raftkv.kv.model import KeyValue, RangeResult
from raftkv.kv.reader import RangeRead, read_key
from raftkv.kv.requests import Range, SortOrder, SortTarget
from raftkv.kv.settings import KvSettings
from raftkv.node.waiters import checked_timeout

STEP_KEYS: Final = 256
"""A range read looks at so many keys before it lets the event loop run."""

LOCAL_READS: Final = 64
"""So many serializable gets are answered in a row before one lets the event loop run."""


class Reading(Part):
    """Reads of keys and ranges, now and in the past."""

    def __init__(
        self, node: Replica, machine: KvMachine, settings: KvSettings | None = None
    ) -> None:
        super().__init__(node, machine, settings)
        self._local_reads = 0

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
        key = key_of(key)
        if revision != 0 or type(revision) is not int:
            check_count("revision", revision)
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
        order: SortOrder = SortOrder.NONE,
        sort_by: SortTarget = SortTarget.KEY,
        min_mod_revision: int = 0,
        max_mod_revision: int = 0,
        min_create_revision: int = 0,
        max_create_revision: int = 0,
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

        ``order`` and ``sort_by`` give another order than that of the keys, before the limit is
        applied; as in etcd a ``sort_by`` without ``order`` sorts, upwards, only the first
        ``limit + 1`` keys. The four bounds, inclusive, pass over keys outside of them, which
        ``count`` still counts; 0 is none.

        Raises InvalidArgumentError for ``prefix`` beside ``start`` or ``stop``, a negative number
        or an order that is none; FutureRevisionError and CompactedError as ``get`` does.
        """
        wanted = Range(
            span_of(start, stop, prefix),
            limit=check_count("limit", limit),
            revision=check_count("revision", revision),
            order=option_of("order", order, SortOrder),
            target=option_of("sort_by", sort_by, SortTarget),
            mod_revision_min=check_count("min_mod_revision", min_mod_revision),
            mod_revision_max=check_count("max_mod_revision", max_mod_revision),
            create_revision_min=check_count("min_create_revision", min_create_revision),
            create_revision_max=check_count("max_create_revision", max_create_revision),
            keys_only=flag_of("keys_only", keys_only),
            count_only=flag_of("count_only", count_only),
        )
        is_counted = flag_of("counted", counted)
        await self._begin_read(serializable, lease, timeout)
        return await self._read(wanted, is_counted, timeout)

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
        if flag_of("serializable", serializable):
            if flag_of("lease", lease):
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
        await self._node.read(lease=flag_of("lease", lease), timeout=timeout)

    async def _read(self, wanted: Range, counted: bool, timeout: float) -> RangeResult:
        read = RangeRead(wanted, counted=counted)
        if read.advance(self._machine.store, STEP_KEYS):
            return read.result
        with move_on_after(timeout):
            while True:
                await checkpoint()
                try:
                    if read.advance(self._machine.store, STEP_KEYS):
                        return read.result
                except CompactedError:
                    if wanted.revision:
                        raise
                    # Nobody asked for the revision that it began with: it begins anew.
                    read = RangeRead(wanted, counted=counted)
        raise DeadlineError(
            f"the range was not read to its end in {timeout} s; read it in pages with limit= and "
            "counted=False, or give it a longer timeout="
        )
