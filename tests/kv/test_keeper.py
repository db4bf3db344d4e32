"""The keeper alone: what it proposes and answers, when what happens out of turn."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import cast

import anyio
import pytest

from raftkv.errors import OutcomeUnknownError, UnavailableError
from raftkv.kv import bounds, rows
from raftkv.kv.client import Replica, keeper
from raftkv.kv.client.asking import UNKNOWN, Question, decode_answer, encode_question
from raftkv.kv.client.keeper import EXPIRE_LEASES, Keeper
from raftkv.kv.leases import Granted, read_lease, read_table
from raftkv.kv.requests import Checkpoint, Expire, Grant, KvCommand, Put, Revoke, TakeOver
from raftkv.kv.settings import KvSettings
from raftkv.testing.nodes import run_virtual
from tests.kv.lone import LoneMember, at_once, nothing
from tests.kv.rig import MACHINE

GRACE = 1  # an election timeout of the default settings


class Member(LoneMember):
    """With a keeper."""

    def __init__(self) -> None:
        super().__init__()
        self.keeper = Keeper(cast("Replica", self), self.rig.machine, KvSettings())

    async def renew(self, lease: int) -> int:
        """The seconds it has then; UNKNOWN if there is none."""
        kind = Question.KEEP_ALIVE
        return decode_answer(kind, await self.keeper.answer(encode_question(kind, lease)))[0]


def kept(story: Callable[[Member], Coroutine[object, object, None]]) -> None:
    """Play a story beside a keeper at work."""

    async def main() -> None:
        member = Member()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(member.keeper.run)
            await story(member)
            tasks.cancel_scope.cancel()
        member.rig.close()

    run_virtual(main)


def test_a_leader_takes_over_once_in_a_term_and_others_donothing() -> None:
    async def story(member: Member) -> None:
        member.grant(1, 5)
        await member.sleep(20)
        assert member.proposed == []
        with pytest.raises(UnavailableError):
            await member.renew(1)
        member.leading = 3
        await member.sleep(1)
        assert member.proposed == [TakeOver(3)]
        assert await member.renew(1) == 5
        member.leading = 0
        await member.sleep(1)
        with pytest.raises(UnavailableError):
            await member.renew(1)
        member.leading = 4
        await member.sleep(5.8)
        checkpoints = [Checkpoint(4, ((1, left),), 1) for left in (3, 1)]
        assert member.proposed == [TakeOver(3), TakeOver(4), *checkpoints]
        await member.sleep(GRACE)
        assert member.proposed[4:] == [Expire(4, (1,), 1)]
        assert member.leases == []

    kept(story)


def test_a_take_over_that_fails_is_tried_again_and_what_is_granted_meanwhile_is_kept() -> None:
    async def story(member: Member) -> None:
        failures = [UnavailableError("no quorum"), OutcomeUnknownError("perhaps")]

        async def fail(command: KvCommand) -> None:
            if isinstance(command, TakeOver):
                member.grant(len(failures) + 1, 5)
                with pytest.raises(UnavailableError, match="not loaded"):
                    await member.renew(len(failures) + 1)
                if failures:
                    raise failures.pop()

        member.before = fail
        member.leading = 2
        await member.sleep(1)
        assert member.of(TakeOver) == [TakeOver(2)] * 3
        assert member.leases == [1, 2, 3]
        await member.sleep(6)
        assert member.leases == []

    kept(story)


def test_a_checkpoint_of_the_keeper_before_is_taken_back_though_its_lease_was_heard_of() -> None:
    """A leader that is behind applies a grant, and a checkpoint of it, after it was elected."""

    async def story(member: Member) -> None:
        async def late(command: KvCommand) -> None:
            if isinstance(command, TakeOver):
                member.grant(1, 60)
                member.rig.apply([Checkpoint(0, ((1, 5),))])

        member.before = late
        member.leading = 3
        await member.sleep(1)
        assert await member.renew(1) == 60
        found = read_lease(member.rig.store, 1)
        assert found is not None
        assert found.left == 60

    kept(story)


def test_an_end_that_fails_is_proposed_again_andnothing_is_renewed_until_it_is_decided() -> None:
    async def story(member: Member) -> None:
        member.leading = 2
        member.grant(1, 5)
        failures = 3

        async def fail(command: KvCommand) -> None:
            nonlocal failures
            if isinstance(command, Expire) and failures:
                failures -= 1
                with pytest.raises(UnavailableError, match="being decided"):
                    await member.renew(1)
                raise OutcomeUnknownError("perhaps")

        member.before = fail
        await member.sleep(7)
        assert member.of(Expire) == [Expire(2, (1,), 1)] * 4
        assert await member.renew(1) == UNKNOWN

    kept(story)


def test_a_lease_granted_under_the_id_of_one_that_is_up_lives() -> None:
    async def story(member: Member) -> None:
        member.leading = 2
        member.grant(1, 5)

        async def again(command: KvCommand) -> None:
            if isinstance(command, Expire) and command.since == 1:
                member.rig.apply([Revoke(1), Grant(1, 60)])
            if isinstance(command, Checkpoint) and command.since == 2:
                member.rig.apply([Revoke(1), Grant(1, 50)])

        member.before = again
        await member.sleep(7)
        assert member.of(Expire) == [Expire(2, (1,), 1)]
        assert read_lease(member.rig.store, 1) == Granted(1, 60, 0, 2)
        await member.sleep(30)
        assert read_lease(member.rig.store, 1) == Granted(1, 50, 0, 3)
        assert await member.renew(1) == 50
        await member.sleep(49)
        assert member.leases == [1]
        await member.sleep(2)
        assert member.leases == []

    kept(story)


def test_a_checkpoint_is_taken_back_before_a_renewal_is_acknowledged() -> None:
    async def story(member: Member) -> None:
        member.leading = 2
        member.grant(1, 20)
        await member.sleep(11)
        assert read_lease(member.rig.store, 1) == Granted(1, 20, 10, 1)
        assert await member.renew(1) == 20
        assert read_lease(member.rig.store, 1) == Granted(1, 20, 0, 1)
        assert await member.renew(1) == 20
        assert len(member.of(Checkpoint)) == 2
        await member.sleep(11)

        async def fail(_command: KvCommand) -> None:
            raise OutcomeUnknownError("perhaps")

        member.before = fail
        with pytest.raises(OutcomeUnknownError):
            await member.renew(1)
        member.before = at_once
        assert await member.renew(1) == 20

    kept(story)


def test_a_renewal_during_a_checkpoint_takes_back_that_one_too() -> None:
    async def story(member: Member) -> None:
        member.leading = 2
        member.grant(1, 20)
        renewing = False

        async def meanwhile(command: KvCommand) -> None:
            nonlocal renewing
            if isinstance(command, Checkpoint) and command.remaining[0][1] and not renewing:
                renewing = True
                tasks.start_soon(member.renew, 1)
                await member.sleep(0.01)

        async with anyio.create_task_group() as tasks:
            member.before = meanwhile
            await member.sleep(10.5)
        assert renewing
        assert [one.remaining for one in member.of(Checkpoint) if isinstance(one, Checkpoint)] == [
            ((1, 10),),
            ((1, 0),),
        ]
        assert read_lease(member.rig.store, 1) == Granted(1, 20, 0, 1)

    kept(story)


def test_a_lease_that_was_revoked_is_not_there_whatever_the_keeper_remembers() -> None:
    async def story(member: Member) -> None:
        member.leading = 2
        member.grant(1, 5)
        member.grant(2, 5)
        await member.sleep(1)

        async def revoke() -> None:
            member.rig.apply([Revoke(1)])

        member.on_read = revoke
        assert await member.renew(1) == UNKNOWN
        member.on_read = nothing
        await member.sleep(6)
        assert member.of(Expire) == [Expire(2, (2,), 2)]
        assert read_table(member.rig.store).count == 0

    kept(story)


def test_who_lost_the_lead_while_it_asked_does_not_answer() -> None:
    async def story(member: Member) -> None:
        member.leading = 2
        member.grant(1, 5)
        await member.sleep(1)

        async def deposed() -> None:
            member.leading = 0

        async def again() -> None:
            member.leading = 4

        for happens in (deposed, again):
            member.leading = 2
            await member.sleep(1)
            member.on_read = happens
            with pytest.raises(UnavailableError, match="does not keep"):
                await member.renew(1)
            member.on_read = nothing

    kept(story)


def test_ends_are_proposed_in_bounded_commands() -> None:
    async def story(member: Member) -> None:
        many = 3 * EXPIRE_LEASES + 1
        member.rig.apply([Grant(lease, 5) for lease in range(1, many + 1)])
        member.leading = 2
        times: list[int] = []

        async def note(command: KvCommand) -> None:
            if isinstance(command, Expire):
                times.append(member.clock.monotonic_ns())

        member.before = note
        await member.sleep(10)
        assert times[-1] - times[0] < member.settings.tick_ns
        sizes = [len(one.leases) for one in member.of(Expire) if isinstance(one, Expire)]
        assert sum(sizes) == many
        assert max(sizes) == EXPIRE_LEASES
        assert member.leases == []

    kept(story)


def test_a_lease_with_many_keys_ends_by_a_command_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeper, "EXPIRE_KEYS", 10)

    async def story(member: Member) -> None:
        member.rig.apply([Grant(lease, 5) for lease in (1, 2, 3, 4)])
        counts = {1: 4, 2: 20, 3: 5, 4: 5}
        for lease, count in counts.items():
            member.rig.apply([Put(b"%d-%d" % (lease, n), b"", lease) for n in range(count)])
        member.leading = 2
        await member.sleep(10)
        ended = [one.leases for one in member.of(Expire) if isinstance(one, Expire)]
        assert ended == [(1,), (2,), (3, 4)]

    kept(story)


def test_leases_that_got_keys_on_the_way_to_their_end_are_left_for_another_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounds, "REVISION_KEYS_MAX", 10)

    async def story(member: Member) -> None:
        member.rig.apply([Grant(lease, 5) for lease in (1, 2, 3)])
        for lease, count in {1: 4, 2: 5, 3: 1}.items():
            member.rig.apply([Put(b"%d-%d" % (lease, n), b"", lease) for n in range(count)])

        async def meanwhile(command: KvCommand) -> None:
            if command == Expire(2, (1, 2, 3), 3):
                member.rig.apply([Put(b"new", b"", 1), Put(b"newer", b"", 1)])

        member.before = meanwhile
        member.leading = 2
        await member.sleep(10)
        ended = [one.leases for one in member.of(Expire) if isinstance(one, Expire)]
        assert ended == [(1, 2, 3), (2, 3)]
        assert member.leases == []

    kept(story)


def test_what_is_not_understood_is_answered_bynothing() -> None:
    async def story(member: Member) -> None:
        member.leading = 2
        await member.sleep(1)
        assert await member.keeper.answer(b"of a newer version") == b""
        for lease in (-1, 0, 7, 2**63 - 1):
            assert await member.renew(lease) == UNKNOWN

    kept(story)


def test_a_keeper_hears_of_leases_in_whatever_term() -> None:
    # Which grants it knew of is told with each decision: none may be missed while others lead.
    member_told: list[Sequence[int]] = []

    async def story(member: Member) -> None:
        member.rig.apply([Grant(1, 5), Revoke(1), Grant(2, 5)])
        member.leading = 2
        await member.sleep(10)
        member_told.append([one.since for one in member.of(Expire) if isinstance(one, Expire)])

    kept(story)
    assert member_told == [[2]]


def test_a_lease_whose_row_is_still_on_its_way_when_all_are_loaded_is_kept() -> None:
    async def story(member: Member) -> None:
        member.rig.apply([Grant(1, 60)])  # so that there is a table
        machine = member.rig.machine

        async def hears(command: KvCommand) -> None:
            if isinstance(command, TakeOver):
                machine.on_leases([(9, 5, 2)])

        member.before = hears
        member.leading = 2
        await member.sleep(1)
        other = LoneMember()
        other.rig.apply([Grant(1, 60), Grant(9, 5)])
        batch = member.rig.store.batch()
        batch.put(MACHINE, rows.lease_key(9), other.rig.rows()[rows.lease_key(9)])
        member.rig.store.write(batch)
        other.rig.close()
        await member.sleep(6)
        assert [one.leases for one in member.of(Expire) if isinstance(one, Expire)] == [(9,)]

    kept(story)
