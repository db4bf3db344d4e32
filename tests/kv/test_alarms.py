"""Alarms: who raised them, until when they stand, and what is refused meanwhile."""

from __future__ import annotations

import pytest

from raftkv.errors import StorageCorruptError
from raftkv.kv.alarms import KvAlarm, read_alarms
from raftkv.kv.model import EVERYTHING, DeleteResult, Done, KvResult, Refusal, Refused
from raftkv.kv.reader import read_head, read_key
from raftkv.kv.requests import (
    AlarmKind,
    Compact,
    DeleteOne,
    DeleteSpan,
    Grant,
    KvCommand,
    Put,
    Range,
    Revoke,
    SetAlarm,
    Sweep,
    Txn,
)
from raftkv.storage.base import Space
from tests.kv.rig import Rig, memory_rig

NO_SPACE = AlarmKind.NO_SPACE
PUT = Put(b"a", b"1")


def full_rig() -> Rig:
    rig = memory_rig()
    rig.apply([Put(b"a", b"0"), Grant(7, 100), SetAlarm(1, NO_SPACE, True)])
    return rig


def is_refused(result: KvResult) -> bool:
    if not isinstance(result, Refused):
        return False
    assert result.why is Refusal.NO_SPACE
    assert result.message.startswith("mvcc: database space exceeded")
    return True


@pytest.mark.parametrize(
    "command",
    [
        PUT,
        Put(b"a", b"", previous=True),
        Put(b"a", b"1", lease=99),
        Put(b"new", b"", ignore_value=True),
        Txn(then=(PUT,)),
        Txn(otherwise=(PUT,)),
        Txn(then=(Range(EVERYTHING), DeleteOne(b"b"), PUT)),
        Txn(then=(Txn(otherwise=(PUT,)),)),
        Txn(otherwise=(Txn(then=(Txn(then=(PUT,)),)),)),
        Grant(8, 100),
    ],
)
def test_without_space_what_takes_room_is_refused_without_effect(command: KvCommand) -> None:
    rig = full_rig()
    before = rig.rows()
    (result,) = rig.apply([command])
    assert is_refused(result)
    assert rig.rows() == before


@pytest.mark.parametrize(
    "command",
    [
        DeleteOne(b"a"),
        DeleteSpan(EVERYTHING),
        Txn(then=(Range(EVERYTHING), DeleteOne(b"a"))),
        Txn(otherwise=(Txn(then=(DeleteSpan(EVERYTHING),)),)),
        Compact(2),
        Sweep(5),
        Revoke(7),
        SetAlarm(2, NO_SPACE, True),
    ],
)
def test_without_space_what_makes_room_and_what_reads_goes_on(command: KvCommand) -> None:
    rig = full_rig()
    assert not isinstance(rig.apply([command])[0], Refused)


def test_deleting_compacting_and_disarming_makes_room() -> None:
    rig = full_rig()
    results = rig.apply(
        [PUT, DeleteOne(b"a"), Compact(3), Sweep(100), PUT, SetAlarm(1, NO_SPACE, False), PUT]
    )
    assert [is_refused(result) for result in results] == [True, *[False] * 3, True, False, False]
    assert results[1] == DeleteResult(3, 1)
    found = read_key(rig.store, b"a")
    assert found is not None
    assert found.create_revision == 4


def test_an_alarm_stands_until_every_member_that_raised_it_is_disarmed() -> None:
    rig = full_rig()
    rig.apply([SetAlarm(2**64 - 1, NO_SPACE, True), SetAlarm(2**64 - 1, NO_SPACE, True)])
    assert read_alarms(rig.store) == (KvAlarm(NO_SPACE, 1), KvAlarm(NO_SPACE, 2**64 - 1))
    assert rig.apply([SetAlarm(1, NO_SPACE, False), SetAlarm(5, NO_SPACE, False)]) == [Done(2)] * 2
    assert is_refused(rig.apply([PUT])[0])
    rig.restart()
    assert is_refused(rig.apply([PUT])[0])
    rig.apply([SetAlarm(2**64 - 1, NO_SPACE, False)])
    assert read_alarms(rig.store) == ()
    assert read_head(rig.store).alarms == 0
    assert not is_refused(rig.apply([PUT])[0])


def test_a_corruption_is_kept_and_shown_and_refuses_nothing() -> None:
    rig = memory_rig()
    rig.apply([SetAlarm(3, AlarmKind.CORRUPT, True), SetAlarm(1, NO_SPACE, True)])
    assert read_alarms(rig.store) == (KvAlarm(NO_SPACE, 1), KvAlarm(AlarmKind.CORRUPT, 3))
    rig.apply([SetAlarm(1, NO_SPACE, False)])
    assert read_head(rig.store).alarms == 1 << AlarmKind.CORRUPT
    assert not isinstance(rig.apply([PUT])[0], Refused)


def test_an_alarm_holds_for_what_follows_in_the_same_slice() -> None:
    one, many = memory_rig(), memory_rig()
    commands = [PUT, SetAlarm(1, NO_SPACE, True), PUT, SetAlarm(1, NO_SPACE, False), PUT]
    results = one.apply(commands)
    assert [is_refused(result) for result in results] == [False, False, True, False, False]
    assert many.apply_slices(commands, [1]) == results
    assert one.rows() == many.rows()


@pytest.mark.parametrize("key", [b"A", b"A\x07" + bytes(8), b"A\x01" + bytes(9)])
def test_a_damaged_alarm_is_named(key: bytes) -> None:
    rig = memory_rig()
    batch = rig.store.batch()
    batch.put(Space.MACHINE, key, b"")
    rig.store.write(batch)
    with pytest.raises(StorageCorruptError, match="alarm row"):
        read_alarms(rig.store)
