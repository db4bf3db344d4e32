"""The upkeep of the store: compaction, hashes to compare members by, alarms, how large it is."""

from __future__ import annotations

from typing import Final

from anyio import move_on_after
from anyio.lowlevel import checkpoint
from attrs import frozen

from raftkv.errors import CompactedError, DeadlineError, OutcomeUnknownError, UnavailableError
from raftkv.kv.alarms import KvAlarm, read_alarms
from raftkv.kv.client.base import Part
from raftkv.kv.client.edge import check_count, flag_of, refusal_of
from raftkv.kv.commands import encode
from raftkv.kv.compaction import unswept
from raftkv.kv.hashing import HashRead
from raftkv.kv.model import CompactResult, Done, KvHash
from raftkv.kv.reader import read_head
from raftkv.kv.requests import Compact, SetAlarm, Sweep
from raftkv.kv.rows import UNMEASURED
from raftkv.node.waiters import checked_timeout

STEP_ROWS: Final = 256
"""A hash takes in so many rows before it lets the event loop run."""


@frozen(slots=True)
class KvStatus:
    """Where this member's store stands.

    ``revision`` is the newest it has, ``floor`` the oldest that can be read. ``size_bytes`` is what
    keys, values and history are counted as, equal on all members at the same revision, and
    ``quota_bytes`` what this member refuses more than (0: no quota). ``unswept`` is the number of
    compacted revisions whose rows are still to be removed.
    """

    revision: int
    floor: int
    size_bytes: int
    quota_bytes: int
    unswept: int
    alarms: tuple[KvAlarm, ...]


class Upkeep(Part):
    """Compaction, hashes, alarms and status."""

    async def compact(
        self, revision: int, *, physical: bool = False, timeout: float = 5.0
    ) -> CompactResult:
        """Forget what is superseded at ``revision``: older revisions can no longer be read.

        ``revision`` itself can, and watched from. Its rows are removed little by little afterwards;
        ``physical`` waits until they are: OutcomeUnknownError then says that time ran out over
        that, and they are removed all the same.

        Raises FutureRevisionError for a revision that is not reached, CompactedError unless it is
        above that of the last compaction.
        """
        command = encode(Compact(check_count("revision", revision)))
        if not flag_of("physical", physical):
            return await self._compact(command, timeout)
        clock = self._node.runtime.clock
        until_ns = clock.monotonic_ns() + round(min(checked_timeout(timeout), 1e9) * 1e9)
        result = await self._compact(command, timeout)
        await self._sweep(result.floor, until_ns)
        return result

    async def _compact(self, command: bytes, timeout: float) -> CompactResult:
        result = await self._propose(command, timeout)
        if type(result) is CompactResult:
            return result
        raise refusal_of(result)

    async def hash(
        self, revision: int = 0, *, serializable: bool = False, timeout: float = 5.0
    ) -> KvHash:
        """A hash of all that this member can read from its floor to ``revision`` (0: the current).

        Members that agree have equal hashes at an equal revision and floor, which the result tells;
        at revision 0 members under load hash different ones. ``serializable`` hashes what is here,
        without asking a majority whether that is all. Reads everything, in steps.

        Raises FutureRevisionError and CompactedError as ``get`` does, DeadlineError if it takes
        longer than ``timeout``.
        """
        read = HashRead(check_count("revision", revision))
        await self._up_to_date(serializable, timeout)
        with move_on_after(timeout):
            while True:
                try:
                    if read.advance(self._machine.store, STEP_ROWS):
                        return read.result
                except CompactedError:
                    if revision:
                        raise
                    read = HashRead()  # nobody asked for the revision that it began with
                await checkpoint()
                self._node.check()
        raise DeadlineError(
            f"the store was not hashed to its end in {timeout} s; give it a longer timeout="
        )

    async def alarms(
        self, *, serializable: bool = False, timeout: float = 5.0
    ) -> tuple[KvAlarm, ...]:
        """Which alarms are raised, and by which members."""
        await self._up_to_date(serializable, timeout)
        return read_alarms(self._machine.store)

    async def disarm(self, *, timeout: float = 5.0) -> tuple[KvAlarm, ...]:
        """Take back all alarms; the result tells which there were.

        A store that is still at its quota raises the alarm anew at the next write: make room first,
        by deleting and compacting.
        """
        found = await self.alarms(timeout=timeout)
        for alarm in found:
            result = await self._propose(encode(SetAlarm(alarm.member, alarm.kind, False)), timeout)
            if type(result) is not Done:
                raise refusal_of(result)
        return found

    def status(self) -> KvStatus:
        """Where this member's store stands now, whatever the others have."""
        self._node.check()
        store = self._machine.store
        head = read_head(store)
        # A store of the first format has no size in it: the machine measured it.
        size = self._machine.head.size if head.size == UNMEASURED else head.size
        return KvStatus(
            head.revision,
            head.floor,
            size,
            self._settings.quota_bytes,
            unswept(store),
            read_alarms(store),
        )

    async def _up_to_date(self, serializable: bool, timeout: float) -> None:
        timeout = checked_timeout(timeout)
        if flag_of("serializable", serializable):
            self._node.check()
            await checkpoint()
        else:
            await self._node.read(timeout=timeout)

    async def _sweep(self, floor: int, until_ns: int) -> None:
        clock = self._node.runtime.clock
        command = encode(Sweep(self._settings.sweep_events))
        while (left := (until_ns - clock.monotonic_ns()) / 1e9) > 0:
            # Done twice it does more of the same: no session is needed.
            try:
                result = await self._node.propose(command, timeout=left)
            except UnavailableError as error:
                raise _unswept(floor) from error
            if type(result) is not Done:
                raise refusal_of(result)
            if not result.left:
                return
        raise _unswept(floor)


def _unswept(floor: int) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"revision {floor} is compacted, but what that made superfluous was not all removed in"
        " time; that goes on by itself"
    )
