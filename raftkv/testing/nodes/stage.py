"""A simulated cluster as a run's clients and nemesis see it: who can be asked, what can be done.

It also keeps what the run is judged by: a violation that a hook meets is noted here, not raised
into the node that happened to be running, and ends the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio
from anyio.abc import TaskGroup

from raftkv.core import EntryKind, Input, Role, State
from raftkv.errors import (
    Error,
    InvalidArgumentError,
    MembershipError,
    NodeStoppedError,
    OutcomeUnknownError,
    RemovedError,
    StorageError,
    UnavailableError,
)
from raftkv.handle import Node
from raftkv.storage.base import Storage
from raftkv.testing.choices import Choices
from raftkv.testing.damage import memberships
from raftkv.testing.invariants import ViolationError, broken
from raftkv.testing.nodes.atlas import Atlas
from raftkv.testing.nodes.checks import NodeChecks
from raftkv.testing.nodes.cluster import SimCluster
from raftkv.testing.nodes.disk import SimDisk
from raftkv.testing.nodes.faults import Fault
from raftkv.testing.nodes.lists import DiskList, MemoryList
from raftkv.testing.nodes.network import Weather
from raftkv.testing.nodes.process import Process
from raftkv.testing.nodes.runtime import Pace
from raftkv.testing.story import Kind
from raftkv.transport.base import Lane

A = TypeVar("A")

_SWEEP_STEPS: Final = 256


class Stage:
    """One run's cluster. Everything here is done from outside of its processes."""

    def __init__(
        self,
        cluster: SimCluster[object],
        checks: NodeChecks,
        choices: Choices,
        marks: Counter[str],
        tasks: TaskGroup,
        *,
        may_lose: bool,
    ) -> None:
        self.cluster = cluster
        self.checks = checks
        self.choices = choices
        self.marks = marks
        self.violation: ViolationError | None = None
        self.over = anyio.Event()
        """Set when the safety phase is over: the steps are taken, or something is broken."""
        self.violated = anyio.Event()
        self.steps_max: int | None = None
        self.retired: dict[str, None] = {}
        """Members that stay dead."""
        self.storages: dict[str, Storage] = {}
        """The storage of each member's newest life."""
        self.machines: dict[str, MemoryList | DiskList] = {}
        """The machine of each member's newest life, unless it is the key-value store."""
        self.made: list[MemoryList | DiskList] = []
        """A machine that was just made, for the storage that is opened next."""
        self.atlas: Atlas | None = None
        self._may_lose = may_lose
        self.tasks = tasks
        """Where background work runs."""
        self._faults: list[Fault] = []
        self._mourned: dict[int, None] = {}
        cluster.on_start.append(self._started)
        cluster.on_step.append(self._stepped)
        cluster.network.tap = self._sends

    # --- hooks ------------------------------------------------------------------------------------

    def open_storage(self, name: str) -> Storage:
        """Open a member's storage, watched."""
        storage = self.cluster.open_disk(name)
        try:
            watched = self.checks.watch(storage)
        except ViolationError as violation:
            self.fail(violation)
            watched = storage
        self.storages[name] = watched
        if self.made:
            self.machines[name] = self.made.pop()
        return watched

    def fail(self, violation: ViolationError) -> None:
        """Something must not be: the first one counts, and ends the run."""
        if self.violation is None:
            self.violation = violation
            story = self.cluster.story
            if story is not None:
                text = self.checks.in_words(violation)
                story.violation(self.now, None, violation.invariant, text)
        self.over.set()
        self.violated.set()

    def _started(self, name: str, state: State) -> None:
        if self.violation is None:
            self.checks.started(name, state)

    def _stepped(self, name: str, before: State, given: Input, after: State) -> None:
        if self.violation is not None:
            return
        steps = self.cluster.steps
        try:
            self.checks.stepped(before, given, after)
            if not steps % _SWEEP_STEPS:
                self.checks.sweep(self.cluster.nodes)
        except ViolationError as violation:
            self.fail(violation)
        if self.steps_max is not None and steps >= self.steps_max:
            self.over.set()

    def _sends(self, sender: int, _to: int, lane: Lane, frame: bytes) -> bytes:
        if lane is Lane.RAFT and self.violation is None:
            try:
                self.checks.leaves(sender, frame)
            except ViolationError as violation:
                self.fail(violation)
        return frame

    def watch_lives(self) -> None:
        """A member that stopped by itself must have had a reason that the run gave it."""
        for name in self.cluster.names:
            process = self._process(name)
            if process is None or process.failure is None or process.pid in self._mourned:
                continue
            self._mourned[process.pid] = None
            if process.is_crashed or not process.was_open:
                continue  # whoever opened it hears of it
            cause = process.failure
            if isinstance(cause, NodeStoppedError):
                cause = cause.__cause__ or cause
            if self._may_lose and isinstance(cause, StorageError):
                self.marks["stopped by its disk"] += 1
                self._repair(name)
            else:
                self._unexpected(name, cause)

    def _unexpected(self, name: str, error: BaseException) -> None:
        if isinstance(error, ViolationError):  # met in its storage, while it ran
            self.fail(error)
            return
        self.fail(broken("I52", f"{name} stopped by itself: {type(error).__name__}: {error}"))

    # --- clients ----------------------------------------------------------------------------------

    def reachable(self) -> list[str]:
        """Members that a client can connect to."""
        return list(self.cluster.nodes)

    def leading(self) -> str | None:
        """The running member that leads the highest term."""
        best, term = None, -1
        for name in self.running():
            state = self.cluster.states[name]
            if state.role is Role.LEADER and state.term > term:
                best, term = name, state.term
        return best

    async def ask(
        self, name: str, request: Callable[[Node[object]], Awaitable[A]], seconds: float
    ) -> A:
        """Have a member do something. Raises OutcomeUnknownError if it does not answer in time."""
        node = self.cluster.nodes.get(name)
        if node is None:
            raise UnavailableError(f"{name} does not run")
        with anyio.move_on_after(seconds):
            return await request(node)
        raise OutcomeUnknownError(f"{name} does not answer")

    def length(self, name: str) -> int:
        """How many commands the list of a member holds."""
        machine = self.machines.get(name)
        return 0 if machine is None else len(machine.commands)

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        await anyio.sleep(seconds)

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return self.cluster.loop.now_ns / 1e9

    # --- who is there -----------------------------------------------------------------------------

    def names(self) -> list[str]:
        """All members that may ever run again."""
        return [name for name in self.cluster.names if name not in self.retired]

    def running(self) -> list[str]:
        """Members that are up and do not stand still."""
        processes = [(name, self._process(name)) for name in self.cluster.names]
        return [name for name, one in processes if one and one.is_running and not one.is_paused]

    def node(self, name: str) -> Node[object]:
        """The running member of that name."""
        return self.cluster.node(name)

    def state(self, name: str) -> State:
        """The newest State of a member."""
        return self.cluster.states[name]

    def states(self) -> dict[str, State]:
        """The newest States of all members that may ever run again and were started."""
        states = self.cluster.states
        return {name: states[name] for name in self.names() if name in states}

    @property
    def may_halt(self) -> bool:
        """Whether disks may lose what nobody else has: then it may stand still for good."""
        return self.atlas is not None and self.atlas.is_reckless

    @property
    def can_go_on(self) -> bool:
        """Whether of all that may have to agree majorities have what they promised.

        The atlas sees to that, but not to what a change of membership makes of it that is proposed
        just afterwards: of two voters who remain, one may have lost everything.
        """
        if self.atlas is None:
            return True
        return all(2 * sum(map(self.is_whole, one)) > len(one) for one in self.electorates())

    def recovers(self) -> bool:
        """Whether a member lost something and is not whole again."""
        return any(one.recovers for one in self.checks.subjects.values())

    def is_changing(self) -> bool:
        """Whether a membership change is on its way, or half done."""
        leader = self.leading()
        if leader is None:
            return False
        state = self.state(leader)
        log = state.log
        first = max(state.applied + 1, log.first_index)
        unapplied = log.slice(first, log.last_index + 1)
        is_open = any(entry.kind is not EntryKind.NORMAL for entry in unapplied)
        return is_open or state.membership.is_joint

    def _process(self, name: str) -> Process[object] | None:
        try:
            return self.cluster.process(name)
        except InvalidArgumentError:
            return None  # never started

    # --- background -------------------------------------------------------------------------------

    def spawn(self, name: str, body: Callable[[], Awaitable[None]]) -> None:
        """Do something beside; what it raises of raftkv's errors is noted, and no more."""
        if self.over.is_set():
            return

        async def attempt() -> None:
            try:
                await body()
            except Error as error:
                self.note(f"{name}: {type(error).__name__}: {error}")

        self.tasks.start_soon(attempt, name=name)

    def later(self, seconds: float, body: Callable[[], Awaitable[None]]) -> None:
        """Do something after a while."""

        async def wait() -> None:
            await self.sleep(seconds)
            await body()

        self.spawn("later", wait)

    def note(self, text: str) -> None:
        """Put something into the story."""
        if self.cluster.story is not None:
            self.cluster.story.event(self.now, None, Kind.NOTE, text)

    # --- processes --------------------------------------------------------------------------------

    async def bring_up(self, name: str) -> None:
        """Open a member unless it runs, was retired, or was removed."""
        process = self._process(name)
        if name in self.retired or (process is not None and not process.has_ended):
            return
        self.marks["restart"] += 1
        try:
            await self.cluster.start(name)
        except RemovedError:
            self.retired[name] = None
            self.marks["removed member refused"] += 1
        except (UnavailableError, OutcomeUnknownError, MembershipError) as error:
            self.note(f"{name} does not open: {error}")
        except StorageError as error:
            if not self._may_lose:
                self._unexpected(name, error)
            self.marks["opening refused"] += 1
            self._repair(name)
        except InvalidArgumentError:
            pass  # it was crashed, or another one opened it, meanwhile
        except Exception as error:
            self._unexpected(name, error)

    async def cancelled_opening(self, name: str, patience: float) -> None:
        """Give an opening up half way."""
        process = self._process(name)
        if name in self.retired or (process is not None and not process.has_ended):
            return
        process = self.cluster.begin(name)
        await self.sleep(patience)
        process.cancel()
        await process.ended()

    def crash(self, name: str) -> None:
        """The power of its machine fails."""
        process = self._process(name)
        if process is None or process.has_ended:
            return
        self.marks["crash"] += 1
        if self.is_changing():
            self.marks["fault during a change"] += 1
        state = self.cluster.states.get(name)
        if state is not None and state.incoming is not None:
            self.marks["crash with a snapshot under way"] += 1
        self.cluster.crash(name, is_told=self.choices.choose(2) == 0)

    async def stop(self, name: str) -> None:
        """Close a member in order."""
        process = self._process(name)
        if process is not None and process.is_running and not process.is_paused:
            await process.stop()

    def retire(self, name: str) -> None:
        """A member is dead for good."""
        self.crash(name)
        self.retired[name] = None

    def pause(self, name: str, *, asleep: bool) -> None:
        """A member stands still."""
        process = self._process(name)
        if process is not None and not process.has_ended:
            self.marks["pause"] += 1
            if self.state(name).role is Role.LEADER:
                self.marks["leader paused"] += 1
            if asleep:
                self.marks["machine asleep"] += 1
            self.cluster.pause(name, asleep=asleep)

    def resume(self, name: str) -> None:
        """It goes on."""
        if self._process(name) is not None:
            self.cluster.resume(name)

    def jump_wall(self, name: str, seconds: int) -> None:
        """A member's wall clock is set."""
        self.marks["wall clock set"] += 1
        self.cluster.host(name).clock.jump_wall(seconds * 10**9)

    def slow_disk(self, name: str, seconds: float) -> None:
        """A member's syncs take so much longer, until it ends or is told otherwise."""
        process = self._process(name)
        if process is not None:
            self.marks["slow disk"] += 1 if seconds else 0
            longer = round(seconds * 1e9)
            process.workers.extra_ns = lambda worker: longer if worker == "wal" else 0
            self.note(f"a sync of {name} takes {seconds} s longer")

    # --- network ----------------------------------------------------------------------------------

    def heal(self) -> None:
        """Mend all links."""
        faults, self._faults = self._faults, []
        for fault in faults:
            fault.end()

    def cut_around(self, centre: str, *, inward: bool, outward: bool) -> None:
        """Cut what a member receives, sends, or both."""
        if inward and outward:
            self._faults.append(self.cluster.isolate(centre))
            return
        for other in self.cluster.names:
            if other != centre:
                pair = (other, centre) if inward else (centre, other)
                self._faults.append(self.cluster.cut(*pair))

    def cut_between(self, one: str, other: str) -> None:
        """Cut both ways between two."""
        self._faults.append(self.cluster.partition([one], [other]))

    def split(self, *sides: list[str]) -> None:
        """Cut between sides."""
        self._faults.append(self.cluster.partition(*sides))

    def calm(self) -> None:
        """Nothing more goes wrong: links, frames, disks, clocks, and who stood still goes on."""
        self.heal()
        self.cluster.network.heal()
        self.cluster.network.weather = Weather()
        for name in self.cluster.names:
            process = self._process(name)
            if process is not None:
                process.workers.extra_ns = None
                process.workers.pace = Pace()
                self.cluster.resume(name)
            self.cluster.host(name).clock.run_at(1_000_000_000)
            disk = self.cluster.disk(name)
            if isinstance(disk, SimDisk):
                disk.mend()

    # --- disks -----------------

    def damage(self, name: str) -> bool:
        """Something goes wrong with a member's disk, if the run's atlas allows it.

        Whether the member was crashed for it, and has to be brought up again.
        """
        atlas = self.atlas
        disk = self.cluster.disk(name)
        if atlas is None or not isinstance(disk, SimDisk):
            return False
        fault = atlas.draw(name, self.choices)
        if fault is None:
            return False
        if fault.while_closed or self.choices.choose(2):
            self.crash(name)
        told = fault.act(disk, self.choices)
        if told is not None:
            self.marks[f"disk: {fault.name}"] += 1
            self.note(f"the disk of {name} {told}")
            if fault.zone is not None:
                self.checks.record(self.cluster.ids[name]).excuse()
        process = self._process(name)
        return process is None or process.has_ended

    def _repair(self, name: str) -> None:
        """An operator sees to a member that its disk has stopped, and opens it again."""
        disk = self.cluster.disk(name)
        if isinstance(disk, SimDisk):
            disk.mend()
        self.later(self.cluster.settings.tick_seconds, lambda: self.bring_up(name))

    def is_whole(self, name: str) -> bool:
        """Whether a member has, or will have when it is up again, all that it promised."""
        disk = self.cluster.disk(name)
        return name not in self.retired and isinstance(disk, SimDisk) and disk.is_whole

    def electorates(self) -> list[list[str]]:
        """Voters of the newest membership, and of all to which the members' logs may lead."""
        states = list(self.states().values())
        newest = max(states, key=lambda state: state.applied, default=None)
        if newest is None:
            return [list(self.cluster.names)]
        possible = [newest.membership]
        for state in states:
            possible += memberships(state)[1:]
        halves = [half for one in possible for half in (one.voters, one.outgoing) if half]
        return [[self.cluster.name_of(node) for node in half] for half in halves]

    # --- members ----------------------------------------------------------------------------------

    async def join(self, *, promote: bool) -> None:
        """Add a member and start it."""
        self.marks["join"] += 1
        await self.cluster.add(promote=promote, timeout=5.0)
        self.marks["joined"] += 1
