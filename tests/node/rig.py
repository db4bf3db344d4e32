"""Three members in one process over a network in memory, which tests can break."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from raftkv.errors import NodeStoppedError
from raftkv.machine import Command, Row
from raftkv.node.applier import AnyMachine
from raftkv.node.disks import Disks
from raftkv.node.node import Node, running
from raftkv.node.peers import Member
from raftkv.node.settings import Settings
from raftkv.node.start import Setup
from raftkv.runtime.base import Runtime
from raftkv.runtime.system import system_runtime
from raftkv.storage.base import Batch, Reader, Space, Storage, Store
from raftkv.storage.memory import MemoryDisk, open_memory
from raftkv.transport.memory import MemoryNetwork

CLUSTER_ID = 77

# Quick elections; still ten times what this machine's loop is late for under load.
QUICK = Settings(tick_seconds=0.02, heartbeat_ticks=2, election_ticks=10, close_seconds_max=0.5)


class Journal:
    """An in-memory machine that keeps every command and answers how many there were."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []
        self.restored = 0
        self.before: Callable[[Sequence[Command]], None] = lambda _commands: None

    def apply(self, commands: Sequence[Command]) -> Sequence[object]:
        self.before(commands)
        results: list[object] = []
        for command in commands:
            self.commands.append(command.data)
            results.append(len(self.commands))
        return results

    def snapshot(self) -> Iterator[bytes]:
        commands = tuple(self.commands)
        for start in range(0, len(commands), 10):
            part = commands[start : start + 10]
            yield b"".join(len(one).to_bytes(4, "big") + one for one in part)

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.restored += 1
        self.commands = []
        for chunk in chunks:
            at = 0
            while at < len(chunk):
                size = int.from_bytes(chunk[at : at + 4], "big")
                self.commands.append(chunk[at + 4 : at + 4 + size])
                at += 4 + size


class Ledger:
    """The same, on disk: one row a command."""

    def __init__(self) -> None:
        self._store: Store | None = None
        self.count = 0
        self.opened = 0
        self.before: Callable[[Sequence[Command]], None] = lambda _commands: None

    def open(self, store: Store) -> None:
        self._store = store
        self.opened += 1
        last = next(store.scan(Space.MACHINE, reverse=True), None)
        self.count = 0 if last is None else int.from_bytes(last[0], "big")

    @property
    def commands(self) -> list[bytes]:
        assert self._store is not None
        return [value for _, value in self._store.scan(Space.MACHINE)]

    def apply_durable(self, commands: Sequence[Command], batch: Batch) -> Sequence[object]:
        self.before(commands)
        results: list[object] = []
        for command in commands:
            self.count += 1
            batch.put(Space.MACHINE, self.count.to_bytes(8, "big"), command.data)
            results.append(self.count)
        return results

    def snapshot_durable(self, reader: Reader) -> Iterator[bytes]:
        for key, value in reader.scan(Space.MACHINE):
            yield key + value

    def restore_durable(self, chunk: bytes, carry: bytes) -> tuple[Sequence[Row], bytes]:
        return [(chunk[:8], chunk[8:])], b"%d" % (int(carry or b"0") + 1)

    def check_restored(self, carry: bytes) -> None:
        assert int(carry) > 0


MACHINES: dict[str, Callable[[], Journal | Ledger]] = {"in-memory": Journal, "on-disk": Ledger}


def member_of(number: int) -> Member:
    return Member(number, f"n{number}", f"n{number}:1")


class Cluster:
    """Members by number, from 1. Each runs in a task of its own and can be stopped and started."""

    def __init__(
        self,
        tasks: TaskGroup,
        size: int,
        settings: Settings,
        machine: Callable[[], AnyMachine],
        runtime: Runtime | None = None,
    ) -> None:
        self.runtime = runtime or system_runtime()
        self.network = MemoryNetwork(self.runtime)
        self.members = tuple(member_of(number) for number in range(1, size + 1))
        self.settings = settings
        self.make_machine = machine
        self.disks = {member.id: MemoryDisk() for member in self.members}
        self.nodes: dict[int, Node[object]] = {}
        self.machines: dict[int, AnyMachine] = {}
        self.storages: dict[int, Storage] = {}
        self.open_storage: Callable[[int], Storage] = self._open_memory
        self.failures: dict[int, BaseException] = {}
        self.wrap: Callable[[int, Storage], Storage] = lambda _number, storage: storage
        self.prepare: Callable[[int, Node[object]], None] = lambda _number, _node: None
        self._tasks = tasks
        self._stops: dict[int, anyio.Event] = {}
        self._ended: dict[int, anyio.Event] = {}

    def _open_memory(self, number: int) -> Storage:
        alone = len(self.members) == 1
        return open_memory(
            CLUSTER_ID,
            number,
            disk=self.disks[number],
            can_recover=True,
            has_others=not alone,
        )

    def setup(self, number: int) -> Setup:
        member = self.members[number - 1]
        machine = self.machines[number] = self.make_machine()
        storage = self.storages[number] = self.wrap(number, self.open_storage(member.id))
        return Setup(
            me=member,
            members=self.members,
            storage=storage,
            transport=self.network.endpoint(member.address),
            machine=machine,
            settings=self.settings,
            runtime=self.runtime,
        )

    async def start(self, number: int) -> Node[object]:
        await self._tasks.start(self._life, number, name=f"member {number}")
        return self.nodes[number]

    async def _life(self, number: int, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        stop = self._stops[number] = anyio.Event()
        ended = self._ended[number] = anyio.Event()
        node: Node[object] = Node(self.setup(number))
        self.prepare(number, node)
        try:
            async with running(node):
                self.nodes[number] = node
                task_status.started()
                await stop.wait()
        except NodeStoppedError as error:
            self.failures[number] = error
        finally:
            self.nodes.pop(number, None)
            ended.set()

    async def stop(self, number: int) -> None:
        self._stops[number].set()
        await self._ended[number].wait()

    async def ended(self, number: int) -> None:
        await self._ended[number].wait()

    async def leader(self) -> Node[object]:
        """A member that leads and has proved it."""
        while True:
            for node in [*self.nodes.values()]:
                if node.status().is_leader:
                    await node.read()
                    return node
            await self.tick()

    async def settled(self) -> None:
        """Until all are connected, and the log tells of every boot: it grows by commands alone."""

        def knows_all(number: int) -> bool:
            storage = self.storages[number]
            disks = Disks(storage.store, storage.identity)
            return disks.count >= len(self.members) and not list(disks.unlogged())

        await self.until(lambda: all(knows_all(number) for number in self.nodes))

    async def tick(self) -> None:
        clock = self.runtime.clock
        await clock.sleep_until(clock.monotonic_ns() + self.settings.tick_ns)

    async def until(self, holds: Callable[[], bool]) -> None:
        """The test's own time limit bounds the wait."""
        while not holds():
            await self.tick()

    def followers(self, leader: Node[object]) -> list[Node[object]]:
        return [node for number, node in sorted(self.nodes.items()) if number != leader.id]

    def commands(self, number: int) -> list[bytes]:
        machine = self.machines[number]
        assert isinstance(machine, Journal | Ledger)
        return machine.commands


@asynccontextmanager
async def cluster(
    size: int = 3,
    *,
    settings: Settings = QUICK,
    machine: Callable[[], AnyMachine] = Journal,
    start: bool = True,
) -> AsyncGenerator[Cluster]:
    async with anyio.create_task_group() as tasks:
        made = Cluster(tasks, size, settings, machine)
        if start:
            for member in made.members:
                await made.start(member.id)
        yield made
        for number in sorted(made.nodes):
            await made.stop(number)
