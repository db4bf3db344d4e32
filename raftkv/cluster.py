"""Several members in one process: for development, tests and a first look."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from os import PathLike
from pathlib import Path
from typing import Generic, TypeVar, cast, overload

import anyio
from anyio.abc import TaskGroup

from raftkv.errors import ConfigError, InvalidArgumentError, NoLeaderError, RemovedError
from raftkv.handle import Node
from raftkv.kv import KvResult
from raftkv.kv.settings import KvSettings
from raftkv.machine import Machine
from raftkv.node.settings import Settings
from raftkv.node.tasks import first_cause
from raftkv.open import open_node, plan
from raftkv.runtime.base import Runtime
from raftkv.runtime.system import system_runtime
from raftkv.storage.memory import MemoryDisk, open_memory
from raftkv.transport.memory import MemoryNetwork

R = TypeVar("R")

_SIZE_MAX = 9


class _Life:
    """One member from its start to its end."""

    def __init__(self) -> None:
        self.stop = anyio.Event()
        self.settled = anyio.Event()  # it is open, or will not be
        self.ended = anyio.Event()
        self.refusal: Exception | None = None


class Cluster(Generic[R]):
    """Members in one process, connected by a network in memory. Made by :func:`open_cluster`."""

    def __init__(
        self,
        directory: Path | None,
        size: int,
        machine: Callable[[], Machine[R]] | None,
        settings: Settings | None,
        kv: KvSettings | None,
        runtime: Runtime,
        tasks: TaskGroup,
    ) -> None:
        self._directory = directory
        self._machine = machine
        self._settings = settings or Settings()
        self._kv = kv
        self._runtime = runtime
        self._tasks = tasks
        self._founders = {f"n{number}": f"n{number}:1" for number in range(1, size + 1)}
        self._addresses = dict(self._founders)
        self._added: dict[str, tuple[int, int]] = {}  # cluster and member id
        self._disks = {name: MemoryDisk() for name in self._addresses}
        self._nodes: dict[str, Node[R]] = {}
        self._lives: dict[str, _Life] = {}
        self._stopping = False
        self.network = MemoryNetwork(runtime)
        """What connects them; tests cut it and heal it."""

    @property
    def nodes(self) -> tuple[Node[R], ...]:
        """The running members, by name."""
        return tuple(self._nodes[name] for name in sorted(self._nodes))

    def node(self, name: str) -> Node[R]:
        """The running member of that name (``n1`` and so on)."""
        node = self._nodes.get(name)
        if node is None:
            raise InvalidArgumentError(
                f"no member {name!r} is running: {', '.join(sorted(self._nodes)) or 'none is'}"
            )
        return node

    async def leader(self, *, timeout: float = 30.0) -> Node[R]:
        """The member that leads, once one does. Raises NoLeaderError if none does in time."""
        clock = self._runtime.clock
        limit = clock.monotonic_ns() + round(timeout * 1e9)
        while True:
            for node in self.nodes:
                # A member may still believe to lead when another one does: the newest term counts.
                newest = max(one.status().term for one in self.nodes)
                status = node.status()
                if status.is_leader and status.term == newest:
                    return node
            now = clock.monotonic_ns()
            if now >= limit:
                raise NoLeaderError(f"no member of the cluster became leader within {timeout} s")
            await clock.sleep_until(min(limit, now + self._settings.tick_ns))

    async def stop(self, name: str) -> None:
        """Close a member in order; what it stored stays for :meth:`start`."""
        self.node(name)
        life = self._lives[name]
        life.stop.set()
        await life.ended.wait()

    async def start(self, name: str) -> Node[R]:
        """Open a member that was stopped."""
        if name not in self._addresses or name in self._nodes:
            raise InvalidArgumentError(f"there is no stopped member {name!r} to start")
        life = self._lives[name] = _Life()
        self._tasks.start_soon(self._live, name, life, name=f"raftkv member {name}")
        try:
            await life.settled.wait()
        except BaseException:
            # Cancelled: the task is shielded, so it has to be told. Afterwards the member can be
            # started again.
            life.stop.set()
            with anyio.CancelScope(shield=True):
                await life.ended.wait()
            raise
        if life.refusal is not None:
            raise life.refusal
        return self.node(name)

    async def add(self, *, promote: bool = True, timeout: float = 30.0) -> Node[R]:
        """Add a member (``n4`` after ``n3``) and open it; returns once it is a voter.

        Without ``promote`` it stays a learner, and is returned once it has caught up.

        Raises what ``node.members.add`` raises, DeadlineError if it is not in sync in time.
        """
        name = f"n{len(self._addresses) + 1}"
        leader = await self.leader(timeout=timeout)
        added = await leader.members.add(name, f"{name}:1", promote=promote, timeout=timeout)
        self._addresses[name] = added.address
        self._disks[name] = MemoryDisk()
        self._added[name] = (leader.status().cluster_id, added.id)
        node = await self.start(name)
        if promote:
            await node.members.promoted(name, timeout=timeout)
        else:
            await node.ready(timeout=timeout)
        return node

    async def remove(self, name: str, *, timeout: float = 30.0) -> None:
        """Remove a member from the cluster for good; returns once it has ended.

        Raises what ``node.members.remove`` raises.
        """
        leader = await self.leader(timeout=timeout)
        await leader.members.remove(name, timeout=timeout)
        if name in self._nodes:
            await self._lives[name].ended.wait()

    async def start_all(self) -> None:
        """For :func:`open_cluster`."""
        for name in self._addresses:
            await self.start(name)

    def stop_all(self) -> None:
        """For :func:`open_cluster`."""
        self._stopping = True
        for life in self._lives.values():
            life.stop.set()

    async def _live(self, name: str, life: _Life) -> None:
        if self._stopping:
            life.stop.set()
        try:
            # Shielded, so that the members of a cancelled body still end in order.
            with anyio.CancelScope(shield=True):
                async with self._open(name) as node:
                    self._nodes[name] = node
                    life.settled.set()
                    await life.stop.wait()
        except Exception as error:
            if life.settled.is_set():
                if isinstance(error, RemovedError):
                    return  # as it was asked to be
                raise
            life.refusal = error  # for who started it, and nobody else
        finally:
            self._nodes.pop(name, None)
            life.settled.set()
            life.ended.set()

    def _open(self, name: str) -> AbstractAsyncContextManager[Node[R]]:
        ids = self._added.get(name)
        if ids is None:
            chosen = plan(name, self._founders, "raftkv")
            ids = (chosen.cluster_id, chosen.me.id)
        storage = None
        if self._directory is None:
            storage = open_memory(*ids, disk=self._disks[name])
        machine = None if self._machine is None else self._machine()
        opened: AbstractAsyncContextManager[Node[R]] = open_node(  # pyright: ignore[reportCallIssue, reportAssignmentType] - the overloads tell R from the machine, which may be None here
            (self._directory or Path()) / name,
            name=name,
            cluster=None if name in self._added else self._founders,
            join=self._addresses if name in self._added else None,
            machine=machine,  # pyright: ignore[reportArgumentType] - as above
            settings=self._settings,
            kv=self._kv,
            runtime=self._runtime,
            transport=self.network.endpoint(self._addresses[name]),
            storage=storage,
        )
        return opened


@overload
def open_cluster(
    directory: str | PathLike[str] | None,
    *,
    size: int = 3,
    machine: None = None,
    settings: Settings | None = None,
    kv: KvSettings | None = None,
    runtime: Runtime | None = None,
) -> AbstractAsyncContextManager[Cluster[KvResult]]: ...
@overload
def open_cluster(
    directory: str | PathLike[str] | None,
    *,
    size: int = 3,
    machine: Callable[[], Machine[R]],
    settings: Settings | None = None,
    kv: KvSettings | None = None,
    runtime: Runtime | None = None,
) -> AbstractAsyncContextManager[Cluster[R]]: ...
def open_cluster(
    directory: str | PathLike[str] | None,
    *,
    size: int = 3,
    machine: Callable[[], Machine[R]] | None = None,
    settings: Settings | None = None,
    kv: KvSettings | None = None,
    runtime: Runtime | None = None,
) -> AbstractAsyncContextManager[Cluster[KvResult]] | AbstractAsyncContextManager[Cluster[R]]:
    """Run ``size`` members (1 to 9) in this process while the context is open.

    Each has a data directory of its own below ``directory``, on real disk, named ``n1``, ``n2`` and
    so on; None keeps everything in memory. They are connected in memory, so no port is taken. Open
    it again on the same directory and the data is there. ``machine`` makes one state machine for
    each member; without it they run the key-value store, tuned by ``kv``.

    For development and tests: members in one process die together.
    """
    if not 1 <= size <= _SIZE_MAX:
        raise ConfigError(f"size must be from 1 to {_SIZE_MAX}, not {size}")
    if machine is not None and not callable(cast("object", machine)):
        raise ConfigError(
            f"machine= is a {type(machine).__name__}: give what makes one for each member, such as"
            " its class"
        )
    path = None if directory is None else Path(directory)
    return _running(path, size, machine, settings, kv, runtime or system_runtime())


@asynccontextmanager
async def _running(
    directory: Path | None,
    size: int,
    machine: Callable[[], Machine[R]] | None,
    settings: Settings | None,
    kv: KvSettings | None,
    runtime: Runtime,
) -> AsyncGenerator[Cluster[R]]:
    raised: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            cluster = Cluster(directory, size, machine, settings, kv, runtime, tasks)
            try:
                await cluster.start_all()
                yield cluster
            except BaseException as error:
                raised = error
                raise
            finally:
                cluster.stop_all()
    except BaseExceptionGroup as group:
        cause = raised if isinstance(raised, Exception) else first_cause(group)
        raise cause from cause.__cause__
