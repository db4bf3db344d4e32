"""What the leader does for the store by itself: it compacts, and sweeps behind it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import cast

import anyio
import pytest

from raftkv.errors import UnavailableError
from raftkv.kv.client import Replica
from raftkv.kv.client.chores import Chores
from raftkv.kv.compaction import unswept
from raftkv.kv.reader import read_head
from raftkv.kv.requests import Compact, KvCommand, Put, Sweep
from raftkv.kv.settings import KvSettings
from raftkv.testing.nodes import run_virtual
from tests.kv.lone import SECOND, LoneMember, at_once

Story = Callable[[LoneMember], Coroutine[object, object, None]]


def done(story: Story, settings: KvSettings) -> None:
    """Play a story beside the chores."""

    async def main() -> None:
        member = LoneMember()
        chores = Chores(cast("Replica", member), member.rig.machine, settings)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(chores.run)
            await story(member)
            tasks.cancel_scope.cancel()
        member.rig.close()

    run_virtual(main)


def _put(member: LoneMember, count: int) -> None:
    member.rig.apply([Put(b"k%d" % (number % 3), b"v") for number in range(count)])


def _floor(member: LoneMember) -> int:
    return read_head(member.rig.store).floor


def test_who_does_not_lead_has_no_chores() -> None:
    async def story(member: LoneMember) -> None:
        _put(member, 100)
        member.rig.apply([Compact(50)])
        await member.sleep(5)
        assert member.proposed == []
        member.leading = 2
        await member.sleep(5)
        assert _floor(member) == 91
        assert unswept(member.rig.store) == 0
        member.leading = 0
        member.rig.apply([Compact(95)])
        await member.sleep(5)
        assert unswept(member.rig.store) > 0

    done(story, KvSettings(history_revisions=10))


def test_as_many_revisions_are_kept_as_were_asked_for_and_a_tenth_more_at_most() -> None:
    async def story(member: LoneMember) -> None:
        member.leading = 2
        for _ in range(250):
            _put(member, 1)
            await member.sleep(1.5)
            head = read_head(member.rig.store)
            kept = head.revision - head.floor
            assert kept == head.revision or kept >= 100
            assert kept <= 110
        assert len(member.of(Compact)) <= 25

    done(story, KvSettings(history_revisions=100))


def test_without_a_history_nothing_is_compacted() -> None:
    async def story(member: LoneMember) -> None:
        member.leading = 2
        _put(member, 1_000)
        await member.sleep(60)
        assert member.proposed == []

    done(story, KvSettings())


def test_what_was_current_so_long_ago_is_kept_and_what_is_much_older_is_not() -> None:
    async def story(member: LoneMember) -> None:
        member.leading = 2
        began = member.clock.monotonic_ns()
        written: list[tuple[float, int]] = []
        for second in range(180):
            _put(member, 1)
            written.append(
                (
                    (member.clock.monotonic_ns() - began) / SECOND,
                    read_head(member.rig.store).revision,
                )
            )
            await member.sleep(1)
            now = second + 1
            floor = _floor(member)
            needed = [revision for at, revision in written if at <= now - 60]
            assert floor <= max(needed, default=0)
            old = [revision for at, revision in written if at <= now - 60 - 8]
            assert floor >= max(old, default=0)
        assert _floor(member) > 100
        assert unswept(member.rig.store) == 0

    done(story, KvSettings(history_seconds=60))


def test_a_new_leader_does_not_know_what_was_current_long_ago() -> None:
    async def story(member: LoneMember) -> None:
        for term in range(1, 10):
            member.leading = term
            _put(member, 1)
            await member.sleep(50)
        assert _floor(member) == 0
        await member.sleep(20)
        assert _floor(member) > 0

    done(story, KvSettings(history_seconds=60))


def test_a_sweep_goes_on_to_its_end_and_leaves_time_for_others() -> None:
    async def story(member: LoneMember) -> None:
        member.leading = 2
        _put(member, 500)
        took = 0.2

        async def slowly(command: KvCommand) -> None:
            if isinstance(command, Sweep):
                await member.sleep(took)

        member.before = slowly
        member.rig.apply([Compact(500)])
        began = member.clock.monotonic_ns()
        while unswept(member.rig.store):
            await member.sleep(0.01)
        sweeps = len(member.of(Sweep))
        assert sweeps >= 5
        seconds = (member.clock.monotonic_ns() - began) / SECOND
        assert (2 * sweeps - 1) * took <= seconds <= 2 * sweeps * took + 0.6
        await member.sleep(5)
        assert len(member.of(Sweep)) == sweeps

    done(story, KvSettings(sweep_events=100))


@pytest.mark.parametrize("failing", [Compact, Sweep])
def test_what_fails_is_tried_again(failing: type[KvCommand]) -> None:
    async def story(member: LoneMember) -> None:
        member.leading = 2
        _put(member, 100)

        async def fail(command: KvCommand) -> None:
            if isinstance(command, failing):
                raise UnavailableError("no quorum")

        member.before = fail
        await member.sleep(1)
        member.before = at_once
        await member.sleep(1)
        assert _floor(member) > 80
        assert unswept(member.rig.store) == 0

    done(story, KvSettings(history_revisions=10))
