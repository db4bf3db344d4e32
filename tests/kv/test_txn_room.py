"""What the ranges of a transaction may find together: no command may fill a member's memory."""

from __future__ import annotations

import pytest

from raftkv.errors import OutcomeUnknownError
from raftkv.kv import bounds
from raftkv.kv.commands import encode
from raftkv.kv.model import EVERYTHING, RangeResult, Refusal, Refused, TxnResult, refused
from raftkv.kv.requests import Once, OpenSession, Put, Range, SortOrder, SortTarget, Txn
from tests.kv.rig import Rig, memory_rig

KEYS = 100
ROOM_BYTES = 50_000  # a range of everything takes a little more than half of it
ALL = Range(EVERYTHING)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(bounds, "RESULT_BYTES_MAX", ROOM_BYTES)
    rig = memory_rig()
    rig.apply([Put(b"%04d" % number, b"") for number in range(KEYS)])
    return rig


def ranges_of(rig: Rig, *ranges: Range | Txn) -> list[int] | Refusal:
    (result,) = rig.apply([Txn(then=ranges)])
    if isinstance(result, Refused):
        return result.why
    assert isinstance(result, TxnResult)
    return [len(one.items) for one in result.results if isinstance(one, RangeResult)]


def test_what_fits_is_told_and_what_does_not_is_not(rig: Rig) -> None:
    assert ranges_of(rig, ALL) == [KEYS]
    assert ranges_of(rig, ALL, ALL) is Refusal.RESULT_NOT_KEPT
    assert ranges_of(rig, ALL, Txn(then=(ALL,))) is Refusal.RESULT_NOT_KEPT
    rig.apply([Put(b"large", bytes(ROOM_BYTES))])
    assert ranges_of(rig, ALL) is Refusal.RESULT_NOT_KEPT


def test_counts_and_limits_take_what_they_give(rig: Rig) -> None:
    assert ranges_of(rig, *[Range(EVERYTHING, count_only=True)] * 128) == [0] * 128
    assert ranges_of(rig, *[Range(EVERYTHING, limit=1)] * 128) == [1] * 128
    newest = Range(EVERYTHING, limit=1, order=SortOrder.DESCEND, target=SortTarget.MOD)
    assert ranges_of(rig, *[newest] * 128) == [1] * 128


def test_a_transaction_that_found_too_much_is_done_once_and_says_so(rig: Rig) -> None:
    rig.apply([OpenSession(7, 60)])
    once = Once(1, 0, 0, encode(Txn(then=(Put(b"done", b""), ALL, ALL))))
    (result,) = rig.apply([once])
    assert isinstance(result, Refused)
    assert (result.why, result.revision) == (Refusal.RESULT_NOT_KEPT, KEYS + 2)
    assert isinstance(refused(result), OutcomeUnknownError)
    assert rig.apply([once]) == [result]
    found = rig.range(EVERYTHING)
    assert (found.count, found.revision) == (KEYS + 1, KEYS + 2)
