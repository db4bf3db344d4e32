"""A cluster of whole nodes in virtual time, with faults at hand.

The nodes are those that ship, opened by ``raftkv.open_node`` through its injected interfaces; each
runs as a simulated process on a simulated machine with a disk. ::

    async def main() -> None:
        async with SimCluster(choices, size=3) as cluster:
            leader = await cluster.leader()
            with cluster.isolate(leader.name):
                other = await cluster.leader()
                await other.kv.put("a", b"1")

    run_virtual(main, choices)
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from types import TracebackType
from typing import Final, Generic, Protocol, TypeVar, overload

from attrs import frozen

from raftkv.core import State
from raftkv.errors import ConfigError, Error, InvalidArgumentError, NoLeaderError
from raftkv.handle import Node
from raftkv.kv import KvResult
from raftkv.kv.settings import KvSettings
from raftkv.machine import Machine
from raftkv.node.settings import Settings
from raftkv.open import open_node, plan
from raftkv.runtime.base import Runtime
from raftkv.runtime.system import make_promise, make_waker, never
from raftkv.storage.base import Storage
from raftkv.testing.choices import Choices, ReplayedChoices
from raftkv.testing.nodes.disk import SimDisk
from raftkv.testing.nodes.faults import CrashFault, Fault
from raftkv.testing.nodes.loop import VirtualLoop, virtual_loop
from raftkv.testing.nodes.network import SimNetwork, Weather
from raftkv.testing.nodes.process import Host, Looker, Process, ReadyHook, StartHook, StepHook
from raftkv.testing.nodes.runtime import Pace, SimClock, SimEnvironment, SimRng, SimWorkers
from raftkv.testing.story import Kind, StoryWriter, is_idle

R = TypeVar("R")

_SIZE_MAX: Final = 9
_TOKEN: Final = "raftkv"


class ClusterDisk(Protocol):
    """What a member's machine has: it outlives the processes that open it."""

    def open(self, cluster_id: int, member_id: int, *, has_others: bool = True) -> Storage:
        """Open it for a member, as ``open_rocks`` opens a directory."""
        ...

    def crash(self, choices: Choices) -> str:
        """The process that has it open is gone, and what the run decides of what is not synced.

        Choosing 0 throughout loses nothing. Answers in words what was lost.
        """
        ...


@frozen(kw_only=True)
class Conditions:
    """How the machines and the network between them are; without any, everything works."""

    weather: Weather = Weather()  # noqa: RUF009 (frozen)
    pace: Pace = Pace()  # noqa: RUF009 (frozen)
    clock_parts: tuple[int, ...] = (1_000_000_000,)
    """How many nanoseconds pass on a machine's clock in a second: one of these."""
    buggify_permille: int = 0


class SimCluster(Generic[R]):
    """Members ``n1``, ``n2`` and so on, each a simulated process, in a virtual loop.

    To be used as ``async with``: it starts all members, and stops those that run in the end, in
    order. Without the context nothing is started or stopped.

    ``disk`` makes a machine's disk from its name; ``open_storage`` replaces how a member's storage
    is opened, which :meth:`open_disk` does otherwise. ``story`` records what happens.
    """

    @overload
    def __init__(
        self: SimCluster[KvResult],
        choices: Choices | None = None,
        *,
        size: int = 3,
        machine: None = None,
        settings: Settings | None = None,
        kv: KvSettings | None = None,
        open_storage: Callable[[str], Storage] | None = None,
        disk: Callable[[str], ClusterDisk] | None = None,
        conditions: Conditions | None = None,
        story: StoryWriter | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        choices: Choices | None = None,
        *,
        size: int = 3,
        machine: Callable[[], Machine[R]],
        settings: Settings | None = None,
        kv: KvSettings | None = None,
        open_storage: Callable[[str], Storage] | None = None,
        disk: Callable[[str], ClusterDisk] | None = None,
        conditions: Conditions | None = None,
        story: StoryWriter | None = None,
    ) -> None: ...
    def __init__(
        self,
        choices: Choices | None = None,
        *,
        size: int = 3,
        machine: Callable[[], Machine[R]] | None = None,
        settings: Settings | None = None,
        kv: KvSettings | None = None,
        open_storage: Callable[[str], Storage] | None = None,
        disk: Callable[[str], ClusterDisk] | None = None,
        conditions: Conditions | None = None,
        story: StoryWriter | None = None,
    ) -> None:
        if not 1 <= size <= _SIZE_MAX:
            raise ConfigError(f"size must be from 1 to {_SIZE_MAX}, not {size}")
        self.loop: VirtualLoop = virtual_loop()
        self.choices = choices or ReplayedChoices(())
        self.settings = settings or Settings()
        self.kv = kv
        self.story = story
        self.open_storage = open_storage or self.open_disk
        self._machine = machine
        self._make_disk = disk
        self._conditions = conditions or Conditions()
        self._founders = {f"n{number}": f"n{number}:1" for number in range(1, size + 1)}
        self._addresses = dict(self._founders)
        chosen = plan("n1", self._founders, _TOKEN)
        self.cluster_id = chosen.cluster_id
        self.ids = {member.name: member.id for member in chosen.members}
        """Member ids by name."""
        self._names = {member.id: member.name for member in chosen.members}
        self._adding: set[str] = set()
        self._looker = Looker()
        self._hosts: dict[str, Host] = {}
        self._disks: dict[str, ClusterDisk] = {}
        self._processes: dict[str, Process[R]] = {}
        self._unseen: dict[str, BaseException] = {}
        self._boots = 0
        self.clock = SimClock(self.loop)
        """The world's: no machine's runs ahead of it or behind."""
        self.network = SimNetwork(
            self.loop,
            self._world(),
            self.choices,
            weather=self._conditions.weather,
            story=story,
            name_of=self.name_of,
        )
        if story is not None:
            self._looker.on_step.append(self._tell_step)

    # --- who is there -----------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """All members, running or not."""
        return tuple(self._addresses)

    @property
    def nodes(self) -> dict[str, Node[R]]:
        """The running members by name, paused ones too."""
        return {
            name: process.node
            for name, process in self._processes.items()
            if process.node is not None
        }

    def node(self, name: str) -> Node[R]:
        """The running member of that name."""
        node = self.nodes.get(name)
        if node is None:
            running = ", ".join(self.nodes) or "none is"
            raise InvalidArgumentError(f"no member {name!r} is running: {running}")
        return node

    def name_of(self, member_id: int) -> str:
        """The name of a member by its id."""
        return self._names.get(member_id, f"{member_id:x}")

    def disk(self, name: str) -> ClusterDisk:
        """The disk of a member's machine."""
        found = self._disks.get(name)
        if found is None:
            number = 1 + list(self._addresses).index(self._known(name))
            found = SimDisk(number=number) if self._make_disk is None else self._make_disk(name)
            self._disks[name] = found
        return found

    def open_disk(self, name: str) -> Storage:
        """Open a member's storage on its disk."""
        has_others = len(self._addresses) > 1
        return self.disk(name).open(self.cluster_id, self.ids[name], has_others=has_others)

    def host(self, name: str) -> Host:
        """The machine of a member: its clock and how fast it works."""
        host = self._hosts.get(self._known(name))
        if host is None:
            clock = SimClock(self.loop)
            parts = self._conditions.clock_parts
            if len(parts) > 1:
                clock.run_at(parts[self.choices.choose(len(parts))])
            host = Host(
                name=name,
                loop=self.loop,
                choices=self.choices,
                clock=clock,
                pace=self._conditions.pace,
                looker=self._looker,
                buggify_permille=self._conditions.buggify_permille,
            )
            self._hosts[name] = host
        return host

    def process(self, name: str) -> Process[R]:
        """The newest life of a member."""
        process = self._processes.get(self._known(name))
        if process is None:
            raise InvalidArgumentError(f"the member {name!r} was never started")
        return process

    async def leader(self, *, timeout: float = 30.0) -> Node[R]:
        """A member that leads and has just proved it to a majority, once one does.

        Raises NoLeaderError if none does within ``timeout`` virtual seconds.
        """
        limit = self.clock.monotonic_ns() + round(timeout * 1e9)
        step_ns = self.settings.tick_ns
        while True:
            for process in [*self._processes.values()]:
                node = process.node
                if node is not None and not process.is_paused and node.status().is_leader:
                    left = (limit - self.clock.monotonic_ns()) / 1e9
                    if await self._proves(node, min(max(left, 0.001), 4 * step_ns / 1e9)):
                        return node
            now = self.clock.monotonic_ns()
            if now >= limit:
                raise NoLeaderError(f"no member of the cluster became leader within {timeout} s")
            await self.clock.sleep_until(min(limit, now + step_ns))

    async def _proves(self, node: Node[R], timeout: float) -> bool:
        try:
            await node.read(timeout=timeout)
            return node.status().is_leader
        except Error:
            return False

    # --- hooks ------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Steps of the cores of all nodes so far."""
        return self._looker.steps

    @property
    def states(self) -> dict[str, State]:
        """The newest State of every member that was ever started, by name."""
        return self._looker.states

    @property
    def on_step(self) -> list[StepHook]:
        """Called after every step of a core: name, State before, input, State after.

        What a hook raises stops that node for good, and comes out of the cluster.
        """
        return self._looker.on_step

    @property
    def on_ready(self) -> list[ReadyHook]:
        """Called when work was taken from a core: name, State before, Ready, State after."""
        return self._looker.on_ready

    @property
    def on_start(self) -> list[StartHook]:
        """Called when a core begins: name, State."""
        return self._looker.on_start

    # --- lives ------------------------------------------------------------------------------------

    async def __aenter__(self) -> SimCluster[R]:
        """Start all members."""
        try:
            for name in self._addresses:
                await self.start(name)
        except BaseException:
            self.kill_all()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Mend everything and stop all members in order; raise the failure of one that stopped."""
        if error is not None:
            self.kill_all()
            return
        try:
            self.heal()
            for process in self._processes.values():
                process.resume()
            running = [one for one in self._processes.values() if one.is_running]
            for process in running:
                process.stop_soon()
            for process in running:
                await process.ended()
        finally:
            self.kill_all()
        for name, failure in self._unseen.items():
            raise failure from failure.__cause__ or RuntimeError(f"the member {name} failed")

    def kill_all(self) -> None:
        """End every process at once, without a decision."""
        for process in self._processes.values():
            process.kill()

    async def start(self, name: str) -> Node[R]:
        """Open a member that does not run; returns when it serves. Raises why it does not."""
        process = self.begin(name)
        try:
            await process.settled()
        finally:
            if process.node is None:
                self._unseen.pop(name, None)  # who started it is told
        return self.node(name)

    def begin(self, name: str) -> Process[R]:
        """Begin to open a member that does not run, without waiting for it."""
        before = self._processes.get(self._known(name))
        if before is not None and not before.has_ended:
            raise InvalidArgumentError(f"the member {name!r} runs already: stop or crash it first")
        self._boots += 1
        process: Process[R] = Process(self.host(name), self._boots)
        self._processes[name] = process
        self._tell(Kind.START, name, "starts")
        process.begin(lambda: self._open(name, process), self._ended)
        return process

    def opening(self, name: str) -> AbstractAsyncContextManager[Node[R]]:
        """What opens a member that does not run, for a task of the caller's own to run it.

        Faults of processes do not reach such a member.
        """
        self._boots += 1
        return self._open(name, Process(self.host(name), self._boots))

    async def stop(self, name: str) -> None:
        """Close a member in order."""
        self.node(name)
        await self.process(name).stop()

    async def restart(self, name: str) -> Node[R]:
        """Start a member again; one that still runs is closed in order first."""
        if name in self.nodes:
            await self.stop(name)
        return await self.start(name)

    def crash(self, name: str, *, is_told: bool = True) -> CrashFault:
        """End a member's process at once; its disk keeps what the run decides.

        Its connections are reset; unless ``is_told``, as when its machine loses power: then others
        hear of it when it is back. ``async with`` starts it again at the end.
        """
        process = self.process(name)
        if process.has_ended:
            raise InvalidArgumentError(f"no member {name!r} is running")
        process.kill()
        self.network.gone(self._addresses[name], is_told=is_told)
        lost = self.disk(name).crash(self.choices)
        self._tell(Kind.CRASH, name, f"crashes: {lost}")
        return CrashFault(lambda: self._again(name))

    async def failed(self, name: str) -> BaseException | None:
        """Wait for the end of a member, and answer why it stopped, None if in order.

        A failure that is not asked for comes out of the cluster's context.
        """
        process = self.process(name)
        await process.ended()
        self._unseen.pop(name, None)
        return process.failure

    async def _again(self, name: str) -> None:
        if self.process(name).has_ended:
            await self.start(name)

    def _ended(self, name: str, failure: BaseException | None) -> None:
        if failure is None:
            self._tell(Kind.STOP, name, "ends in order")
        else:
            self._unseen[name] = failure
            self._tell(Kind.STOP, name, f"stops: {type(failure).__name__}: {failure}")

    # --- faults -----------------------------------------------------------------------------------

    def pause(self, name: str, *, asleep: bool = False) -> Fault:
        """A member stands still, as after SIGSTOP; ``asleep``: its machine does, with its clock."""
        process = self.process(name)
        process.pause(asleep=asleep)
        self._tell(Kind.PAUSE, name, "stands still")
        return Fault(lambda: self.resume(name))

    def resume(self, name: str) -> None:
        """It goes on."""
        process = self.process(name)
        if process.is_paused:
            process.resume()
            self._tell(Kind.RESUME, name, "goes on")

    def cut(self, a: str, b: str) -> Fault:
        """Lose all that ``a`` sends to ``b``; the other way stays open."""
        return self._cut(f"cut {a} -> {b}", [(self.ids[self._known(a)], self.ids[self._known(b)])])

    def isolate(self, name: str) -> Fault:
        """Cut all links of a member, both ways."""
        here = self.ids[self._known(name)]
        others = [there for there in self._names if there != here]
        links = [link for there in others for link in ((here, there), (there, here))]
        return self._cut(f"isolate {name}", links)

    def partition(self, *groups: Collection[str]) -> Fault:
        """Cut all links between members of different groups; who is in none reaches everybody."""
        parts = [[self.ids[self._known(name)] for name in group] for group in groups]
        links = [
            (one, other)
            for number, here in enumerate(parts)
            for there in parts[:number] + parts[number + 1 :]
            for one in here
            for other in there
        ]
        told = " | ".join(" ".join(group) for group in groups)
        return self._cut(f"partition {told}", links)

    def heal(self) -> None:
        """Undo all cuts, and let all frames arrive."""
        self.network.heal()
        self._tell(Kind.HEAL, None, "the network is healed")

    def _cut(self, what: str, links: list[tuple[int, int]]) -> Fault:
        before = set(self.network.cuts())
        new = [link for link in links if link not in before]
        for link in new:
            self.network.cut(*link)
        number = self._tell(Kind.FAULT, None, what)

        def mend() -> None:
            for link in new:
                self.network.mend(*link)
            self._tell(Kind.HEAL, None, what, number)

        return Fault(mend)

    # --- members come and go ----------------------------------------------------------------------

    async def add(self, *, promote: bool = True, timeout: float = 30.0) -> Node[R]:
        """Add a member (``n4`` after ``n3``) and start it; returns once it is a voter.

        Without ``promote`` it stays a learner. Raises what ``node.members.add`` raises.
        """
        name = self._new_name()
        address = f"{name}:1"
        self._adding.add(name)
        try:
            leader = await self.leader(timeout=timeout)
            added = await leader.members.add(name, address, promote=promote, timeout=timeout)
            self._addresses[name] = address
        finally:
            self._adding.discard(name)
        self.ids[name] = added.id
        self._names[added.id] = name
        node = await self.start(name)
        if promote:
            await node.members.promoted(name, timeout=timeout)
        return node

    def _new_name(self) -> str:
        """One that nobody has, nor is given just now: each member has a disk of its own."""
        number = len(self._addresses) + 1
        while (name := f"n{number}") in self._adding or name in self._addresses:
            number += 1
        return name

    async def remove(self, name: str, *, timeout: float = 30.0) -> None:
        """Remove a member for good. Raises what ``node.members.remove`` raises."""
        leader = await self.leader(timeout=timeout)
        await leader.members.remove(name, timeout=timeout)

    # --- putting it together ----------------------------------------------------------------------

    def _known(self, name: str) -> str:
        if name not in self._addresses:
            raise InvalidArgumentError(f"there is no member {name!r}: {', '.join(self._addresses)}")
        return name

    def _open(self, name: str, process: Process[R]) -> AbstractAsyncContextManager[Node[R]]:
        founders = self._founders if name in self._founders else None
        join = (
            None
            if founders is not None
            else [address for other, address in self._addresses.items() if other != name]
        )
        opened: AbstractAsyncContextManager[Node[R]] = open_node(  # pyright: ignore[reportCallIssue, reportAssignmentType] - the overloads tell R from the machine, which may be None here
            f"/simulated/{name}",
            name=name,
            cluster=founders,
            join=join,
            machine=None if self._machine is None else self._machine(),  # pyright: ignore[reportArgumentType] - as above
            settings=self.settings,
            kv=self.kv,
            runtime=process.runtime,
            transport=self.network.endpoint(self._addresses[name]),
            storage=self.open_storage(name),
        )
        return opened

    def _world(self) -> Runtime:
        return Runtime(
            clock=self.clock,
            rng=SimRng(0, "network"),
            workers=SimWorkers(self.loop, copy_context(), self.choices, Pace()),
            environment=SimEnvironment(self.loop, 0),
            waker=make_waker,
            promise=make_promise,
            buggify=never,
        )

    def _tell(self, kind: Kind, name: str | None, what: str, operation: int | None = None) -> int:
        if self.story is None:
            return 0
        state = None if name is None else self._looker.states.get(name)
        now = self.loop.now_ns / 1e9
        return self.story.event(now, name, kind, what, state, operation=operation or None)

    def _tell_step(self, name: str, before: State, given: object, after: State) -> None:
        if self.story is not None and not is_idle(before, given, after):
            self.story.event(self.loop.now_ns / 1e9, name, Kind.INPUT, given, after)
