"""Cancelled operations leave nothing behind, wherever they were."""

from __future__ import annotations

import pytest

from raftkv.testing.invariants import ViolationError
from raftkv.testing.nodes import cancel, run_virtual
from raftkv.testing.nodes.cancel import OPERATIONS, Bench, cancel_everywhere


@pytest.mark.parametrize("edge", [False, True], ids=["scope", "task"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_cancelled_at_any_await_leaves_nothing_behind(name: str, edge: bool) -> None:
    assert run_virtual(lambda: cancel_everywhere(name, edge=edge)) >= 1


@pytest.mark.parametrize("name", ["open", "put", "transfer"])
def test_nor_does_one_that_is_cancelled_at_any_time(name: str) -> None:
    assert run_virtual(lambda: cancel_everywhere(name, step_seconds=0.0001)) > 3


def test_a_disk_that_stays_open_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def leaky(bench: Bench) -> object:
        cluster = bench.cluster
        storage = cluster.open_disk("n3")
        await bench.node.read()
        storage.close()
        return None

    changed = {**OPERATIONS, "leak": leaky}
    monkeypatch.setattr(cancel, "OPERATIONS", changed)
    with pytest.raises(ViolationError, match=r"I52: leak.*n3 is still open"):
        run_virtual(lambda: cancel_everywhere("leak"))
