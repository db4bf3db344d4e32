"""The node: what an application holds, and the life of its tasks."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Generic, TypeVar, cast

import anyio

from raftkv.core import Role, TransferLeader
from raftkv.errors import (
    ClosedError,
    DeadlineError,
    Error,
    ForkedError,
    InvalidArgumentError,
    NodeStoppedError,
    RequestTooLargeError,
    StorageCorruptError,
    StorageFailedError,
    TooManyRequestsError,
    UnavailableError,
    UsageError,
    WrongThreadError,
)
from raftkv.node.audience import Audience
from raftkv.node.closing import Closing, LastWords
from raftkv.node.gate import Gate
from raftkv.node.home import NodeHome
from raftkv.node.members import Members, members_of
from raftkv.node.questions import QUESTION_BYTES_MAX, Answerer
from raftkv.node.start import Hands, Setup, assemble, opened, recover
from raftkv.node.status import (
    EventHub,
    Events,
    LoopStatus,
    PeerStatus,
    Status,
    disk_status,
)
from raftkv.node.tasks import TaskSpawner, first_cause
from raftkv.node.waiters import Waiter, checked_timeout, stopped
from raftkv.runtime.base import Worker
from raftkv.storage.base import Damage, Loss

_log = logging.getLogger("raftkv.node")

R_co = TypeVar("R_co", covariant=True)

Companion = Callable[[], Coroutine[object, object, None]]
"""What runs beside a node's driver."""

_LAGS_REMEMBERED = 20


class Node(Generic[R_co]):
    """One running member. Made by ``raftkv.open_node``; ``R_co`` is what its machine answers.

    To be used from the event loop that opened it. Every call has a deadline (``timeout`` in
    seconds) after which it raises; errors of class UnavailableError say that nothing happened,
    OutcomeUnknownError that a command may or may not.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._settings = setup.settings
        self._clock = setup.runtime.clock
        self._environment = setup.runtime.environment
        self._promise = setup.runtime.promise
        self._pid = self._environment.pid()
        self._home = self._environment.loop()
        self._thread = self._environment.thread_id()
        self._events = EventHub(setup.runtime.waker, setup.settings.events_max)
        self._hands: Hands | None = None
        self._serving = anyio.Event()
        self._stop = anyio.Event()
        self._done = anyio.Event()
        self._closing = False
        self._failure: BaseException | None = None
        self._on_failure: Callable[[], None] = _nothing
        self._watchers: list[Waiter] = []
        self._lags = [0] * _LAGS_REMEMBERED
        self._lag_max = 0
        self._audiences: list[Audience] = []
        self._answerer: Answerer | None = None
        self._companions: list[tuple[str, Companion]] = []
        self._last_words: list[LastWords] = []
        self._is_hurried = False
        self._members = Members(NodeHome(setup, self._check, self._deadline_ns, self._until))

    # --- what an application calls --------------------------------------------------------------

    @property
    def name(self) -> str:
        """The member's name."""
        return self._setup.me.name

    @property
    def id(self) -> int:
        """The member's id."""
        return self._setup.me.id

    @property
    def members(self) -> Members:
        """Who is in the cluster, and changing that."""
        return self._members

    async def propose(self, command: bytes, *, timeout: float = 5.0) -> R_co:
        """Replicate a command; its result once it is committed and applied here.

        Acknowledged means durable on a majority. Raises OutcomeUnknownError if the deadline passed
        after the command left, UnavailableError (several kinds) if it surely did not happen,
        RequestTooLargeError or InvalidArgumentError for bytes that cannot be proposed. Cancelling
        the caller abandons the wait, never the proposal.
        """
        hands = self._check()
        settings = self._settings
        # An exact type: a mutable bytearray could change while it waits.
        if type(command) is not bytes:
            raise InvalidArgumentError(f"a command is bytes, not {type(command).__name__}")
        if len(command) > settings.command_bytes_max:
            raise RequestTooLargeError(
                f"the command has {len(command)} bytes, at most {settings.command_bytes_max} are"
                " allowed (command_bytes_max)"
            )
        queue, in_flight, applier = hands.queue, hands.in_flight, hands.applier
        if (
            len(queue) + len(in_flight) >= settings.outstanding_commands_max
            or queue.size_bytes + in_flight.size_bytes >= settings.outstanding_bytes_max
            or applier.commands > settings.unapplied_commands_max
            or applier.size_bytes > settings.unapplied_bytes_max
        ):
            raise self._too_many(hands)
        promise = self._promise()
        queue.add(Waiter(command, self._deadline_ns(timeout), promise))
        hands.waker.set()
        return cast("R_co", await promise)

    async def read(self, *, lease: bool = False, timeout: float = 5.0) -> int:
        """Wait until this member's machine holds everything acknowledged before the call.

        What is read from the machine directly afterwards is linearizable. Costs one round to a
        majority, shared by all reads that begin together; with ``lease`` a leader whose lease holds
        answers by its clock, which needs clocks that drift less than the margin. The result is the
        log index that the read reflects at least. Raises DeadlineError.
        """
        hands = self._check()
        if hands.reads.count >= self._settings.outstanding_reads_max:
            raise TooManyRequestsError(
                f"{hands.reads.count} reads wait already (outstanding_reads_max): wait for answers"
            )
        promise = self._promise()
        hands.reads.add(Waiter(b"", self._deadline_ns(timeout), promise), lease=lease)
        hands.waker.set()
        return cast("int", await promise)

    async def ask(self, question: bytes, *, timeout: float = 5.0) -> bytes:
        """What the leader answers, by what its ``answer_with`` was given; here, if we lead.

        Asked again of whoever leads until the deadline, so that it may be answered several times
        though one answer is heard: ask only what is harmless to do twice. Raises DeadlineError
        without a leader or an answer in time, TooManyRequestsError at the bound of 10,000 waiting,
        RequestTooLargeError above 64 KiB, UsageError if nobody was given to answer.
        """
        hands = self._check()
        if type(question) is not bytes:
            raise InvalidArgumentError(f"a question is bytes, not {type(question).__name__}")
        if len(question) > QUESTION_BYTES_MAX:
            raise RequestTooLargeError(
                f"the question has {len(question)} bytes, at most {QUESTION_BYTES_MAX} are allowed"
            )
        if self._answerer is None:
            raise UsageError("nobody here answers questions: give answer_with() who does, first")
        promise = self._promise()
        waiter = Waiter(question, self._deadline_ns(timeout), promise)
        hands.questions.ask(waiter, self._clock.monotonic_ns())
        return cast("bytes", await promise)

    def answer_with(self, answerer: Answerer) -> None:
        """Have ``answerer`` answer what is asked of the leader, while we lead or believe to."""
        self._answerer = answerer
        if self._hands is not None:
            self._hands.questions.answerer = answerer

    def accompany(self, name: str, body: Companion) -> None:
        """Run ``body`` beside the driver, from when the node serves until it begins to close.

        It is cancelled then. What it raises before stops the node; that it returns does not. To be
        called before the node runs; else raises UsageError.
        """
        if self._hands is not None or self._closing:
            raise UsageError(f"the node runs already: give it {name} before")
        self._companions.append((name, body))

    def at_close(self, words: LastWords) -> None:
        """Have the command that ``words`` gives proposed when the node closes in order.

        Behind all others, by the node itself, and once: nobody hears what becomes of it. It is
        waited for while there is a leader that is connected, an election timeout at most, and left
        out if the node ends because its owner is cancelled. ``None`` has nothing proposed.
        """
        self._last_words.append(words)

    @property
    def leading(self) -> int:
        """The term in which this member leads, or believes to; 0 if it does not."""
        hands = self._hands
        if hands is None or hands.loop.state.role is not Role.LEADER:
            return 0
        return hands.loop.state.term

    def tell(self, audience: Audience) -> None:
        """Tell it, from now on, when there are new rows of an on-disk machine to read."""
        self._audiences.append(audience)

    def _rows_written(self) -> None:
        for audience in self._audiences:
            audience.rows_written()

    def _connect(self, hands: Hands) -> None:
        hands.changes.connect()
        hands.loop.on_change = self._wake_watchers
        hands.recovery.on_change = self._wake_watchers
        hands.changes.on_change = self._wake_watchers
        hands.questions.answerer = self._answerer
        hands.applier.on_written = self._rows_written
        hands.parts.images.on_installed = self._rows_written

    async def ready(self, *, timeout: float = 30.0) -> None:
        """Wait until a leader is known and this member has caught up with it, and is whole.

        Raises DeadlineError if that does not happen in time.
        """
        deadline_ns = self._deadline_ns(timeout)
        await self.read(timeout=timeout)
        hands = self._check()
        await self._until(
            lambda: hands.loop.state.recovery is None,
            deadline_ns,
            "this member still recovers from what its disk lost: see status().recovering",
        )

    async def transfer_leadership(self, target: str | int, *, timeout: float = 5.0) -> None:
        """Hand leadership to the member of that name or id; returns once it is known to lead.

        Raises InvalidArgumentError for a member that is not there, DeadlineError if it did not
        take over in time; proposals are taken again then.
        """
        hands = self._check()
        member = hands.peers.member(target)
        if member is None:
            raise InvalidArgumentError(f"no member {target!r}: {self._member_names()}")
        deadline_ns = self._deadline_ns(timeout)
        if hands.loop.state.leader != member.id:
            hands.loop.give(TransferLeader(member.id))
        await self._until(
            lambda: hands.loop.state.leader == member.id,
            deadline_ns,
            f"member {member.name} did not take over the leadership",
        )

    def status(self) -> Status:
        """How things stand, as far as this member knows."""
        hands = self._check()
        state = hands.loop.state
        leads = state.role is Role.LEADER
        identity = self._setup.storage.identity
        return Status(
            name=self.name,
            id=self.id,
            cluster_id=identity.cluster_id,
            boot=identity.boot,
            role=state.role,
            leader=state.leader,
            leader_name=hands.peers.name_of(state.leader) or None,
            term=state.term,
            commit=state.commit,
            applied=hands.applier.mark.index,
            first_index=state.log.first_index,
            last_index=state.log.last_index,
            log_bytes=state.log.size_bytes,
            membership=state.membership,
            members=members_of(state, hands.peers, hands.changes.roster),
            peers=tuple(
                self._peer_status(hands, one, leads=leads)
                for one in state.membership.members()
                if one != self.id
            ),
            outstanding_commands=len(hands.queue) + len(hands.in_flight),
            outstanding_reads=hands.reads.count,
            unapplied_commands=hands.applier.commands,
            loop=LoopStatus(max(self._lags) / 1e9, self._lag_max / 1e9),
            disk=disk_status(hands.disk.syncs, hands.disk.sync_ns),
            recovering=hands.recovery.status(state),
            alarms=tuple(self._events.alarms),
        )

    def events(self) -> Events:
        """The changes of this member from now on: role, leader, membership, alarms."""
        self._check()
        return self._events.listen()

    async def close(self) -> None:
        """Hand over the leadership if we have it, stop, and release the data directory. Idempotent.

        Commands on their way are given ``close_seconds_max`` to be answered, then what
        :meth:`at_close` was given is proposed. Leaving the context of ``open_node`` does the same.
        """
        if self._environment.pid() != self._pid:
            return  # a forked child owns neither tasks nor files
        self._closing = True
        self._stop.set()
        await self._done.wait()

    # --- checks -----------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise what any read would: closed, stopped, another thread or loop, after a fork.

        Also of a member that recovers: what it has may be far behind what it once showed.
        """
        if self._check().loop.state.recovery is not None:
            raise UnavailableError(
                "this member recovers from what its disk lost: read through another one, or wait"
                " for ready()"
            )

    def _check(self) -> Hands:
        """Whether a call may go on."""
        hands = self._hands
        environment = self._environment
        if environment.pid() != self._pid:
            raise ForkedError(
                "the node belongs to the parent process: open one with its own directory here, or"
                " start processes with the spawn method"
            )
        if environment.thread_id() != self._thread or not environment.runs(self._home):
            raise WrongThreadError(
                "the node belongs to another thread or event loop: use raftkv.blocking from"
                " threads, or open_node(..., own_thread=True)"
            )
        if self._failure is not None:
            raise self._stopped_error()
        if self._closing or hands is None:
            raise ClosedError(f"the node {self.name} is closed: open it again")
        return hands

    def _stopped_error(self) -> NodeStoppedError:
        cause = self._failure
        return stopped(cause, f"the node {self.name} stopped for good: {cause}")

    def _too_many(self, hands: Hands) -> TooManyRequestsError:
        return TooManyRequestsError(
            f"{len(hands.queue) + len(hands.in_flight)} commands are outstanding and"
            f" {hands.applier.commands} committed ones wait to be applied: wait for answers before"
            " proposing more"
        )

    def _deadline_ns(self, timeout: float) -> int:
        seconds = min(checked_timeout(timeout), 1e9)
        return self._clock.monotonic_ns() + round(seconds * 1e9)

    def _member_names(self) -> str:
        return ", ".join(sorted(one.name for one in self._check().peers.members))

    def _peer_status(self, hands: Hands, peer: int, *, leads: bool) -> PeerStatus:
        state = hands.loop.state
        progress = state.peer(peer) if leads else None
        match = None if progress is None else progress.match
        return PeerStatus(
            id=peer,
            name=hands.peers.name_of(peer),
            address=hands.peers.address_of(peer),
            is_connected=hands.peers.is_up(peer),
            match=match,
            lag=None if match is None else state.log.last_index - match,
            state=None if progress is None else progress.state,
        )

    # --- waiting for a change ---------------------------------------------------------------------

    async def _until(self, holds: Callable[[], bool], deadline_ns: int, otherwise: str) -> None:
        """Wait until something holds, looking again whenever leader, role or term change."""
        while not holds():
            promise = self._promise()
            watcher = Waiter(b"", deadline_ns, promise)
            self._watchers.append(watcher)
            if not await promise:
                raise DeadlineError(otherwise)

    def _wake_watchers(self) -> None:
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.promise.done():
                watcher.promise.set_result(True)

    def _sweep_watchers(self, now_ns: int) -> None:
        for watcher in self._watchers:
            if watcher.deadline_ns <= now_ns and not watcher.promise.done():
                watcher.promise.set_result(False)
        self._watchers = [one for one in self._watchers if not one.promise.done()]

    # --- life -------------------------------------------------------------------------------------

    async def live(self) -> None:
        """The node's one task, from start to end; owned by :func:`running`."""
        workers = self._setup.runtime.workers
        wal, snapshot = workers.worker("wal"), workers.worker("snapshot")
        started = False
        try:
            recovered = await recover(self._setup, wal)
            with anyio.CancelScope() as shield:
                async with anyio.create_task_group() as tasks:
                    spawner = TaskSpawner(tasks)
                    hands = assemble(self._setup, recovered, self._events, spawner, wal, snapshot)
                    async with self._setup.transport.serve(hands.recovery.hello, Gate(hands)):
                        self._connect(hands)
                        self._hands = hands
                        # From here on only `close` or a failure ends us: when our owner is
                        # cancelled we still hand over in order.
                        shield.shield = started = True
                        self._serving.set()
                        _log.info("%s", opened(self._setup, recovered))
                        spawner.spawn("driver", hands.loop.run)
                        spawner.spawn("ticker", self._tick)
                        spawner.spawn("scrubber", hands.scrubber.run)
                        hands.waker.set()
                        await self._company()
                        words = () if self._is_hurried else self._last_words
                        await Closing(hands, self._setup, spawner).run(words)
                    tasks.cancel_scope.cancel()
        except BaseException as error:
            cause = first_cause(error)
            # A write that fails because of damage is both.
            met = cause if isinstance(cause, StorageCorruptError) else self._damage_behind(cause)
            if met is not None:
                odd = self._hands is not None and bool(self._hands.upkeep.odd)
                await self._condemn(met, wal, keep_rows=not odd)
            if not started or not isinstance(cause, Exception):
                raise cause from cause.__cause__
            self._failure = cause
            _log.error("the node %s stops: %s: %s", self.name, type(cause).__name__, cause)
        finally:
            self._end()
            try:
                await self._let_go(wal, snapshot)
            except Exception as error:
                self._failure = self._failure or error
                _log.error("the node %s ends: %s: %s", self.name, type(error).__name__, error)
            finally:
                # Whatever happened, nobody may wait for this end any longer.
                self._done.set()
                if self._failure is not None:
                    self._on_failure()
                elif started:
                    _log.info("member %s is closed", self.name)

    async def _company(self) -> None:
        """The companions' lives, until somebody wants the node to end."""

        async def live(body: Companion) -> None:
            try:
                await body()
            except Error:
                if not self._closing:  # else that is what it was told
                    raise

        async with anyio.create_task_group() as tasks:
            for name, body in self._companions:
                tasks.start_soon(live, body, name=f"raftkv {name}")
            await self._stop.wait()
            tasks.cancel_scope.cancel()

    async def _let_go(self, wal: Worker, snapshot: Worker) -> None:
        """Close the storage, in its worker: after a failed write RocksDB takes a second for it."""
        with anyio.CancelScope(shield=True):
            await snapshot.close()
            try:
                await wal.run(self._setup.storage.close)
            finally:
                await wal.close()

    def _damage_behind(self, cause: BaseException) -> StorageCorruptError | None:
        return self._setup.storage.corruption if isinstance(cause, StorageFailedError) else None

    async def _condemn(self, corrupt: StorageCorruptError, wal: Worker, *, keep_rows: bool) -> None:
        """Have the next opening of the directory begin it anew, if others can give it back."""
        damage = Damage(Loss.LOG, str(corrupt))
        storage = self._setup.storage
        with anyio.CancelScope(shield=True):
            await wal.run(lambda: storage.condemn(damage, keep_rows=keep_rows))

    async def _tick(self) -> None:
        clock, tick_ns = self._clock, self._settings.tick_ns
        hands = self._hands
        due = clock.monotonic_ns()
        count = 0
        while hands is not None:
            due += tick_ns
            await clock.sleep_until(due)
            now = clock.monotonic_ns()
            lag = now - due
            self._lags[count % _LAGS_REMEMBERED] = lag
            self._lag_max = max(self._lag_max, lag)
            count += 1
            due = max(due, now - tick_ns)  # do not make up for ticks that were slept through
            if self._watchers:
                self._sweep_watchers(now)
            hands.waker.set()

    def _end(self) -> None:
        """Nobody waits any longer."""
        self._closing = True
        self._events.end()
        hands, cause = self._hands, self._failure
        if hands is None:
            return
        never: Error
        if cause is None:
            never = ClosedError(f"the node {self.name} was closed before the request left")
        else:
            never = self._stopped_error()
        hands.queue.fail_all(never)
        hands.reads.fail_all(never)
        hands.questions.fail_all(never)
        what = "the node was closed" if cause is None else f"the node stopped ({cause})"
        hands.in_flight.fail_all(what, cause)
        hands.changes.fail_all(never, what)
        for watcher in self._watchers:
            watcher.fail(never)
        self._watchers.clear()
        for audience in self._audiences:
            audience.ended()

    async def serving(self) -> None:
        """Wait until the node serves; for :func:`running`."""
        await self._serving.wait()

    @property
    def failure(self) -> BaseException | None:
        """Why the node stopped by itself; None if it runs or was closed."""
        return self._failure

    def stop_soon(self, *, is_hurried: bool = False) -> None:
        """Begin an orderly end, be it without last words; for :func:`running`."""
        self._closing = True
        self._is_hurried = is_hurried
        self._stop.set()

    def on_failure(self, call: Callable[[], None]) -> None:
        """Whom to tell that the node stopped by itself; for :func:`running`."""
        self._on_failure = call


def _nothing() -> None:
    pass


N = TypeVar("N", bound="Node[object]")


@asynccontextmanager
async def running(node: N) -> AsyncGenerator[N]:
    """Run the node while the context is open.

    If the node stops by itself the body is cancelled and NodeStoppedError is raised, its cause
    inside; unless the body raised something of its own, which then goes first. No exception group
    comes out.
    """
    raised: BaseException | None = None
    try:
        async with anyio.create_task_group() as host:
            node.on_failure(host.cancel_scope.cancel)
            try:
                # Not by start(): cancelled just when the node begins to serve, and is shielded, it
                # would wait for a task that waits for our end.
                host.start_soon(node.live, name=f"raftkv {node.name}")
                await node.serving()
                yield node
            except BaseException as error:
                raised = error
                raise
            finally:
                node.stop_soon(is_hurried=isinstance(raised, anyio.get_cancelled_exc_class()))
    except BaseExceptionGroup as group:
        cause = raised if isinstance(raised, Exception) else first_cause(group)
        raise cause from cause.__cause__
    if node.failure is not None:
        raise stopped(
            node.failure, f"the node {node.name} stopped for good: {node.failure}"
        ) from node.failure
