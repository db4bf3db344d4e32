"""The recipes from threads, and beside a node in a thread of its own, over real disks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import raftkv
from raftkv import blocking
from raftkv.errors import DeadlineError
from raftkv.kv.client import op

CLUSTER = {"n1": "127.0.0.1:1"}


@pytest.fixture(scope="module")
def kv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[blocking.Kv]:
    directory = tmp_path_factory.mktemp("n1")
    opened = blocking.open_node(directory, name="n1", cluster=CLUSTER, listen="127.0.0.1:0")
    with opened as node:
        node.ready()
        yield node.kv


def test_a_lock_is_held_by_one_thread_at_a_time(kv: blocking.Kv) -> None:
    inside: list[int] = []
    tokens: list[int] = []

    def use(number: int) -> None:
        with kv.lock("jobs") as held:
            inside.append(number)
            assert inside == [number]
            done = kv.txn(when=[held.is_mine], then=[op.put("jobs-done", b"%d" % number)])
            assert done.succeeded
            tokens.append(held.revision)
            inside.clear()

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({*tokens}) == 4
    assert tokens == sorted(tokens)
    with kv.lock("jobs"), pytest.raises(DeadlineError), kv.lock("jobs", timeout=0):
        raise AssertionError("held twice")


def test_an_election_is_won_and_observed_from_threads(kv: blocking.Kv) -> None:
    election = kv.election("chief")
    with election.campaign("me") as leadership:
        with election.observe() as leaders:
            assert next(leaders).value == b"me"
            leadership.proclaim("me still")
            assert next(leaders).value == b"me still"
        with pytest.raises(DeadlineError), election.campaign("another", timeout=0):
            raise AssertionError("two lead")
        assert leadership.key.startswith(b"chief/")
        done = kv.txn(when=[leadership.is_mine], then=[op.put("term", b"%d" % leadership.revision)])
        assert done.succeeded
        assert leadership.lease in kv.leases()
    assert election.leader() is None


def test_counters_barriers_and_queues_have_twins(kv: blocking.Kv) -> None:
    assert [kv.counter("visits").add(2) for _ in range(2)] == [2, 4]
    assert kv.counter("visits").get() == 4
    barrier = kv.barrier("gate")
    assert barrier.hold()
    assert barrier.release()
    barrier.wait()
    with kv.gathering("start", 1).joined():
        assert kv.count(prefix="start/") == 2
    queue = kv.queue("work")
    queue.put("a")
    queue.put("b")
    with queue.taken() as item:
        assert item.value == b"a"
        assert queue.count() == 2
    assert queue.get().value == b"b"
    assert queue.get_nowait() is None


def test_recipes_work_beside_a_node_in_a_thread_of_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        opened = raftkv.open_node(
            tmp_path, name="n1", cluster=CLUSTER, listen="127.0.0.1:0", own_thread=True
        )
        async with opened as node:
            await node.ready()
            kv = node.kv
            async with kv.lock("jobs") as held:
                with anyio.move_on_after(0.2) as scope:
                    async with kv.lock("jobs"):
                        raise AssertionError("held twice")
                assert scope.cancelled_caught
                assert (await kv.get(held.key)) is not None
            assert await kv.count(prefix="jobs/") == 0
            queue = kv.queue("work")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(queue.put, "a")
                assert (await queue.get()).value == b"a"

    anyio.run(main)
