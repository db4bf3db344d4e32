"""``kv.watch``: what is refused, how a watch begins and ends, and how its readers wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import anyio
import pytest
from anyio.lowlevel import checkpoint

from raftkv.errors import (
    ClosedError,
    CompactedError,
    Error,
    InvalidArgumentError,
    NodeStoppedError,
    NoLeaderError,
    TooManyRequestsError,
    UnavailableError,
    UsageError,
)
from raftkv.kv.client.base import Replica
from raftkv.kv.client.hub import Hub
from raftkv.kv.client.watching import TAKEN_MAX, Watch, Watching
from raftkv.kv.commands import encode
from raftkv.kv.model import Change, KvResult
from raftkv.kv.requests import Compact, DeleteOne, KvCommand, Put, Sweep
from raftkv.kv.settings import KvSettings
from raftkv.node.audience import Audience
from raftkv.node.settings import Settings
from raftkv.runtime.base import Runtime
from raftkv.runtime.system import system_runtime
from raftkv.testing.nodes import run_virtual
from tests.kv.rig import memory_rig


class AloneNode:
    """A node of one member without delay, which can be told to fail."""

    def __init__(self, settings: KvSettings | None = None) -> None:
        self.rig = memory_rig()
        self.audiences: list[Audience] = []
        self.refusal: Error | None = None
        self.reads = 0
        self.during_read: Callable[[], Awaitable[None]] = checkpoint
        self.runtime: Runtime = system_runtime()
        self.settings = Settings()
        self.kv = Watching(cast("Replica", self), self.rig.machine, settings)

    def tell(self, audience: Audience) -> None:
        self.audiences.append(audience)

    async def propose(self, command: bytes, *, timeout: float = 5.0) -> KvResult:
        await checkpoint()
        (result,) = self.rig.apply_bytes([command])
        for audience in self.audiences:
            audience.rows_written()
        return result

    async def read(self, *, lease: bool = False, timeout: float = 5.0) -> int:
        self.reads += 1
        await self.during_read()
        self.check()
        return 1

    def check(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    async def do(self, *commands: KvCommand) -> None:
        for command in commands:
            await self.propose(encode(command))

    async def put(self, *keys: str) -> None:
        await self.do(*(Put(key.encode(), b"v") for key in keys))

    def end(self, why: Error) -> None:
        self.refusal = why
        for audience in self.audiences:
            audience.ended()


@pytest.fixture
def node() -> AloneNode:
    return AloneNode()


async def take(changes: AsyncIterator[Change], count: int) -> list[int]:
    return [(await anext(changes)).revision for _ in range(count)]


# --- what may be asked ----------------------------------------------------------------------------


REFUSED: dict[str, Callable[[Watching], Watch]] = {
    "a negative start": lambda kv: kv.watch("a", start=-1),
    "a start that is no int": lambda kv: kv.watch("a", start=True),
    "an empty key": lambda kv: kv.watch(""),
    "a key that is none": lambda kv: kv.watch(cast("str", 7)),
    "an empty range": lambda kv: kv.watch("b", "a"),
    "a range of nothing": lambda kv: kv.watch("b", "b"),
    "an empty stop": lambda kv: kv.watch("b", ""),
    "key and prefix": lambda kv: kv.watch("b", prefix="b"),
    "prefix and stop": lambda kv: kv.watch(prefix="b", stop="\0"),
    "no events": lambda kv: kv.watch("a", puts=False, deletes=False),
    "a flag that is none": lambda kv: kv.watch("a", previous=cast("bool", 1)),
    "no time": lambda kv: kv.watch("a", progress_seconds=0),
    "a nan": lambda kv: kv.watch("a", progress_seconds=float("nan")),
    "a negative timeout": lambda kv: kv.watch("a", timeout=-1),
}


@pytest.mark.parametrize("ask", REFUSED.values(), ids=REFUSED)
async def test_what_cannot_be_watched_is_refused_at_once(
    node: AloneNode, ask: Callable[[Watching], Watch]
) -> None:
    with pytest.raises(InvalidArgumentError):
        ask(node.kv)


async def test_keys_are_watched_alone_as_a_range_by_prefix_to_the_end_or_all(
    node: AloneNode,
) -> None:
    await node.put("a", "ab", "b", "c")
    for watch, expected in (
        (node.kv.watch("a", start=2), [2]),
        (node.kv.watch(b"ab", "c", start=2), [3, 4]),
        (node.kv.watch(prefix="a", start=2), [2, 3]),
        (node.kv.watch("ab", "\0", start=2), [3, 4, 5]),
        (node.kv.watch(stop="b", start=2), [2, 3]),
        (node.kv.watch(start=2), [2, 3, 4, 5]),
    ):
        async with watch as changes:
            assert await take(changes, len(expected)) == expected


async def test_filters_and_previous_versions(node: AloneNode) -> None:
    await node.do(Put(b"a", b"1"), Put(b"a", b"2"), DeleteOne(b"a"))
    async with node.kv.watch("a", start=1, puts=False, previous=True) as changes:
        (event,) = (await anext(changes)).events
        assert event.previous is not None
        assert event.previous.value == b"2"
    async with node.kv.watch("a", start=1, deletes=False) as changes:
        assert await take(changes, 2) == [2, 3]


# --- beginning ------------------------------------------------------------------------------------


async def test_now_is_after_a_linearizable_read(node: AloneNode) -> None:
    await node.put("a")

    async def acknowledged_meanwhile() -> None:
        await node.put("a")

    node.during_read = acknowledged_meanwhile
    async with node.kv.watch("a") as changes:
        node.during_read = checkpoint
        assert changes.next_revision == 4
        await node.put("a")
        assert await take(changes, 1) == [4]
    assert node.reads == 1


async def test_a_watch_of_the_past_or_of_this_member_alone_asks_nobody(node: AloneNode) -> None:
    async with node.kv.watch("a", start=5), node.kv.watch("a", serializable=True) as changes:
        await node.put("a")
        assert await take(changes, 1) == [2]
    assert node.reads == 0


async def test_a_watch_that_cannot_begin_leaves_nothing(node: AloneNode) -> None:
    node.refusal = NoLeaderError("nobody leads")
    for start in (0, 3):
        with pytest.raises(NoLeaderError):
            async with node.kv.watch("a", start=start):
                pass
    node.refusal = None
    await node.put("a", "a", "a")
    await node.do(Compact(4))
    with pytest.raises(CompactedError) as caught:
        async with node.kv.watch("a", start=3):
            pass
    assert caught.value.revision == 4


async def test_too_many_watchers_are_refused() -> None:
    node = AloneNode(KvSettings(watchers_max=1))
    async with node.kv.watch("a"):
        with pytest.raises(TooManyRequestsError):
            async with node.kv.watch("b"):
                pass
    async with node.kv.watch("b"):
        pass


async def test_a_watch_is_used_inside_its_context_and_once(node: AloneNode) -> None:
    watch = node.kv.watch("a")
    for use in (watch.next, watch.progress, watch.__anext__):
        with pytest.raises(UsageError):
            await use()
    watch.close()
    async with watch:
        pass
    with pytest.raises(UsageError):
        async with watch:
            pass


# --- reading ----------------------------------------------------------------------------------


async def test_changes_come_as_they_happen_and_in_batches_where_that_is_asked_for(
    node: AloneNode,
) -> None:
    async with node.kv.watch(prefix="a") as changes, anyio.create_task_group() as tasks:
        tasks.start_soon(node.put, "a1")
        assert await take(changes, 1) == [2]  # waited for
        await node.put(*["a2"] * 70)
        assert [one.revision for one in await changes.next(3)] == [3, 4, 5]
        assert len(await changes.next()) == TAKEN_MAX
        assert changes.next_revision == 70
        with pytest.raises(InvalidArgumentError):
            await changes.next(0)


async def test_a_reader_of_a_long_history_lets_others_run(node: AloneNode) -> None:
    await node.put(*["a"] * 1_000)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    async with node.kv.watch("a", start=2) as changes, anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        assert await take(changes, 1_000) == [*range(2, 1_002)]
        tasks.cancel_scope.cancel()
    assert turns >= 1_000 // TAKEN_MAX


async def test_a_cancelled_wait_loses_nothing(node: AloneNode) -> None:
    seen: list[int] = []
    expected = [*range(2, 2 + sum(bool(number % 3) for number in range(40)))]
    async with node.kv.watch("a") as changes, anyio.create_task_group() as tasks:

        async def read(scope: anyio.CancelScope) -> None:
            with scope:
                while True:
                    seen.extend(one.revision for one in await changes.next(2))

        for number in range(40):
            scope = anyio.CancelScope()
            tasks.start_soon(read, scope)
            await anyio.wait_all_tasks_blocked()
            if number % 3:
                await node.put("a")
            if number % 4 == 0:
                scope.cancel()  # together with what woke it
            else:
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
            await anyio.wait_all_tasks_blocked()
        while len(seen) < len(expected):
            seen += [one.revision for one in await changes.next()]
    assert seen == expected
    (hub,) = node.audiences
    assert isinstance(hub, Hub)
    assert hub.bell.woken == 0  # or the readers of others would wait for ever


async def test_one_task_at_a_time_reads_a_watch(node: AloneNode) -> None:
    async with node.kv.watch("a") as changes, anyio.create_task_group() as tasks:
        tasks.start_soon(changes.next)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(UsageError, match="one task"):
            await changes.next()
        await node.put("a")


async def test_many_readers_of_the_past_take_turns(node: AloneNode) -> None:
    await node.put(*["a", "b"] * 100)
    done: list[int] = []

    async def read() -> None:
        async with node.kv.watch("b", start=2) as changes:
            done.append((await take(changes, 100))[-1])

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(read)
    assert done == [201] * 20


# --- marks --------------------------------------------------------------------------------------


async def test_a_mark_that_was_asked_for_comes_behind_everything_acknowledged(
    node: AloneNode,
) -> None:
    async with node.kv.watch("a") as changes:
        await node.put("a", "b")
        revision = await changes.progress()
        assert revision == 3
        await node.put("a")
        got = [await anext(changes) for _ in range(3)]
    assert [(one.revision, bool(one.events)) for one in got] == [(2, True), (3, False), (4, True)]


async def test_no_mark_can_be_asked_of_a_watch_that_is_over(node: AloneNode) -> None:
    async with node.kv.watch("a") as changes:
        pass
    with pytest.raises(ClosedError):
        await changes.progress()


def test_a_quiet_watch_tells_its_progress_every_so_often() -> None:
    async def main() -> list[tuple[float, int, bool]]:
        node = AloneNode()
        seen: list[tuple[float, int, bool]] = []
        async with node.kv.watch("a", progress_seconds=10) as changes:
            began = anyio.current_time()

            async def write() -> None:
                await anyio.sleep(4)
                await node.put("b")
                await anyio.sleep(11)
                await node.put("a")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write)
                for _ in range(4):
                    change = await anext(changes)
                    seen.append(
                        (anyio.current_time() - began, change.revision, bool(change.events))
                    )
        return seen

    seen = run_virtual(main)
    assert [(round(at), revision, events) for at, revision, events in seen] == [
        (10, 2, False),
        (15, 3, True),
        (25, 3, False),  # counted from what came last
        (35, 3, False),
    ]


# --- ending -----------------------------------------------------------------------------------


async def test_a_watch_that_is_closed_ends_its_reader(node: AloneNode) -> None:
    ended: list[list[Change]] = []
    async with node.kv.watch("a") as changes, anyio.create_task_group() as tasks:

        async def read() -> None:
            ended.append([change async for change in changes])

        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        changes.close()
    assert ended == [[]]
    with pytest.raises(ClosedError):
        await changes.next()


@pytest.mark.parametrize("why", [ClosedError, NodeStoppedError])
async def test_the_end_of_the_node_ends_the_watch_behind_what_was_there(
    node: AloneNode, why: type[Error]
) -> None:
    async with node.kv.watch("a") as changes, node.kv.watch("a") as quiet:
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                await take(quiet, 1)
                with pytest.raises(why):
                    await anext(quiet)

            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await node.put("a")
            await anyio.wait_all_tasks_blocked()
            node.end(why("it is over"))
        assert await take(changes, 1) == [2]
        with pytest.raises(why):
            await anext(changes)


async def test_a_reader_that_compaction_overtook_hears_it_for_ever() -> None:
    node = AloneNode(KvSettings(watch_buffer_revisions_max=1))
    async with node.kv.watch("a") as changes:
        await node.put("a", "a", "a")
        await node.do(Compact(4), Sweep(100))
        for _ in range(2):
            with pytest.raises(CompactedError) as caught:
                await anext(changes)
            assert caught.value.revision == 4
    async with node.kv.watch("a", start=4) as changes:
        assert await take(changes, 1) == [4]


async def test_a_member_that_recovers_goes_on_showing_what_it_has(node: AloneNode) -> None:
    await node.put("a", "a")
    async with node.kv.watch("a", start=2) as changes:
        node.refusal = UnavailableError("this member recovers")
        assert await take(changes, 2) == [2, 3]
