"""What type checkers are told about nodes and clusters. Never run: pyright reads it."""

from __future__ import annotations

from typing import assert_type

import raftkv
from tests.typing.machine_types import Counter


async def a_node_of_your_machine_proposes_its_results() -> None:
    """``machine=`` decides what ``propose`` gives."""
    cluster = {"n1": "127.0.0.1:7400"}
    async with raftkv.open_node("data", name="n1", cluster=cluster, machine=Counter()) as node:
        assert_type(node, raftkv.Node[int])
        assert_type(await node.propose(b"+1"), int)
        _: str = await node.propose(b"+1")  # pyright: ignore[reportAssignmentType] - it is an int


async def a_node_without_machine_runs_the_store() -> None:
    """Results of the store are records, and an absent key is None."""
    async with raftkv.open_node("data", name="n1", cluster={"n1": "127.0.0.1:7400"}) as node:
        assert_type(node, raftkv.Node[raftkv.KvResult])
        assert_type(node.kv, raftkv.Kv)
        assert_type(await node.kv.put("key", b"value"), raftkv.PutResult)
        assert_type(await node.kv.get("key"), raftkv.KeyValue | None)
        assert_type(await node.kv.range(prefix="k"), raftkv.RangeResult)
        assert_type(await node.kv.delete("key"), raftkv.DeleteResult)
        assert_type(await node.read(), int)
        assert_type(node.status(), raftkv.Status)
        async for event in node.events():
            assert_type(event, raftkv.Event)
        found = await node.kv.get("key")
        str(found.value)  # pyright: ignore[reportOptionalMemberAccess] - it may be None
        await node.kv.put("key", 1)  # pyright: ignore[reportArgumentType] - values are bytes


async def what_the_store_offers_has_types(kv: raftkv.Kv) -> None:
    """Conditions, operations, their results, leases and watches."""
    condition = raftkv.when.value("a") == b"1"
    assert_type(condition, raftkv.Compare)
    done = await kv.txn(when=[condition], then=[raftkv.op.put("a", b"2")])
    assert_type(done, raftkv.TxnResult)
    assert_type(
        done.results[0],
        raftkv.PutResult | raftkv.DeleteResult | raftkv.RangeResult | raftkv.TxnResult
        | raftkv.KeyValue | None,
    )  # fmt: skip
    await kv.txn(then=[condition])  # pyright: ignore[reportArgumentType] - no operation
    assert_type(await kv.grant(10), raftkv.LeaseResult)
    assert_type(await kv.time_to_live(7), raftkv.LeaseStatus)
    async with kv.lease(ttl=10) as lease:
        assert_type(lease, raftkv.Lease)
        await kv.put("a", b"1", lease=lease)
    async with kv.watch(prefix="a") as changes:
        assert_type(changes, raftkv.Watch)
        async for change in changes:
            assert_type(change, raftkv.Change)
            assert_type(change.events[0], raftkv.KeyEvent)
    assert_type(await kv.compact(7), raftkv.CompactResult)
    assert_type(kv.status(), raftkv.KvStatus)
    await kv.range(order="up")  # pyright: ignore[reportArgumentType] - it is a SortOrder


def threads_watch_and_lease(kv: raftkv.blocking.Kv) -> None:
    """The same without await."""
    assert_type(kv.txn(then=[raftkv.op.get("a")]), raftkv.TxnResult)
    with kv.lease(ttl=10) as lease:
        assert_type(lease, raftkv.Lease)
    with kv.watch("a") as changes:
        assert_type(changes.next(timeout=1), tuple[raftkv.Change, ...])
        for change in changes:
            assert_type(change, raftkv.Change)


async def a_cluster_has_nodes_of_one_type() -> None:
    """As for one node."""
    async with raftkv.open_cluster("data", size=3) as cluster:
        assert_type(cluster.nodes, tuple[raftkv.Node[raftkv.KvResult], ...])
    async with raftkv.open_cluster("data", machine=Counter) as counting:
        assert_type(await counting.leader(), raftkv.Node[int])
        assert_type(await (await counting.leader()).propose(b"+1"), int)


def threads_see_the_same_types() -> None:
    """The blocking API gives what is awaited elsewhere."""
    cluster = {"n1": "127.0.0.1:7400"}
    with raftkv.blocking.open_node("data", name="n1", cluster=cluster) as node:
        assert_type(node.kv.get("key"), raftkv.KeyValue | None)
        assert_type(node.kv.put("key", "value"), raftkv.PutResult)
    with raftkv.blocking.open_node("d", name="n1", cluster=cluster, machine=Counter()) as counting:
        assert_type(counting.propose(b"+1"), int)
