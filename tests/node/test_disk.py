"""What the node promises of its disk: never more than was written, however slow the store is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import anyio
import pytest
from attrs import evolve

from raftkv.core import (
    Config,
    EntryKind,
    Payload,
    PeerMessage,
    Propose,
    Ready,
    Receive,
    RequestVote,
    State,
    VoteResponse,
    ready,
    start,
    step,
)
from raftkv.core.inputs import Campaign, Persisted
from raftkv.errors import StorageStallError
from raftkv.node.disk import Disk
from raftkv.runtime.base import Waker, Worker
from raftkv.runtime.system import system_runtime
from raftkv.storage.base import Batch, Storage, Store, WitnessRecord
from raftkv.storage.memory import MemoryDisk, MemoryStore, open_memory

T = TypeVar("T")


class HeldWorker:
    """A worker whose jobs run when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], object], Callable[[object], None]]] = []

    def submit(self, job: Callable[[], T], done: Callable[[T | BaseException], None]) -> None:
        self.jobs.append((job, cast("Callable[[object], None]", done)))

    def finish(self) -> None:
        job, done = self.jobs.pop(0)
        done(job())


class StallingStore:
    """A store that stalls while told to."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.stalls = False
        self.stalled = anyio.Event()

    def batch(self) -> Batch:
        return self._store.batch()

    def write(self, batch: Batch) -> int:
        if self.stalls:
            self.stalled.set()
            raise StorageStallError("stalled")
        return self._store.write(batch)

    def sync(self) -> int:
        return self._store.sync()


class WatchedStorage:
    """A storage that writes down what its witness was told."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.store = StallingStore(storage.store)
        self.log = storage.log
        self.identity = storage.identity
        self.promised: list[int] = []

    def sync(self, promised: WitnessRecord) -> int:
        self.promised.append(promised.last_index)
        return self._storage.sync(promised)


async def test_a_sync_that_ends_while_the_store_stalls_vouches_for_written_batches_alone() -> None:
    storage = WatchedStorage(open_memory(1, 1, disk=MemoryDisk()))
    runtime, worker = system_runtime(), HeldWorker()
    recovered = storage.log.recover()
    disk = Disk(
        cast("Storage", storage),
        recovered,
        cast("Worker", worker),
        runtime.clock,
        runtime.waker(),
        stall_ns=60_000_000_000,
    )
    state = start(evolve(Config(id=1), election_ticks=10), voters=(1,))
    state = step(state, Campaign())

    def take() -> Ready:
        nonlocal state
        state, todo = ready(state)
        return todo

    def propose() -> Ready:
        nonlocal state
        state = step(state, Propose((Payload(EntryKind.NORMAL, b"x"),)))
        return take()

    first = take()
    disk.save(first)
    await disk.write()
    worker.finish()
    state = step(state, Persisted(first.number))  # it leads now, with an empty entry
    disk.save(take())
    await disk.write()  # sync of entry 1 is under way
    disk.save(propose())
    await disk.write()  # entry 2 is written and waits for the next sync
    storage.store.stalls = True
    disk.save(propose())  # entry 3 is saved, and its write stalls

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(disk.write)
        await storage.store.stalled.wait()
        worker.finish()
        worker.finish()
        assert storage.promised == [0, 1, 2]
        storage.store.stalls = False
    worker.finish()
    assert storage.promised == [0, 1, 2, 3]


class CountingWaker(Waker):
    """Counts how often a turn was asked for."""

    def __init__(self) -> None:
        self.calls = 0

    def set(self) -> None:
        self.calls += 1

    async def wait(self) -> None:
        raise AssertionError("nobody waits here")


class _Driven:
    """A core and its disk; ``sync`` tells what left and whether a turn was asked for."""

    def __init__(self, number: int, *, is_awaited: bool = False) -> None:
        self.state: State = start(
            Config(id=number, election_ticks=10, pre_vote=False), voters=(1, 2)
        )
        self._worker = HeldWorker()
        self._waker = CountingWaker()
        self._left: list[PeerMessage] = []
        storage = open_memory(1, number, disk=MemoryDisk())
        self._disk = Disk(
            storage,
            storage.log.recover(),
            cast("Worker", self._worker),
            system_runtime().clock,
            self._waker,
            stall_ns=60_000_000_000,
        )
        self._disk.on_durable = self._left.extend
        self._disk.is_awaited = lambda: is_awaited

    async def sync(self) -> tuple[list[PeerMessage], bool]:
        """Store what the core asks for; what left at once is passed on, too."""
        self.state, todo = ready(self.state)
        self._left += todo.messages
        self._disk.save(todo)
        await self._disk.write()
        self._waker.calls = 0
        self._worker.finish()
        self.state = step(self.state, Persisted(todo.number))
        left = self._left[:]
        self._left.clear()
        return left, self._waker.calls > 0


async def test_a_sync_asks_for_a_turn_only_where_this_member_goes_on_with_it() -> None:
    one, other, late = _Driven(1), _Driven(2), _Driven(2, is_awaited=True)
    one.state = step(one.state, Campaign())
    asked, goes_on = await one.sync()
    assert goes_on  # it counts its own vote
    for follower in (other, late):
        for message in asked:
            follower.state = step(follower.state, Receive(message))
        votes, goes_on = await follower.sync()
        assert len(votes) == 1
        assert goes_on is (follower is late)
        one.state = step(one.state, Receive(votes[0]))
    appends, goes_on = await one.sync()
    assert goes_on  # it counts itself among those that hold the entry
    for follower in (other, late):
        for message in appends:
            follower.state = step(follower.state, Receive(message))
        answers, goes_on = await follower.sync()
        assert len(answers) == 1
        assert goes_on is (follower is late)  # something committed waits to be applied there


@pytest.mark.parametrize("term", [1, 2], ids=["only the vote is new", "the term is new, too"])
async def test_a_vote_leaves_when_it_and_its_term_are_durable(term: int) -> None:
    memory, worker, left = MemoryDisk(), HeldWorker(), list[PeerMessage]()
    storage = open_memory(1, 1, disk=memory)
    disk = Disk(
        storage,
        storage.log.recover(),
        cast("Worker", worker),
        system_runtime().clock,
        CountingWaker(),
        stall_ns=60_000_000_000,
    )
    disk.on_durable = left.extend
    state = start(Config(id=1, election_ticks=10), voters=(1, 2, 3))
    # A refusal in term 1: from now on the term is known, and no vote given in it.
    state = step(state, Receive(VoteResponse(2, 1, 1, rejected=True)))
    state, todo = ready(state)
    disk.save(todo)
    await disk.write()
    worker.finish()

    state, todo = ready(step(state, Receive(RequestVote(3, 1, term, 0, 0))))
    disk.save(todo)
    await disk.write()
    assert (left, len(worker.jobs)) == ([], 1)
    worker.finish()
    assert left == [VoteResponse(1, 3, term, rejected=False)]
    cast("MemoryStore", storage.store).crash()
    again = open_memory(1, 1, disk=memory)
    kept = again.log.recover().hard_state
    assert (kept.term, kept.vote) == (term, 3)
    again.close()
