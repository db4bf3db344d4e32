"""What the parts of :class:`~raftkv.kv.client.kv.Kv` stand on: the node they belong to."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from raftkv.kv.alarms import takes_room
from raftkv.kv.client.edge import too_large
from raftkv.kv.client.room import Room
from raftkv.kv.client.sessions import Session
from raftkv.kv.commands import decode
from raftkv.kv.machine import KvMachine
from raftkv.kv.model import REQUEST_BYTES_MAX, KvResult
from raftkv.kv.settings import KvSettings
from raftkv.node.audience import Audience
from raftkv.node.settings import Settings
from raftkv.node.waiters import checked_timeout
from raftkv.runtime.base import Runtime


class Replica(Protocol):
    """What a KV client needs of the node it belongs to."""

    def propose(self, command: bytes, *, timeout: float = 5.0) -> Awaitable[KvResult]:
        """Replicate a command and return what applying it gave."""
        ...

    def read(self, *, lease: bool = False, timeout: float = 5.0) -> Awaitable[int]:
        """Wait until this member's store holds everything acknowledged before the call."""
        ...

    def ask(self, question: bytes, *, timeout: float = 5.0) -> Awaitable[bytes]:
        """What the leader's keeper answers; it may be asked several times."""
        ...

    @property
    def leading(self) -> int:
        """The term in which this member leads, or believes to; 0 if it does not."""
        ...

    def check(self) -> None:
        """Raise what any call would: closed, stopped, another thread or loop, after a fork."""
        ...

    def tell(self, audience: Audience) -> None:
        """Tell it, from now on, when there are new rows to read."""
        ...

    @property
    def id(self) -> int:
        """The member's id."""
        ...

    @property
    def runtime(self) -> Runtime:
        """The node's clock, chance and promises."""
        ...

    @property
    def settings(self) -> Settings:
        """The node's times and bounds."""
        ...


class Part:
    """A part of the client: its methods go through one node and one machine.

    ``Kv`` inherits from all parts: each ``__init__`` passes its arguments on.
    """

    def __init__(
        self, node: Replica, machine: KvMachine, settings: KvSettings | None = None
    ) -> None:
        self._node = node
        self._machine = machine
        self._settings = settings or KvSettings()
        self._room = Room(node, machine, self._settings.quota_bytes)
        self._session = Session(node, self._settings) if self._settings.sessions else None

    async def _propose(self, command: bytes, timeout: float) -> KvResult:
        """Replicate the bytes of a command: every write goes this way, whichever part makes it.

        Once, in the session, unless those are switched off. Raises InvalidArgumentError for a
        timeout that is none, RequestTooLargeError beyond 1.5 MiB, NoSpaceError for what takes room
        where there is none.
        """
        if len(command) > REQUEST_BYTES_MAX:
            raise too_large(len(command))
        timeout = checked_timeout(timeout)
        if not self._room.has(len(command)) and takes_room(decode(command)):
            raise await self._room.refuse(timeout)
        session = self._session
        if session is None:
            return await self._node.propose(command, timeout=timeout)
        return await session.propose(command, timeout)
