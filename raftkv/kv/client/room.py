"""The quota: whoever serves a write asks first whether there is room for it.

Every member counts the same size, so it hardly matters which of them asks; only that between two
looks a little more than the quota may come in. The first to find the store full raises the
``NO_SPACE`` alarm, and from there on every member refuses what takes room, whoever serves it.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from raftkv.errors import NoSpaceError, OutcomeUnknownError, UnavailableError
from raftkv.kv.alarms import NO_SPACE_TEXT, KvAlarm, read_alarms
from raftkv.kv.commands import encode
from raftkv.kv.machine import KvMachine
from raftkv.kv.model import KvResult
from raftkv.kv.requests import AlarmKind, SetAlarm


class Proposer(Protocol):
    """What is needed of the node."""

    def propose(self, command: bytes, *, timeout: float = 5.0) -> Awaitable[KvResult]:
        """Replicate a command."""
        ...

    @property
    def id(self) -> int:
        """The member's id."""
        ...


class Room:
    """What is left of the quota, as one member sees it."""

    __slots__ = ("_machine", "_node", "_quota_bytes", "_raising")

    def __init__(self, node: Proposer, machine: KvMachine, quota_bytes: int) -> None:
        self._node = node
        self._machine = machine
        self._quota_bytes = quota_bytes
        self._raising = False

    def has(self, size_bytes: int) -> bool:
        """Whether a command of so many bytes stays below the quota."""
        quota = self._quota_bytes
        return not quota or self._machine.head.size + size_bytes < quota

    async def refuse(self, timeout: float) -> NoSpaceError:
        """Raise the alarm, unless it is, and return what the caller is to raise.

        The write was not proposed, whatever becomes of the alarm: the next one raises it again.
        """
        mine = KvAlarm(AlarmKind.NO_SPACE, self._node.id)
        if not self._raising and mine not in read_alarms(self._machine.store):
            self._raising = True
            try:
                alarm = SetAlarm(mine.member, mine.kind, True)
                await self._node.propose(encode(alarm), timeout=timeout)
            except (UnavailableError, OutcomeUnknownError):
                pass
            finally:
                self._raising = False
        return NoSpaceError(NO_SPACE_TEXT)
