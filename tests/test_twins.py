"""``node.kv`` from threads and from other loops: watches, leases and transactions, too."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest

import raftkv
from raftkv.errors import (
    ClosedError,
    CompactedError,
    DeadlineError,
    InvalidArgumentError,
    LeaseNotFoundError,
)
from raftkv.kv.client import op, when
from raftkv.kv.model import Change
from raftkv.node.settings import Settings

CLUSTER = {"n1": "127.0.0.1:7400"}
LISTEN = "127.0.0.1:0"
SETTINGS = Settings(tick_seconds=0.01, ballast_bytes=0)


@pytest.fixture
def kv(tmp_path: Path) -> Iterator[raftkv.blocking.Kv]:
    with raftkv.blocking.open_node(
        tmp_path / "n1", name="n1", cluster=CLUSTER, listen=LISTEN, settings=SETTINGS
    ) as node:
        yield node.kv


@pytest.fixture
async def hosted(tmp_path: Path) -> AsyncIterator[raftkv.Kv]:
    async with raftkv.open_node(
        tmp_path / "n1",
        name="n1",
        cluster=CLUSTER,
        listen=LISTEN,
        settings=SETTINGS,
        own_thread=True,
    ) as node:
        yield node.kv


def keys(changes: tuple[Change, ...]) -> list[bytes]:
    return [event.kv.key for change in changes for event in change.events]


# --- from threads -----------------------------------------------------------------------------


def test_a_thread_iterates_over_what_happens_until_another_closes(kv: raftkv.blocking.Kv) -> None:
    seen: list[bytes] = []
    has_all = threading.Event()
    watch = kv.watch(prefix="k", start=2)

    def read() -> None:
        with watch:
            for change in watch:
                seen.append(change.events[0].kv.key)
                if len(seen) == 5:
                    has_all.set()

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(5):
        kv.put(f"k{number}", "v")
    has_all.wait()
    watch.close()
    reader.join()
    assert seen == [b"k%d" % number for number in range(5)]
    assert watch.next_revision == 7
    with pytest.raises(ClosedError):
        watch.next()


def test_a_thread_waits_for_changes_as_long_as_it_says(kv: raftkv.blocking.Kv) -> None:
    with kv.watch("k") as changes:
        assert changes.next_revision == 2
        with pytest.raises(DeadlineError, match="nothing that is watched"):
            changes.next(timeout=0.01)
        kv.put("other", "")
        kv.put("k", "1")
        kv.delete("k")
        (first,) = changes.next(1, timeout=60)
        assert first.revision == 3
        assert changes.next_revision == 4
        assert next(changes).revision == 4
        assert changes.progress() == 4
        assert next(changes) == Change(4, ())
        with pytest.raises(InvalidArgumentError, match="at least 1"):
            changes.next(0)


def test_a_thread_hears_that_history_is_gone(kv: raftkv.blocking.Kv) -> None:
    kv.put("k", "1")
    kv.put("k", "2")
    kv.compact(3)
    with pytest.raises(CompactedError) as caught, kv.watch("k", start=2):
        pass
    assert caught.value.revision == 3


def test_a_thread_holds_a_lease_and_hears_that_it_was_lost(kv: raftkv.blocking.Kv) -> None:
    with kv.lease(ttl=60) as lease:
        kv.put("k", "v", lease=lease)
        assert lease.id in kv.leases()
        assert kv.time_to_live(lease, keys=True).keys == (b"k",)
    assert kv.get("k") is None
    body: list[bool] = []

    def lose() -> None:
        with kv.lease(ttl=1) as lease:
            kv.revoke(lease)
            assert kv.time_to_live(lease).ttl == -1
            while lease.seconds_left:
                threading.Event().wait(0.01)
            body.append(True)

    with pytest.raises(LeaseNotFoundError):
        lose()
    assert body == [True]


def test_a_thread_makes_transactions(kv: raftkv.blocking.Kv) -> None:
    done = kv.txn(when=[when.absent("k")], then=[op.put("k", "v"), op.get("k"), op.get("no")])
    assert done.succeeded
    _, found, missing = done.results
    assert isinstance(found, raftkv.KeyValue)
    assert found.value == b"v"
    assert missing is None
    granted = kv.grant(30)
    assert kv.keep_alive(granted) == granted.ttl
    assert kv.status().revision == kv.hash().revision == done.revision
    assert kv.disarm() == kv.alarms() == ()


def test_what_comes_from_a_thread_after_the_end_is_told_so(tmp_path: Path) -> None:
    with raftkv.blocking.open_node(
        tmp_path / "n1", name="n1", cluster=CLUSTER, listen=LISTEN, settings=SETTINGS
    ) as node:
        kv = node.kv
        with kv.watch(prefix="k") as watch:
            kv.put("k", "v")
    late: list[Callable[[], object]] = [
        partial(kv.put, "k", "w"),
        kv.status,
        node.status,
        kv.lock("k").__enter__,
        watch.progress,
    ]
    for call in late:
        with pytest.raises(ClosedError, match="the node n1 is closed"):
            call()
    watch.close()


# --- from another loop ------------------------------------------------------------------------


async def test_another_loop_watches_without_loss(hosted: raftkv.Kv) -> None:
    seen: list[bytes] = []
    async with hosted.watch(prefix="k") as changes:
        assert changes.next_revision == 2
        for number in range(40):
            await hosted.put(f"k{number:02}", "v")
            with anyio.move_on_after(0.0005 * (number % 3)):  # a wait given up loses nothing
                seen += keys(await changes.next(1))
        while len(seen) < 40:
            seen += keys((await anext(changes),))
        assert changes.next_revision == 42
        revision = await changes.progress()
        assert await anext(changes) == Change(revision, ())
        with pytest.raises(InvalidArgumentError, match="at least 1"):
            await changes.next(0)
        changes.close()
        with pytest.raises(StopAsyncIteration):
            await anext(changes)
        with pytest.raises(ClosedError):
            await changes.next()
    assert seen == [b"k%02d" % number for number in range(40)]


async def test_another_loop_holds_a_lease_that_cuts_its_body_short(hosted: raftkv.Kv) -> None:
    async with hosted.lease(ttl=60) as lease:
        await hosted.put("k", "v", lease=lease)
    assert await hosted.get("k") is None

    async def lose() -> None:
        async with hosted.lease(ttl=1) as lease:
            await hosted.revoke(lease)
            await anyio.sleep_forever()

    with pytest.raises(LeaseNotFoundError):
        await lose()
    assert hosted.status().revision == 3


async def test_what_comes_from_another_loop_after_the_end_is_told_so(tmp_path: Path) -> None:
    async with raftkv.open_node(
        tmp_path / "n1",
        name="n1",
        cluster=CLUSTER,
        listen=LISTEN,
        settings=SETTINGS,
        own_thread=True,
    ) as node:
        kv = node.kv
        async with kv.watch(prefix="k") as watch:
            pass
    with pytest.raises(ClosedError, match="the node n1 is closed"):
        await kv.get("k")
    with pytest.raises(ClosedError, match="the node n1 is closed"):
        kv.status()
    watch.close()
