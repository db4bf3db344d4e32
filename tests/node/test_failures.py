"""A node that cannot go on stops and says why; what it had not stored is not acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress

import anyio
import pytest
from attrs import evolve

from raftkv.core import Input, ReadIndexResponse, Role, State, ready, step
from raftkv.errors import (
    Error,
    InvariantError,
    MachineError,
    NodeStoppedError,
    OutcomeUnknownError,
    StorageCorruptError,
    StorageFailedError,
    StorageStallError,
    UnavailableError,
)
from raftkv.machine import Command
from raftkv.node import loop
from raftkv.node.loop import Loop
from raftkv.node.node import Node, running
from raftkv.node.snapshots import Kind
from raftkv.storage.base import (
    Batch,
    Damage,
    HashedPieces,
    Identity,
    LogStore,
    Pieces,
    Space,
    Storage,
    Store,
    View,
    WitnessRecord,
)
from raftkv.storage.batch import ADOPT, ChangeList
from raftkv.transport.base import Lane
from raftkv.transport.codec import decode_messages
from tests.node.rig import QUICK, Cluster, Journal, Ledger, cluster


class FaultyStorage(Storage):
    """A storage whose syncs or writes can be told to fail."""

    def __init__(self, inner: Storage) -> None:
        self._inner = inner
        self._store = FaultyStore(inner.store)
        self.sync_error: Exception | None = None
        self.syncs_refused = 0
        self.gate = threading.Event()  # a sync waits for it
        self.gate.set()
        self.close_error: Exception | None = None

    @property
    def store(self) -> FaultyStore:
        return self._store

    @property
    def log(self) -> LogStore:
        return self._inner.log

    @property
    def identity(self) -> Identity:
        return self._inner.identity

    def sync(self, promised: WitnessRecord) -> int:
        if self.sync_error is not None:
            self.syncs_refused += 1
            raise self.sync_error
        self.gate.wait()
        return self._inner.sync(promised)

    @property
    def corruption(self) -> StorageCorruptError | None:
        return self._inner.corruption

    def condemn(self, damage: Damage, *, keep_rows: bool = False) -> None:
        self._inner.condemn(damage, keep_rows=keep_rows)

    def check_witness(self) -> str | None:
        return self._inner.check_witness()

    def scrub(self, view: View) -> Pieces:
        return self._inner.scrub(view)

    def machine_hash(self, view: View) -> HashedPieces:
        return self._inner.machine_hash(view)

    def close(self) -> None:
        self._inner.close()
        if self.close_error is not None:
            raise self.close_error


class FaultyStore(Store):
    """A store whose writes can stall."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.stalls = 0
        self.stalls_on_install = 0
        self.stalled = 0
        self.write_error: Exception | None = None

    def get(self, space: Space, key: bytes) -> bytes | None:
        return self._inner.get(space, key)

    def scan(
        self, space: Space, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._inner.scan(space, start, stop, reverse=reverse)

    def batch(self) -> Batch:
        return self._inner.batch()

    def sync(self) -> int:
        return self._inner.sync()

    def view(self, *, cached: bool = True) -> View:
        return self._inner.view()

    def reclaim(self, space: Space) -> None:
        self._inner.reclaim(space)

    def close(self) -> None:
        self._inner.close()

    @property
    def written(self) -> int:
        return self._inner.written

    def write(self, batch: Batch) -> int:
        if self.write_error is not None:
            raise self.write_error
        emptied = isinstance(batch, ChangeList) and any(
            kind == ADOPT for kind, _, _, _ in batch.changes
        )
        if emptied and self.stalls_on_install:
            self.stalls_on_install -= 1
            self.stalls += 1
        if self.stalls:
            self.stalls -= 1
            self.stalled += 1
            raise StorageStallError("Write stall")
        return self._inner.write(batch)


def _faulty(made: Cluster) -> dict[int, FaultyStorage]:
    """From the next start on every member's storage is one of these."""
    storages: dict[int, FaultyStorage] = {}

    def wrap(number: int, storage: Storage) -> Storage:
        storages[number] = FaultyStorage(storage)
        return storages[number]

    made.wrap = wrap
    return storages


async def _start_all(made: Cluster) -> None:
    for member in made.members:
        await made.start(member.id)


async def test_a_failed_sync_stops_the_node_and_acknowledges_nothing() -> None:
    async with cluster(1, start=False) as made:
        storages = _faulty(made)
        await _start_all(made)
        node = await made.leader()
        await node.propose(b"good")
        storages[1].sync_error = StorageFailedError("the disk is gone")
        with pytest.raises(OutcomeUnknownError) as unknown:
            await node.propose(b"bad")
        assert isinstance(unknown.value.__cause__, StorageFailedError)
        await made.ended(1)
        failure = made.failures[1]
        assert isinstance(failure, NodeStoppedError)
        assert isinstance(failure.__cause__, StorageFailedError)
        assert storages[1].syncs_refused == 1  # never tried again
        with pytest.raises(NodeStoppedError):
            await node.read()
        assert made.commands(1) == [b"good"]


async def test_a_follower_whose_sync_failed_neither_acknowledges_nor_votes() -> None:
    async with cluster(start=False) as made:
        storages = _faulty(made)
        await _start_all(made)
        leader = await made.leader()
        follower, other = made.followers(leader)
        await made.stop(other.id)
        storages[follower.id].sync_error = StorageFailedError("the disk is gone")
        with pytest.raises(OutcomeUnknownError):
            await leader.propose(b"one copy only", timeout=0.5)
        await made.ended(follower.id)
        assert leader.status().commit < leader.status().last_index


async def test_a_leader_whose_disk_stands_still_gives_way_to_one_whose_does_not() -> None:
    async with cluster(start=False) as made, anyio.create_task_group() as tasks:
        storages = _faulty(made)
        await _start_all(made)
        leader = await made.leader()
        gate = storages[leader.id].gate
        gate.clear()
        try:
            tasks.start_soon(_try, leader)
            followers = made.followers(leader)
            await made.until(lambda: any(node.status().is_leader for node in followers))
            successor = next(node for node in followers if node.status().is_leader)
            await successor.propose(b"answered at once")
        finally:
            gate.set()
        await made.until(lambda: made.commands(leader.id)[-1:] == [b"answered at once"])


async def _try(node: Node[object]) -> None:
    with suppress(UnavailableError, OutcomeUnknownError):
        await node.propose(b"slow", timeout=1.0)


async def test_a_member_whose_own_state_is_broken_stops_before_it_stores_any_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken: list[bool] = []

    def go_wrong(state: State, event: Input) -> State:
        after = step(state, event)
        return evolve(after, vote=9) if broken else after

    def going_wrong(_observer: object) -> object:
        return go_wrong, ready

    monkeypatch.setattr(loop, "watched", going_wrong)
    async with cluster(1) as made:
        node = await made.leader()
        await node.propose(b"good")
        broken.append(True)
        with pytest.raises(OutcomeUnknownError):
            await node.propose(b"bad")
        await made.ended(1)
        cause = made.failures[1].__cause__
        assert isinstance(cause, InvariantError)
        assert str(cause).startswith("I2: voted for")
        assert made.commands(1) == [b"good"]


async def test_a_failed_write_of_effects_releases_no_result() -> None:
    async with cluster(1, machine=Ledger, start=False) as made:
        storages = _faulty(made)
        await _start_all(made)
        node = await made.leader()
        machine = made.machines[1]
        assert isinstance(machine, Ledger)

        def fail(_commands: Sequence[Command]) -> None:
            storages[1].store.write_error = StorageFailedError("the disk is gone")

        machine.before = fail
        with pytest.raises(OutcomeUnknownError):
            await node.propose(b"x")
        await made.ended(1)
        assert isinstance(made.failures[1].__cause__, StorageFailedError)


async def test_a_closing_leader_stays_until_the_vote_it_gives_has_made_the_next() -> None:
    patient = evolve(QUICK, close_seconds_max=30)
    async with cluster(settings=patient, start=False) as made:
        storages = _faulty(made)
        await _start_all(made)
        leader = await made.leader()
        await made.settled()
        heir, third = made.followers(leader)
        made.network.partition((third.id,), (leader.id, heir.id))
        storages[leader.id].gate.clear()  # whatever it promises from now on is not stored yet
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(made.stop, leader.id)
                await made.until(lambda: heir.status().role is Role.CANDIDATE)
                for _ in range(3):  # by now it was asked for its vote
                    await made.tick()
                assert not heir.status().is_leader
                storages[leader.id].gate.set()
        finally:
            storages[leader.id].gate.set()
        assert heir.status().is_leader
        made.network.heal()


async def test_a_store_that_stalls_is_tried_again_until_it_takes_the_batch() -> None:
    async with cluster(1, start=False) as made:
        storages = _faulty(made)
        await _start_all(made)
        node = await made.leader()
        store = storages[1].store
        store.stalls = 3
        assert await node.propose(b"late") == 1
        assert store.stalled == 3


async def test_a_store_that_stalls_for_too_long_stops_the_node() -> None:
    async with cluster(1, settings=evolve(QUICK, stall_seconds_max=0.1), start=False) as made:
        storages = _faulty(made)
        await _start_all(made)
        node = await made.leader()
        storages[1].store.stalls = 10**9
        with pytest.raises(OutcomeUnknownError):
            await node.propose(b"never", timeout=30)
        await made.ended(1)
        assert isinstance(made.failures[1].__cause__, StorageFailedError)


async def test_a_machine_that_raises_stops_every_member_alike() -> None:
    async with cluster() as made:
        leader = await made.leader()

        def refuse(commands: Sequence[Command]) -> None:
            if any(command.data == b"poison" for command in commands):
                raise ZeroDivisionError("the machine has a bug")

        for machine in made.machines.values():
            assert isinstance(machine, Journal)
            machine.before = refuse
        await leader.propose(b"fine")
        with pytest.raises((OutcomeUnknownError, NodeStoppedError)):
            await leader.propose(b"poison")
        # Two at least: the last one may be left without a majority that could tell it to apply.
        await made.until(lambda: len(made.failures) >= 2)
        for number, failure in made.failures.items():
            cause = failure.__cause__
            assert isinstance(cause, MachineError)
            assert isinstance(cause.__cause__, ZeroDivisionError)
            assert made.commands(number) == [b"fine"]
        for number in made.nodes:
            assert b"poison" not in made.commands(number)


class Short(Journal):
    def apply(self, commands: Sequence[Command]) -> Sequence[object]:
        return super().apply(commands)[1:]


async def test_a_machine_that_answers_too_little_stops_the_node() -> None:
    async with cluster(1, machine=Short) as made:
        node = await made.leader()
        with pytest.raises(OutcomeUnknownError):
            await node.propose(b"one")
        await made.ended(1)
        assert isinstance(made.failures[1].__cause__, MachineError)


async def test_a_stopped_node_cancels_the_body_and_comes_out_as_itself() -> None:
    async with cluster(1, start=False) as made:
        storages = _faulty(made)
        node: Node[object] = Node(made.setup(1))
        reached = False

        async def live() -> None:
            nonlocal reached
            async with running(node):
                await node.ready()
                storages[1].sync_error = StorageFailedError("the disk is gone")
                with suppress(Error):
                    await node.propose(b"x")
                await anyio.sleep_forever()
                reached = True

        with pytest.raises(NodeStoppedError) as stopped:
            await live()
        assert not reached
        assert isinstance(stopped.value.__cause__, StorageFailedError)


async def test_what_the_body_raises_comes_out_unwrapped() -> None:
    async with cluster(1, start=False) as made:
        node: Node[object] = Node(made.setup(1))

        async def live() -> None:
            async with running(node):
                await node.ready()
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await live()


async def test_a_close_that_fails_ends_all_the_same_and_says_why() -> None:
    async with cluster(1, start=False) as made:
        storages = _faulty(made)
        await made.start(1)
        node = await made.leader()
        storages[1].close_error = StorageFailedError("the last write failed")
        await node.close()
        await made.ended(1)
        failure = made.failures[1]
        assert isinstance(failure, NodeStoppedError)
        assert failure.__cause__ is storages[1].close_error
        with pytest.raises(NodeStoppedError, match="the last write failed"):
            await node.read()


async def test_no_read_is_answered_from_below_a_snapshot_that_is_not_in_the_store_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What matters: a read is confirmed in the very turn in which the image is complete.
    held: list[tuple[int, bytes]] = []
    deliver = Loop.on_frame

    def on_frame(self: Loop, peer: int, lane: Lane, frame: bytes) -> None:
        if lane is Lane.BULK and frame[0] == Kind.END and self.state.config.id == gone:
            held.append((peer, frame))
            return
        deliver(self, peer, lane, frame)
        if lane is not Lane.RAFT or self.state.config.id != gone:
            return
        if any(isinstance(one, ReadIndexResponse) for one in decode_messages(frame)):
            for sender, piece in held:
                deliver(self, sender, Lane.BULK, piece)
            held.clear()

    monkeypatch.setattr(Loop, "on_frame", on_frame)
    gone = 0
    settings = evolve(QUICK, retention_entries=10, snapshot_inflight_bytes_max=64)
    async with cluster(settings=settings, machine=Ledger) as made:
        leader = await made.leader()
        gone = made.followers(leader)[0].id
        await leader.propose(b"early")
        await made.until(lambda: made.commands(gone) == [b"early"])
        await made.stop(gone)
        for number in range(99):
            await leader.propose(b"%d" % number)
        stores: list[FaultyStore] = []

        def wrap(number: int, storage: Storage) -> Storage:
            if number != gone:
                return storage
            faulty = FaultyStorage(storage)
            faulty.store.stalls_on_install = 20
            stores.append(faulty.store)
            return faulty

        made.wrap = wrap
        node = await made.start(gone)
        seen: list[int] = []

        async def read() -> None:
            await node.read(timeout=30)
            seen.append(len(made.commands(gone)))

        async with anyio.create_task_group() as readers:
            for _ in range(40):
                for _ in range(5):
                    readers.start_soon(read)
                await made.tick()
        assert stores[-1].stalled == 20
        assert min(seen) == 100
