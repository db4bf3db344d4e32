"""A member without a node: a machine, a clock, and who leads is said by the test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from attrs import evolve

from raftkv.kv.commands import decode
from raftkv.kv.leases import read_leases
from raftkv.kv.model import KvResult
from raftkv.kv.requests import Grant, KvCommand
from raftkv.node.settings import Settings
from raftkv.runtime.base import Runtime
from raftkv.runtime.system import system_runtime
from raftkv.testing.nodes.loop import virtual_loop
from raftkv.testing.nodes.runtime import SimClock
from tests.kv.rig import memory_rig

SECOND = 1_000_000_000


class LoneMember:
    """A node that leads or not, as it is told, over a machine of its own."""

    def __init__(self) -> None:
        self.rig = memory_rig()
        self.clock = SimClock(virtual_loop())
        self.runtime: Runtime = evolve(system_runtime(), clock=self.clock)
        self.settings = Settings()
        self.leading = 0
        self._order = anyio.Lock()
        self.proposed: list[KvCommand] = []
        self.before: Callable[[KvCommand], Awaitable[None]] = at_once
        self.on_read: Callable[[], Awaitable[None]] = nothing

    async def propose(self, command: bytes, *, timeout: float = 5.0) -> KvResult:
        async with self._order:  # a member's commands keep theirs
            known = decode(command)
            self.proposed.append(known)
            await self.before(known)
            return self.rig.apply_bytes([command])[0]

    async def read(self, *, lease: bool = False, timeout: float = 5.0) -> int:
        await self.on_read()
        return 0

    async def sleep(self, seconds: float) -> None:
        await self.clock.sleep_until(self.clock.monotonic_ns() + round(seconds * SECOND))

    def grant(self, lease: int, ttl: int) -> None:
        self.rig.apply([Grant(lease, ttl)])

    def of(self, kind: type[KvCommand]) -> list[KvCommand]:
        return [one for one in self.proposed if isinstance(one, kind)]

    @property
    def leases(self) -> list[int]:
        return [one.id for one in read_leases(self.rig.store, 0, 10_000)]


async def at_once(_command: KvCommand) -> None:
    pass


async def nothing() -> None:
    pass
