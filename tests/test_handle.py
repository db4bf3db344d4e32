"""The node an application holds keeps its own store whole."""

from __future__ import annotations

from pathlib import Path

import anyio.to_thread
import pytest

import raftkv


async def test_bytes_of_ones_own_never_reach_the_log_of_a_key_value_node(tmp_path: Path) -> None:
    async with raftkv.open_cluster(tmp_path, size=1) as cluster:
        node = await cluster.leader()
        put = await node.kv.put("k", "v")
        with pytest.raises(raftkv.UsageError, match=r"use node\.kv"):
            await node.propose(b"\xff would stop every member")
        again = await node.kv.put("k", "w")
        assert again.revision == put.revision + 1


async def test_a_serializable_read_meets_the_same_checks_as_any_call(tmp_path: Path) -> None:
    async with raftkv.open_cluster(tmp_path, size=1) as cluster:
        node = await cluster.leader()
        await node.kv.put("k", "v")
        found = await node.kv.get("k", serializable=True)
        assert found is not None
        assert found.value == b"v"

        def from_a_thread() -> None:
            node.check()

        with pytest.raises(raftkv.WrongThreadError, match="blocking"):
            await anyio.to_thread.run_sync(from_a_thread)
    with pytest.raises(raftkv.ClosedError, match="open it again"):
        await node.kv.get("k", serializable=True)
