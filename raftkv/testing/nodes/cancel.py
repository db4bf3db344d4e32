"""What is left of an operation that is cancelled: nothing, wherever it was.

Each operation is cancelled at its first await, then at its second, and so on until one goes through
(:class:`~raftkv.testing.nodes.cancelled.CancelledAt`). Each time no task may be left behind and no
disk stay open, the cluster must go on, and in the end what clients were told must be possible:
cancelling a write abandons the wait, not the write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import anyio

from raftkv.core import Input, State
from raftkv.errors import Error
from raftkv.handle import Node
from raftkv.kv import KvResult
from raftkv.node.settings import Settings
from raftkv.storage.base import Storage, Store
from raftkv.testing.histories.kv import Get, KvHistory, KvRequest, KvResponse, Put, written_in
from raftkv.testing.histories.operations import History
from raftkv.testing.histories.revisions import check_revisions
from raftkv.testing.invariants import broken
from raftkv.testing.nodes.cancelled import CancelledAt
from raftkv.testing.nodes.checks import NodeChecks
from raftkv.testing.nodes.cluster import SimCluster
from raftkv.testing.nodes.disk import SimDisk
from raftkv.testing.nodes.loop import virtual_loop
from raftkv.testing.story import StoryWriter
from raftkv.transport.base import Lane

_SETTLE_SECONDS: Final = 3.0


class Bench:
    """A cluster of three, two of which run all the time, on which operations are cancelled."""

    def __init__(self, cluster: SimCluster[KvResult]) -> None:
        self.cluster = cluster
        self.history: KvHistory = History[KvRequest, KvResponse]()
        self.checks = NodeChecks(cluster.settings, Counter())
        self.number = 0
        self.errors = 0
        """How often the operation failed, as it may after an earlier one was cancelled."""
        self.stores: dict[str, Store] = {}
        """By the name of a member: the store of its newest life."""
        cluster.open_storage = self._opened
        cluster.on_start.append(self.checks.started)
        cluster.on_step.append(self._stepped)
        cluster.network.tap = self._sends

    def _sends(self, sender: int, _to: int, lane: Lane, frame: bytes) -> bytes:
        if lane is Lane.RAFT:
            self.checks.leaves(sender, frame)
        return frame

    def _stepped(self, _name: str, before: State, given: Input, after: State) -> None:
        self.checks.stepped(before, given, after)

    def _opened(self, name: str) -> Storage:
        storage = self.checks.watch(self.cluster.open_disk(name))
        self.stores[name] = storage.store
        return storage

    @property
    def node(self) -> Node[KvResult]:
        """A member that runs all the time."""
        return self.cluster.node("n1")

    async def put(self) -> object:
        """A recorded put."""
        self.number += 1
        request = Put(b"k", b"%d" % self.number)
        return await self.history.record(
            "c1", request, self.node.kv.put(request.key, request.value)
        )

    async def get(self) -> object:
        """A recorded linearizable get."""
        return await self.history.record("c1", Get(b"k"), self.node.kv.get(b"k"))

    async def range(self) -> object:
        """A read of everything."""
        return await self.node.kv.range()

    async def delete(self) -> object:
        """A deletion of what nobody else uses."""
        return await self.node.kv.delete("other")

    async def read(self) -> object:
        """The node's own read barrier."""
        return await self.node.read()

    async def ready(self) -> object:
        """Waiting for the cluster."""
        return await self.node.ready()

    async def transfer(self) -> object:
        """Leadership is handed from one to the other of those that run."""
        leader = await self.cluster.leader()
        heir = "n2" if leader.name == "n1" else "n1"
        return await leader.transfer_leadership(heir)

    async def add(self) -> object:
        """A learner is added that nobody ever starts."""
        name = f"late-{len(self.node.members.list())}"
        return await self.node.members.add(name, f"{name}:1", promote=False)

    async def remove(self) -> object:
        """The newest of those is removed."""
        names = [one.name for one in self.node.members.list() if one.name.startswith("late")]
        if not names:
            return await self.node.members.add("late", "late:1", promote=False)
        return await self.node.members.remove(names[-1])

    async def open(self) -> object:
        """A member is opened, asked, and closed in order."""
        async with self.cluster.opening("n3") as node:
            return await node.kv.get("k", serializable=True)

    async def close(self) -> object:
        """A member that runs is closed, by who waits for that."""
        async with self.cluster.opening("n3") as node:
            await node.ready()
            await node.close()


OPERATIONS: Final[Mapping[str, Callable[[Bench], Awaitable[object]]]] = {
    "put": Bench.put,
    "get": Bench.get,
    "range": Bench.range,
    "delete": Bench.delete,
    "read": Bench.read,
    "ready": Bench.ready,
    "transfer": Bench.transfer,
    "add": Bench.add,
    "remove": Bench.remove,
    "open": Bench.open,
    "close": Bench.close,
}
"""What is cancelled."""


async def cancel_everywhere(
    name: str,
    *,
    edge: bool = False,
    step_seconds: float = 0.0,
    settings: Settings | None = None,
    story: StoryWriter | None = None,
) -> int:
    """Cancel an operation at every await in turn; how many there were. Needs a virtual loop.

    ``edge`` as for :class:`CancelledAt`. With ``step_seconds`` it is cancelled after once, twice,
    three times ... so long instead: wherever the tasks are then that it waits for.

    Raises ViolationError for what is left behind: I52 for tasks and open disks, I53 for a cluster
    that does not go on, I48 for a history that cannot be.
    """
    cluster = SimCluster(None, size=3, settings=settings, story=story)
    bench = Bench(cluster)
    async with cluster:
        await cluster.leader()
        await cluster.stop("n3")
        await cluster.leader()
        if step_seconds:
            awaits = await _each_moment(bench, name, step_seconds)
        else:
            awaits = await _each(bench, name, edge=edge)
        await cluster.start("n3")
        await cluster.node("n3").ready()
        verdict = check_revisions(bench.history, list(written_in(bench.stores["n1"])))
        if not verdict.is_right:
            raise broken("I48", str(verdict))
    return awaits


async def _each(bench: Bench, name: str, *, edge: bool) -> int:
    operation = OPERATIONS[name]
    before = _tasks()
    number, awaits = 0, 0
    while awaits >= number:
        number += 1
        attempt = CancelledAt(lambda: _awaited(operation, bench), number, edge=edge)
        try:
            await attempt
        except Error:
            bench.errors += 1
        awaits = attempt.awaits
        await _settled(bench, name, number, before)
    return awaits


async def _each_moment(bench: Bench, name: str, step_seconds: float) -> int:
    before = _tasks()
    number = 0
    is_cut = True
    while is_cut:
        number += 1
        with anyio.move_on_after(number * step_seconds) as scope:
            try:
                await OPERATIONS[name](bench)
            except Error:
                bench.errors += 1
        await _settled(bench, name, number, before)
        is_cut = scope.cancelled_caught
    return number


async def _awaited(operation: Callable[[Bench], Awaitable[object]], bench: Bench) -> object:
    return await operation(bench)


async def _settled(bench: Bench, name: str, number: int, before: tuple[str, ...]) -> None:
    """After a cancellation: nothing is left, and the cluster goes on."""
    cluster = bench.cluster
    where = f"{name}, cancelled for the {number}th time"
    try:
        await bench.node.ready(timeout=_SETTLE_SECONDS)
        await bench.put()
    except Error as error:
        raise broken("I53", f"{where}: the cluster does not go on: {error}") from error
    left = [task for task in _tasks() if task not in before]
    if left:
        raise broken("I52", f"{where}: left behind: {'; '.join(left)}")
    disk = cluster.disk("n3")
    if isinstance(disk, SimDisk) and disk.is_open:
        raise broken("I52", f"{where}: the disk of n3 is still open")


def _tasks() -> tuple[str, ...]:
    """The names of all tasks that are not done."""
    return tuple(one.partition(" in ")[0] for one in virtual_loop().waiting())
