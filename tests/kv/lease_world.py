"""A simulated cluster whose leases are watched: what was promised of them is held against ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TypeVar

from raftkv.errors import Error, LeaseNotFoundError
from raftkv.handle import Node
from raftkv.kv import KvMachine, KvResult
from raftkv.kv.client import Kv, Replica
from raftkv.testing import Choices
from raftkv.testing.nodes import Conditions, SimCluster, run_virtual

T = TypeVar("T")
SECOND = 1_000_000_000
Body = Callable[[], Coroutine[object, object, T]]


class LeaseWorld:
    """A cluster, and of each lease until when it was promised, by the world's clock.

    A promise counts from when its renewal began. A revocation that is wanted lifts all promises.
    """

    def __init__(self, cluster: SimCluster[KvResult]) -> None:
        self.cluster = cluster
        self.promised: dict[int, int] = {}
        self.ended: dict[int, int] = {}
        self.revoking: set[int] = set()
        self.revoked: set[int] = set()
        self.violations: list[str] = []
        self.renewals = 0
        self._watched: set[int] = set()

    @property
    def now(self) -> int:
        return self.cluster.clock.monotonic_ns()

    async def sleep(self, seconds: float) -> None:
        await self.cluster.clock.sleep_until(self.now + round(seconds * SECOND))

    def kv(self, name: str) -> Kv:
        """The store of a member; from then on the ends of leases that it applies are watched."""
        node = self.cluster.node(name)
        self.watch(node)
        return node.kv

    def watch(self, node: Node[KvResult]) -> None:
        machine = machine_of(node)
        if id(machine) in self._watched:
            return
        self._watched.add(id(machine))
        keeper = machine.on_leases

        def told(leases: Sequence[tuple[int, int, int]]) -> None:
            for lease, _, number in leases:
                if not number:
                    self._ends(lease)
            keeper(leases)

        machine.on_leases = told

    def watch_all(self) -> None:
        for node in self.cluster.nodes.values():
            self.watch(node)

    def _ends(self, lease: int) -> None:
        at = self.ended.setdefault(lease, self.now)
        self._check(lease, at)

    def _check(self, lease: int, at: int) -> None:
        until = self.promised.get(lease, 0)
        if lease not in self.revoking and at < until:
            self.violations.append(
                f"I41: lease {lease:x} ended {(until - at) / SECOND:.3f} s before its time"
            )

    def _promise(self, lease: int, until: int) -> None:
        self.promised[lease] = max(self.promised.get(lease, 0), until)
        if lease in self.ended:
            self._check(lease, self.ended[lease])

    # --- what clients do ---

    async def grant(self, name: str, ttl: int, *, timeout: float = 5.0) -> int:
        began = self.now
        granted = await self.kv(name).grant(ttl, timeout=timeout)
        self._promise(granted.id, began + granted.ttl * SECOND)
        return granted.id

    async def keep_alive(self, name: str, lease: int, *, timeout: float = 5.0) -> int:
        """Renew it. Raises what the client does."""
        began, was_revoked = self.now, lease in self.revoked
        ttl = await self.kv(name).keep_alive(lease, timeout=timeout)
        self.renewals += 1
        if was_revoked:
            self.violations.append(f"I42: lease {lease:x} was renewed after it had been revoked")
        self._promise(lease, began + ttl * SECOND)
        return ttl

    async def revoke(self, name: str, lease: int, *, timeout: float = 5.0) -> None:
        self.revoking.add(lease)
        await self.kv(name).revoke(lease, timeout=timeout)
        self.revoked.add(lease)

    async def until_ended(self, name: str, lease: int, *, within: float) -> float:
        """Wait until it is gone as this member sees it; how long that took."""
        began = self.now
        while self.now < began + round(within * SECOND):
            try:
                if lease not in await self.kv(name).leases(timeout=1.0):
                    return (self.now - began) / SECOND
            except Error:
                pass
            await self.sleep(0.1)
        raise AssertionError(f"lease {lease:x} still lives after {within} s")

    async def try_to_renew(self, name: str, lease: int) -> bool:
        """Whether it still lives, as far as anybody answers."""
        try:
            await self.keep_alive(name, lease, timeout=0.7)
        except LeaseNotFoundError:
            return False
        except Error:
            return True
        return True

    def first_thing(self, name: str, body: Body[T]) -> Awaitable[T]:
        """Stop a member, which does this before anything else when it goes on."""
        self.cluster.pause(name)
        return self.in_process(name, body)

    def in_process(self, name: str, body: Body[T]) -> Awaitable[T]:
        """Run this as a part of a member's process, which may stand still."""
        context = self.cluster.process(name)._context  # pyright: ignore[reportPrivateUsage] - what makes it a part
        return context.run(lambda: self.cluster.loop.create_task(body(), context=context))

    def others(self, name: str) -> list[str]:
        return [other for other in self.cluster.names if other != name]

    async def leader(self) -> str:
        return (await self.cluster.leader()).name


def door_of(node: Node[KvResult]) -> Replica:
    """How a member's store proposes."""
    return node.kv._node  # pyright: ignore[reportPrivateUsage] - what its keeper has


def machine_of(node: Node[KvResult]) -> KvMachine:
    return node.kv._machine  # pyright: ignore[reportPrivateUsage] - to be watched


def play(
    story: Callable[[LeaseWorld], Awaitable[T]],
    choices: Choices | None = None,
    *,
    conditions: Conditions | None = None,
) -> T:
    """Play a story; what was promised of leases must have been kept in it."""

    async def main() -> T:
        cluster = SimCluster(choices, conditions=conditions)
        cluster.loop.limit_ns = 900 * SECOND
        async with cluster:
            world = LeaseWorld(cluster)
            world.watch_all()
            told = await story(world)
            assert not world.violations, "\n".join(world.violations)
            return told

    return run_virtual(main, choices)
