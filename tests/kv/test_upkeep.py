"""The client's upkeep: compaction, hashes, alarms and the quota, as callers see them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

import pytest
from anyio import create_task_group
from anyio.lowlevel import checkpoint

from raftkv.errors import (
    CompactedError,
    DeadlineError,
    Error,
    FutureRevisionError,
    InvalidArgumentError,
    InvariantError,
    NoLeaderError,
    NoSpaceError,
    OutcomeUnknownError,
)
from raftkv.kv import rows
from raftkv.kv.alarms import KvAlarm
from raftkv.kv.client import Kv, op
from raftkv.kv.client.upkeep import STEP_ROWS, KvStatus
from raftkv.kv.commands import encode
from raftkv.kv.hashing import read_hash
from raftkv.kv.model import CompactResult, KvHash, KvResult, PutResult
from raftkv.kv.requests import AlarmKind, Compact, KvCommand, Put, SetAlarm, Sweep
from raftkv.kv.settings import KvSettings
from raftkv.kv.sizes import PUT_BYTES, measure
from raftkv.storage.base import Space
from tests.kv.rig import memory_rig
from tests.kv.test_client import AloneReplica

MINE = KvAlarm(AlarmKind.NO_SPACE, 1)


class Faulty(AloneReplica):
    """Raises ``errors`` one after the other instead of proposing; None proposes."""

    errors: tuple[Error | None, ...] = ()

    async def propose(self, command: bytes, *, timeout: float = 5.0) -> KvResult:
        error, *rest = self.errors or (None,)
        self.errors = tuple(rest)
        if error is not None:
            raise error
        return await super().propose(command, timeout=timeout)


class Bench:
    """A Kv alone, with a small quota."""

    def __init__(self, quota_bytes: int = 10_000) -> None:
        self.rig = memory_rig()
        self.node = Faulty(self.rig)
        settings = KvSettings(sessions=False, quota_bytes=quota_bytes, sweep_events=3)
        self.kv = Kv(self.node, self.rig.machine, settings)

    def proposed(self, kind: type[KvCommand]) -> list[KvCommand]:
        found = [cast("tuple[object, ...]", one)[0] for one in self.node.asked if one != "check"]
        return [one for one in found if isinstance(one, kind)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def fill(kv: Kv) -> int:
    """Put until there is no room; return how many puts there was room for."""
    for number in range(1_000):
        try:
            await kv.put(f"k{number:03d}", "v" * 100)
        except NoSpaceError:
            return number
    raise AssertionError("the quota was never reached")


# --- compaction -----------------------------------------------------------------------------------


async def test_compaction_moves_the_floor_and_leaves_the_rows_to_others(bench: Bench) -> None:
    for number in range(9):
        await bench.kv.put("k", f"{number}")
    assert await bench.kv.compact(7) == CompactResult(10, 7)
    with pytest.raises(CompactedError):
        await bench.kv.get("k", revision=6)
    assert bench.kv.status().unswept == 7
    assert bench.proposed(Sweep) == []


async def test_physical_compaction_waits_until_nothing_is_left(bench: Bench) -> None:
    for number in range(9):
        await bench.kv.put("k", f"{number}")
    assert await bench.kv.compact(10, physical=True) == CompactResult(10, 10)
    assert bench.kv.status().unswept == 0
    assert bench.proposed(Sweep) == [Sweep(3)] * 3
    assert await bench.kv.put("k", "")


async def test_what_cannot_be_compacted_is_a_typed_error(bench: Bench) -> None:
    await bench.kv.put("k", "")
    with pytest.raises(FutureRevisionError) as future:
        await bench.kv.compact(3)
    assert future.value.revision == 2
    await bench.kv.compact(2)
    with pytest.raises(CompactedError) as compacted:
        await bench.kv.compact(2)
    assert compacted.value.revision == 2


@pytest.mark.parametrize(
    "errors",
    [
        (None, DeadlineError("late")),
        (None, None, NoLeaderError("nobody")),
        (None, OutcomeUnknownError("late")),
    ],
    ids=["deadline", "no-leader", "unknown"],
)
async def test_a_sweep_that_does_not_end_does_not_deny_the_compaction(
    bench: Bench, errors: tuple[Error | None, ...]
) -> None:
    for number in range(9):
        await bench.kv.put("k", f"{number}")
    bench.node.errors = errors
    with pytest.raises(OutcomeUnknownError):
        await bench.kv.compact(10, physical=True)
    assert bench.kv.status().floor == 10


async def test_time_that_is_over_before_the_sweep_says_what_was_done(bench: Bench) -> None:
    await bench.kv.put("k", "")
    with pytest.raises(OutcomeUnknownError, match="revision 2 is compacted, but"):
        await bench.kv.compact(2, physical=True, timeout=1e-9)
    assert bench.kv.status().unswept == 2


async def test_an_answer_to_another_command_is_a_broken_invariant(bench: Bench) -> None:
    bench.node.answer = CompactResult(9, 9)
    with pytest.raises(InvariantError, match="answered with a CompactResult"):
        await bench.kv.compact(1, physical=True)
    bench.node.answer = PutResult(9)
    for call in (lambda: bench.kv.compact(1), bench.kv.disarm):
        bench.rig.apply([SetAlarm(1, AlarmKind.CORRUPT, True)])
        with pytest.raises(InvariantError, match="answered with a PutResult"):
            await call()


# --- hashes ---------------------------------------------------------------------------------------


async def test_a_hash_is_taken_in_steps_after_a_round_to_the_majority(bench: Bench) -> None:
    bench.rig.apply([Put(b"k%04d" % number, b"") for number in range(3 * STEP_ROWS)])
    assert await bench.kv.hash() == read_hash(bench.rig.store)
    assert await bench.kv.hash(5) == read_hash(bench.rig.store, 5)
    assert bench.node.asked[0] == ("read", False, 5.0)
    assert bench.node.asked.count("check") > 6
    bench.node.asked.clear()
    assert await bench.kv.hash(serializable=True) == read_hash(bench.rig.store)
    assert ("read", False, 5.0) not in bench.node.asked


@pytest.mark.parametrize("is_past", [False, True])
async def test_a_compaction_hits_a_hash_at_a_past_revision_alone(
    bench: Bench, is_past: bool
) -> None:
    count = 12 * STEP_ROWS
    bench.rig.apply([Put(b"k%04d" % number, b"") for number in range(count)])

    async def compact() -> None:
        for _ in range(4):  # amid the steps
            await checkpoint()
        bench.rig.apply([Put(b"k", b""), Compact(count + 2)])

    seen: list[KvHash | CompactedError] = []
    async with create_task_group() as tasks:
        tasks.start_soon(compact)
        try:
            seen.append(await bench.kv.hash(count + 1 if is_past else 0))
        except CompactedError as error:
            seen.append(error)
    if is_past:
        assert isinstance(seen[0], CompactedError)
    else:
        assert seen == [read_hash(bench.rig.store)]


async def test_a_hash_that_takes_too_long_says_so(bench: Bench) -> None:
    bench.rig.apply([Put(b"k%04d" % number, b"") for number in range(2 * STEP_ROWS)])
    with pytest.raises(DeadlineError, match="not hashed"):
        await bench.kv.hash(timeout=1e-9)


# --- quota and alarms -----------------------------------------------------------------------------


async def test_at_the_quota_what_takes_room_is_refused_and_the_alarm_raised(bench: Bench) -> None:
    puts = await fill(bench.kv)
    size = puts * (PUT_BYTES + 8 + 100)
    status = bench.kv.status()
    assert status == KvStatus(puts + 1, 0, size, 10_000, 0, (MINE,))
    assert size == measure(bench.rig.store)
    assert 10_000 - 300 < size < 10_000
    asked = len(bench.node.asked)
    with pytest.raises(NoSpaceError, match="mvcc: database space exceeded"):
        await bench.kv.put("x", "v" * 100)
    with pytest.raises(NoSpaceError):
        await bench.kv.txn(otherwise=[op.put("x", "v" * 100)])
    assert len(bench.node.asked) == asked  # neither proposed nor raised once more
    assert (await bench.kv.range()).count == puts
    assert (await bench.kv.txn(then=[op.delete("k000")])).results
    assert (await bench.kv.delete("k001")).deleted == 1


async def test_room_is_made_by_deleting_compacting_and_disarming(bench: Bench) -> None:
    await fill(bench.kv)
    deleted = await bench.kv.delete(prefix="")
    assert await bench.kv.disarm() == (MINE,)
    with pytest.raises(NoSpaceError):  # a delete alone frees nothing: history is still there
        await bench.kv.put("x", "v" * 100)
    await bench.kv.compact(deleted.revision, physical=True)
    with pytest.raises(NoSpaceError):  # there is room, but nobody has said so
        await bench.kv.put("x", "v" * 100)
    assert await bench.kv.alarms() == (MINE,)
    assert await bench.kv.disarm() == (MINE,)
    assert await bench.kv.alarms(serializable=True) == ()
    assert await bench.kv.disarm() == ()
    await bench.kv.put("x", "v" * 100)


async def test_an_alarm_of_another_member_holds_here_until_all_are_disarmed(bench: Bench) -> None:
    bench.rig.apply([SetAlarm(7, AlarmKind.NO_SPACE, True)])
    with pytest.raises(NoSpaceError):
        await bench.kv.put("x", "")
    assert await bench.kv.disarm() == (KvAlarm(AlarmKind.NO_SPACE, 7),)
    await bench.kv.put("x", "")


@pytest.mark.parametrize(
    "error", [NoLeaderError("nobody"), OutcomeUnknownError("late")], ids=["no-leader", "unknown"]
)
async def test_an_alarm_that_cannot_be_raised_now_is_raised_by_the_next(
    bench: Bench, error: Error
) -> None:
    bench.rig.apply([Put(b"k", b"v" * 10_000)])
    bench.node.errors = (error,)
    for alarms in ((), (MINE,)):
        with pytest.raises(NoSpaceError):
            await bench.kv.put("x", "")
        assert bench.kv.status().alarms == alarms


async def test_many_who_find_the_store_full_at_once_raise_one_alarm(bench: Bench) -> None:
    bench.rig.apply([Put(b"k", b"v" * 10_000)])

    async def put() -> None:
        with pytest.raises(NoSpaceError):
            await bench.kv.put("x", "")

    async with create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(put)
    assert bench.proposed(SetAlarm) == [SetAlarm(1, AlarmKind.NO_SPACE, True)]


async def test_the_quota_itself_is_not_reached() -> None:
    size_bytes = len(encode(Put(b"k", b"v")))
    await Bench(quota_bytes=size_bytes + 1).kv.put("k", "v")
    with pytest.raises(NoSpaceError):
        await Bench(quota_bytes=size_bytes).kv.put("k", "v")


async def test_without_a_quota_there_is_always_room() -> None:
    bench = Bench(quota_bytes=0)
    bench.rig.apply([Put(b"k", b"v" * 1_000_000) for _ in range(3)])
    await bench.kv.put("x", "")
    assert bench.kv.status().quota_bytes == 0


async def test_the_size_of_a_store_of_the_first_format_is_measured(bench: Bench) -> None:
    await bench.kv.put("k", "v" * 100)
    size = bench.kv.status().size_bytes
    batch = bench.rig.store.batch()
    head = bench.rig.rows()[rows.HEAD_KEY]
    batch.put(Space.MACHINE, rows.HEAD_KEY, b"\x01" + head[1:17])
    bench.rig.store.write(batch)
    bench.rig.machine.open(bench.rig.store)
    assert bench.kv.status().size_bytes == size == PUT_BYTES + 2 + 100
    await bench.kv.delete("k")
    assert bench.kv.status().size_bytes == measure(bench.rig.store)


BAD: tuple[Callable[[Kv], Awaitable[object]], ...] = (
    lambda kv: kv.compact(-1),
    lambda kv: kv.compact(True),
    lambda kv: kv.compact(cast("int", "1")),
    lambda kv: kv.compact(1, physical=cast("bool", 1)),
    lambda kv: kv.compact(1, timeout=-1),
    lambda kv: kv.hash(-1),
    lambda kv: kv.hash(serializable=cast("bool", None)),
    lambda kv: kv.hash(timeout=float("nan")),
    lambda kv: kv.alarms(timeout=-1),
)


@pytest.mark.parametrize("call", BAD, ids=range(len(BAD)))
async def test_bad_input_is_refused_and_never_proposed(
    bench: Bench, call: Callable[[Kv], Awaitable[object]]
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await call(bench.kv)
    assert not caught.value.may_have_happened
    assert bench.node.asked == []
    assert bench.proposed(Compact) == []
