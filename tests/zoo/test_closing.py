"""Closing waits for nothing that will not come: hashicorp/raft hung beside a snapshot."""

from __future__ import annotations

import pytest
from attrs import evolve

from raftkv.transport.base import Lane
from tests.node.rig import QUICK, cluster

SHORT = evolve(QUICK, retention_entries=20, snapshot_inflight_bytes_max=64)
"""Keeps few entries, and sends images in many pieces."""


@pytest.mark.parametrize("who", ["sender", "receiver"])
async def test_a_node_can_be_closed_amid_a_snapshot(who: str) -> None:
    async with cluster(settings=SHORT) as made:
        leader = await made.leader()
        gone = made.followers(leader)[0].id
        await made.stop(gone)
        commands = [b"%d" % number for number in range(200)]
        for command in commands:
            await leader.propose(command)
        pieces = 0

        def stuck(_sender: int, to: int, lane: Lane, frame: bytes) -> bytes | None:
            nonlocal pieces
            if lane is Lane.BULK and to == gone:
                pieces += 1
                return frame if pieces < 4 else None
            return frame

        made.network.tap = stuck
        await made.start(gone)
        await made.until(lambda: pieces >= 4)
        closed = leader.id if who == "sender" else gone
        await made.stop(closed)
        made.network.tap = None
        await made.start(closed)
        await made.until(lambda: made.commands(gone) == commands)
