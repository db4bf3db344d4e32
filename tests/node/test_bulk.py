"""Frames of the bulk lane reach who registered for their kind, and nobody else."""

from __future__ import annotations

import pytest

from raftkv.errors import ConfigError
from raftkv.node.bulk import MEMBERSHIP, REPAIR, SNAPSHOTS, STATE_HASHES, BulkFrames


async def test_each_kind_reaches_its_handler(caplog: pytest.LogCaptureFixture) -> None:
    frames = BulkFrames()
    seen: list[tuple[str, int, bytes]] = []

    async def later(peer: int, frame: bytes) -> None:
        seen.append(("later", peer, frame))

    frames.register(REPAIR, lambda peer, frame: seen.append(("now", peer, frame)))
    frames.register(STATE_HASHES, later)
    await frames.handle(7, b"\x14repair")
    await frames.handle(8, b"\x1ehash")
    assert seen == [("now", 7, b"\x14repair"), ("later", 8, b"\x1ehash")]
    for unknown in (b"", b"\x00", b"\x13", b"\x28joining"):
        await frames.handle(9, unknown)
    assert len(seen) == 2
    assert caplog.text.count("nobody here knows it") == 4


def test_a_kind_has_one_handler() -> None:
    frames = BulkFrames()
    frames.register(SNAPSHOTS, lambda _peer, _frame: None)
    frames.register(MEMBERSHIP, lambda _peer, _frame: None)
    with pytest.raises(ConfigError, match="kinds 9-12 are taken"):
        frames.register(range(9, 13), lambda _peer, _frame: None)
