"""What people read in the log when a member comes, goes or leads: once, and by its name."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

import raftkv
from tests.node.rig import QUICK


async def test_an_ordinary_life_is_told_by_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "raftkv")
    async with raftkv.open_cluster(tmp_path, size=3, settings=QUICK) as cluster:
        leader = await cluster.leader()
        await leader.kv.put("k", "v")
        await cluster.stop(leader.name)
        following = await cluster.leader()
        await following.kv.put("k", "w")
        await cluster.start(leader.name)
    told = [record.getMessage() for record in caplog.records]
    for name in ("n1", "n2", "n3"):
        address = re.escape(f"address {name}:1, boot 1, log up to entry 1")
        assert (
            sum(bool(re.match(rf"member {name} \(\w+\) is open: {address}$", one)) for one in told)
            == 1
        )
    again = [one for one in told if "boot 2" in one]
    assert len(again) == 1
    assert again[0].startswith(f"member {leader.name} (")
    assert told.count(f"member {leader.name} is closed") == 2
    assert any(re.match(rf"member {leader.name} leads in term \d+$", one) for one in told)
    assert any(re.match(rf"member {following.name} leads in term \d+$", one) for one in told)
    assert any(re.match(r"no leader is known in term \d+$", one) for one in told)
    assert f"member {leader.name} is connected" in told
    ids = {f"{node.id:x}" for node in cluster.nodes} | {str(node.id) for node in cluster.nodes}
    for one in told:
        assert "is open" in one or not any(number in one for number in ids), one
