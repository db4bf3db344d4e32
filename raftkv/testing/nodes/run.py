"""One run of a cluster of whole nodes: first everything goes wrong, then it must recover.

The *safety* phase lasts for a number of core steps: clients work, the nemesis acts, frames and
disks misbehave as the run's options say. Then comes the *liveness* phase
(:mod:`raftkv.testing.nodes.liveness`), and at the end what clients were told is held against what
members hold.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, cast

import anyio
from attrs import frozen

from raftkv.core import Input, State
from raftkv.kv.settings import KvSettings
from raftkv.machine import Machine
from raftkv.node.tasks import first_cause
from raftkv.testing.choices import Choices, Decisions, ReplayedChoices, SeededChoices
from raftkv.testing.finding import Finding
from raftkv.testing.histories.kv import KvHistory, KvRequest, KvResponse
from raftkv.testing.histories.operations import History
from raftkv.testing.histories.revisions import check_revisions
from raftkv.testing.histories.verdict import Judgement
from raftkv.testing.invariants import ViolationError, broken
from raftkv.testing.nodes.atlas import Atlas
from raftkv.testing.nodes.checks import NodeChecks
from raftkv.testing.nodes.chronicle import Chronicle, check_leases
from raftkv.testing.nodes.clients import AnyClient, KvClient, ListClient
from raftkv.testing.nodes.cluster import Conditions, SimCluster
from raftkv.testing.nodes.disk import DiskOptions, SimDisk
from raftkv.testing.nodes.leasing import Compactor, Holder
from raftkv.testing.nodes.lists import DiskList, MemoryList, check_places
from raftkv.testing.nodes.liveness import Liveness
from raftkv.testing.nodes.loop import run_virtual
from raftkv.testing.nodes.nemesis import Nemesis
from raftkv.testing.nodes.network import Weather
from raftkv.testing.nodes.opinion import second_opinion
from raftkv.testing.nodes.options import MachineKind, Options, draw_options
from raftkv.testing.nodes.rocks import RocksDisk
from raftkv.testing.nodes.runtime import Pace
from raftkv.testing.nodes.stage import Stage
from raftkv.testing.nodes.watchers import Watcher
from raftkv.testing.story import Story, StoryWriter

_MS: Final = 1_000_000
_ELECTIONS_MAX: Final = 500
_HASHED_TOGETHER: Final = 512
_MEMTABLE_BYTES: Final = (16 * 1024, 4096, 256 * 1024)


@frozen
class Outcome:
    """One run: what it was, what it met, and what went wrong, if anything."""

    options: Options
    decisions: Decisions
    steps: int
    seconds: float
    """Of virtual time."""
    operations: int
    """That clients began."""
    marks: Mapping[str, int]
    finding: Finding | None
    error: BaseException | None
    """What was raised where it broke."""
    digest: str
    """Of everything that happened, in order: equal runs, equal digest, in every process."""
    writer: StoryWriter | None

    def story(self, title: str, replay: str = "") -> Story | None:
        """What happened last, for people; None if nobody recorded."""
        return None if self.writer is None else self.writer.story(title, replay=replay)


class _Digest:
    """A hash of the trace: of every step, its time, and what came of it."""

    def __init__(self, cluster: SimCluster[object]) -> None:
        self._hash = blake2b(digest_size=16)
        self._loop = cluster.loop
        self._steps: list[tuple[int, str, str, int, int, int, int, int]] = []
        cluster.on_step.append(self._stepped)

    def _stepped(self, name: str, _before: State, given: Input, after: State) -> None:
        steps = self._steps
        steps.append(
            (
                self._loop.now_ns,
                name,
                type(given).__name__,
                after.term,
                after.vote,
                after.log.last_chain,
                after.commit,
                after.applied,
            )
        )
        if len(steps) >= _HASHED_TOGETHER:
            self._fold()

    def _fold(self) -> None:
        self._hash.update(repr(self._steps).encode())
        self._steps.clear()

    def text(self) -> str:
        self._fold()
        return self._hash.hexdigest()


class _Run:
    """What a run is made of."""

    def __init__(
        self,
        options: Options,
        choices: Choices,
        writer: StoryWriter | None,
        directory: Path | None,
    ) -> None:
        self.options = options
        self._directory = directory
        self.choices = choices
        self.writer = writer
        self.marks: Counter[str] = Counter()
        self._now_ns: Callable[[], int] = lambda: 0
        self.chronicle = Chronicle(lambda: self._now_ns())
        is_kv = options.machine is MachineKind.KV
        self.checks = NodeChecks(options.settings, self.marks, self.chronicle if is_kv else None)
        self.kv_history: KvHistory = History[KvRequest, KvResponse]()
        self.list_history = History[bytes, int]()
        self.steps = 0
        self.seconds = 0.0
        self.digest = ""
        self.failure: BaseException | None = None
        self.stage: Stage | None = None
        self.watchers: list[Watcher] = []
        self.holders: list[Holder] = []
        self._made: list[MemoryList | DiskList] = []

    # --- putting it together ----------------------------------------------------------------------

    def _cluster(self) -> SimCluster[object]:
        options, faults = self.options, self.options.faults
        delay, late = faults.delay_ms * _MS, faults.late_ms * _MS
        usual = 100_000
        weather = Weather(
            latency_ns=(usual, usual, usual + delay // 8, usual + delay // 3, usual + delay),
            late_ns=(late // 20 + 1, late // 4 + 1, late // 2 + 1, late + 1),
            lost=faults.lost,
            reset=faults.reset,
            flipped=faults.flipped,
            doubled=faults.doubled,
            late=faults.late,
            replayed=faults.replayed,
        )
        sync = faults.disk_ms * _MS
        pace = Pace(
            wal_ns=(250_000, 250_000 + sync // 4, 250_000 + sync) if sync else (250_000,),
            early_permille=faults.early_syncs,
        )
        parts = faults.clock_skew * 10**7
        conditions = Conditions(
            weather=weather,
            pace=pace,
            clock_parts=(10**9, 10**9 + parts, 10**9 - parts) if parts else (10**9,),
        )
        memtable = _MEMTABLE_BYTES[self.choices.choose(len(_MEMTABLE_BYTES))]
        disk_options = DiskOptions(is_harsh=faults.harsh_crashes, memtable_bytes=memtable)
        return SimCluster(
            self.choices,
            size=options.size,
            machine=cast("Callable[[], Machine[object]]", self._machine()),
            settings=options.settings,
            kv=self._kv_settings(),
            disk=lambda name: self._disk(name, disk_options),
            conditions=conditions,
            story=self.writer,
        )

    def _kv_settings(self) -> KvSettings | None:
        options = self.options
        if options.machine is not MachineKind.KV:
            return None
        return KvSettings(
            lease_ttl_min=1,
            checkpoint_seconds=1.0,
            sessions=options.sessions,
            session_ttl=2,  # some end in a run, with what was written in them under way
            watch_buffer_revisions_max=options.watch_buffer,
        )

    def _disk(self, name: str, options: DiskOptions) -> SimDisk:
        number = int(name[1:])
        if self._directory is None:
            return SimDisk(options, number=number)
        return RocksDisk(self._directory / name, options, number=number)

    def _machine(self) -> Callable[[], object] | None:
        if self.options.machine is MachineKind.KV:
            return None
        kind = MemoryList if self.options.machine is MachineKind.MEMORY else DiskList

        def make() -> object:
            made = kind()
            self._made.append(made)
            return made

        return make

    def _clients(self, stage: Stage) -> list[AnyClient]:
        options = self.options
        names = [f"c{number}" for number in range(1, options.clients + 1)]
        shared = (options, self.choices, stage)
        if options.machine is MachineKind.KV:
            return [
                KvClient(name, *shared, self.kv_history, self.writer, self.marks, self.chronicle)
                for name in names
            ]
        return [
            ListClient(name, *shared, self.list_history, self.writer, self.marks) for name in names
        ]

    def _others(self, stage: Stage) -> list[Watcher | Holder | Compactor]:
        """Who uses the key-value store beside its clients."""
        options, numbers = self.options, range(1, self.options.holders + 1)
        if options.machine is not MachineKind.KV:
            return []
        shared = (options, self.choices, stage)
        seen = (self.chronicle, self.marks)
        self.watchers = [
            Watcher(f"w{number}", *shared, *seen) for number in range(1, options.watchers + 1)
        ]
        self.holders = [Holder(number, *shared, self.kv_history, *seen) for number in numbers]
        return [*self.watchers, *self.holders, Compactor(*shared, *seen)]

    # --- the course of it -------------------------------------------------------------------------

    async def main(self, steps: int) -> None:
        """Both phases. Raises ViolationError."""
        cluster = self._cluster()
        self._now_ns = lambda: cluster.loop.now_ns
        digest = _Digest(cluster)
        try:
            await self._with(cluster, steps)
        except Exception as error:
            self.failure = first_cause(error)
            if isinstance(self.failure, ViolationError) and self.stage is not None:
                self.stage.fail(self.failure)  # which tells it, unless it comes from there
        finally:
            self.steps = cluster.steps
            self.seconds = cluster.loop.now_ns / 1e9
            for fate, count in sorted(cluster.network.counts.items()):
                self.marks[f"frame {fate.name.lower()}"] += count
            if self.options.faults.clock_skew:
                self.marks["clock skew"] += 1
            self.digest = digest.text()
            cluster.kill_all()

    async def _with(self, cluster: SimCluster[object], steps: int) -> None:
        faults = self.options.faults
        async with anyio.create_task_group() as tasks:
            stage = Stage(
                cluster, self.checks, self.choices, self.marks, tasks, may_lose=faults.damage > 0
            )
            self.stage = stage
            stage.made = self._made
            cluster.open_storage = stage.open_storage
            if faults.damage:
                stage.atlas = Atlas(self.choices, stage.is_whole, stage.electorates)
            tasks.start_soon(self._monitor, stage)
            await self._phases(stage, steps)
            tasks.cancel_scope.cancel()

    async def _phases(self, stage: Stage, steps: int) -> None:
        clients = self._clients(stage)
        stage.steps_max = steps
        await self._safety(stage, clients)
        _judge(stage)
        # What shows already needs no recovery: a run that ends here is made small much faster.
        self._check_history(stage, early=True)
        stage.steps_max = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cut_short, stage, tasks.cancel_scope)
            await Liveness(stage, self.options, self.choices).run(clients)
            await self._see_all(stage)
            self._check_history(stage)
            await self._close(stage)
            tasks.cancel_scope.cancel()
        _judge(stage)

    async def _safety(self, stage: Stage, clients: list[AnyClient]) -> None:
        over = stage.over
        for name in stage.cluster.names:
            await stage.bring_up(name)
        async with anyio.create_task_group() as tasks:
            stage.tasks = tasks
            for client in clients:
                tasks.start_soon(client.run, over.is_set, name=client.name)
            for other in self._others(stage):
                tasks.start_soon(other.run, over.is_set)
            tasks.start_soon(self._learners, stage)
            tasks.start_soon(Nemesis(stage, self.options, self.choices).run, over.is_set)
            # A cluster that cannot take a step any more must not keep the run from its end.
            with anyio.move_on_after(_ELECTIONS_MAX * self.options.election_ms / 1000):
                await over.wait()
            over.set()
            if stage.violation is not None:
                tasks.cancel_scope.cancel()
                return
            await anyio.sleep(self.options.timeout_ms / 1000)  # what is under way may end
            tasks.cancel_scope.cancel()

    async def _learners(self, stage: Stage) -> None:
        for _ in range(self.options.learners):
            stage.spawn("learner", lambda: stage.join(promote=False))
            await stage.sleep(self.options.election_ms / 1000)

    async def _monitor(self, stage: Stage) -> None:
        while True:
            stage.watch_lives()
            await stage.sleep(self.options.election_ms / 4000)

    async def _see_all(self, stage: Stage) -> None:
        """I34: nothing is kept from a watcher for ever."""
        names = stage.running()
        for number, watcher in enumerate(self.watchers):
            if names and not stage.may_halt:
                await watcher.finish(stage.node(names[number % len(names)]))

    # --- the end ----------------------------------------------------------------------------------

    def _check_history(self, stage: Stage, *, early: bool = False) -> None:
        """I47 to I50: what clients were told, held against what the members hold.

        ``early``: perhaps who is down holds what somebody was told. Then only the end can tell.
        """
        # Of equals one whose disk can be read: damage that no member met yet is not what is asked.
        holder = max(
            stage.running(),
            key=lambda name: (stage.is_whole(name), stage.state(name).applied),
            default=None,
        )
        if holder is None:
            return  # a safe halt
        committed = stage.checks.checker.last_committed
        if self.marks["safe halt"] and stage.state(holder).applied < committed:
            return  # who has all that clients were told is down for good
        if self.options.machine is not MachineKind.KV:
            commands = stage.machines[holder].commands
            told = max((one.response or 0 for one in self.list_history), default=0)
            if told <= len(commands) or not early:
                check_places(self.list_history, commands)
            return
        verdict = check_revisions(self.kv_history, list(self.chronicle.written()))
        if verdict.judgement is Judgement.WRONG or not (early or verdict.is_right):
            raise broken("I48", str(verdict))
        if early:
            return
        second = second_opinion(self.kv_history, self.options.clients, self.marks)
        if second is not None and second.judgement is Judgement.WRONG:
            raise broken("I48", str(second))
        accounts = [one for holder in self.holders for one in holder.accounts.values()]
        skew = self.options.faults.clock_skew
        expired = check_leases(self.chronicle, accounts, clock_skew=skew)
        self.marks["lease expired"] += expired

    async def _close(self, stage: Stage) -> None:
        """I52: every member closes in order, and leaves nothing behind."""
        for name in stage.running():
            await stage.stop(name)
        stage.watch_lives()


def _judge(stage: Stage) -> None:
    if stage.violation is not None:
        raise stage.violation


async def _cut_short(stage: Stage, scope: anyio.CancelScope) -> None:
    await stage.violated.wait()
    scope.cancel()


def run(
    choices: Choices,
    steps: int,
    *,
    options: Options | None = None,
    keep: int | None = None,
    real_stores: bool = False,
) -> Outcome:
    """One run of ``steps`` and a recovery. Errors of every kind become its finding.

    ``keep`` is how many of its last events are kept for a story; None: none, which is faster.
    ``real_stores`` puts a real RocksDB on every simulated disk (level 3).
    """
    if not real_stores:
        return _run(choices, steps, options, keep, None)
    in_memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with TemporaryDirectory(prefix="raftkv-", dir=in_memory) as directory:
        return _run(choices, steps, options, keep, Path(directory))


def _run(
    choices: Choices, steps: int, options: Options | None, keep: int | None, directory: Path | None
) -> Outcome:
    drawn = draw_options(choices) if options is None else options
    writer = None if keep is None else StoryWriter(keep=keep)
    one = _Run(drawn, choices, writer, directory)
    finding = None
    try:
        run_virtual(lambda: one.main(steps), choices, shuffle_permille=drawn.faults.shuffle)
    except Exception as error:
        one.failure = one.failure or error
    cause = one.failure
    if isinstance(cause, ViolationError):
        finding = Finding(cause.invariant, one.checks.in_words(cause), one.steps)
    elif cause is not None:  # whatever the nodes or this kit raise is a finding
        finding = Finding(type(cause).__name__, str(cause), one.steps)
    return Outcome(
        drawn,
        choices.decisions(),
        one.steps,
        one.seconds,
        len(one.kv_history) + len(one.list_history),
        one.marks,
        finding,
        cause,
        one.digest,
        writer,
    )


def simulate(seed: int, steps: int, *, keep: int | None = None) -> Outcome:
    """The run of a seed."""
    return run(SeededChoices(seed), steps, keep=keep)


def replay(decisions: Decisions, steps: int, *, keep: int | None = None) -> Outcome:
    """A recorded run, or any part of one, run again."""
    return run(ReplayedChoices(decisions), steps, keep=keep)
