"""At how many keys a transaction may look: its conditions, and its ranges with what is left."""

from __future__ import annotations

import pytest
from attrs import evolve

from raftkv.errors import OutcomeUnknownError, RequestTooLargeError
from raftkv.kv import bounds, txn
from raftkv.kv.engine import Slice
from raftkv.kv.model import (
    EVERYTHING,
    RangeResult,
    Refusal,
    Refused,
    TxnResult,
    prefix_span,
    refused,
)
from raftkv.kv.requests import (
    Compare,
    CompareResult,
    CompareTarget,
    DeleteSpan,
    Operation,
    Put,
    Range,
    SortOrder,
    SortTarget,
    Txn,
)
from tests.kv.rig import Rig, memory_rig
from tests.kv.test_bounds import Counting

BOUND = 10
A, B = prefix_span(b"a"), prefix_span(b"b")
ALL_SIX = Compare(A, CompareTarget.VERSION, CompareResult.GREATER, 0)
ALL_FIVE = evolve(ALL_SIX, keys=B)
FIRST_OF_SIX = Compare(A, CompareTarget.VERSION, CompareResult.EQUAL, 0)
VALUES_OF_FIVE = Compare(B, CompareTarget.VALUE, CompareResult.GREATER, b"")


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Six keys with the prefix ``a``, five with ``b``."""
    monkeypatch.setattr(bounds, "LOOKED_KEYS_MAX", BOUND)
    rig = memory_rig()
    rig.apply([Put(b"a%d" % number, b"v") for number in range(6)])
    rig.apply([Put(b"b%d" % number, b"v") for number in range(5)])
    return rig


def why(rig: Rig, asked: Txn) -> Refusal | None:
    """None if it was done and told."""
    (result,) = rig.apply([asked])
    return result.why if isinstance(result, Refused) else None


@pytest.mark.parametrize(
    ("asked", "looks"),
    [
        (Txn(when=(ALL_SIX,)), 6),
        (Txn(when=(ALL_SIX, ALL_FIVE)), 11),
        (Txn(when=(ALL_SIX, FIRST_OF_SIX, ALL_FIVE)), 7),
        (Txn(when=(FIRST_OF_SIX, ALL_SIX)), 1),
        (Txn(when=(ALL_FIVE, VALUES_OF_FIVE)), 10),
        (Txn(when=(ALL_SIX,), then=(Txn(when=(ALL_FIVE,)),)), 11),
        (Txn(when=(ALL_SIX,), otherwise=(Txn(when=(ALL_FIVE,)),)), 6),
        (Txn(when=(ALL_SIX, *[evolve(ALL_SIX, keys=b"b0")] * 9)), 6),
    ],
)
def test_conditions_look_as_far_as_the_bound(
    rig: Rig, asked: Txn, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts = evolve(asked, then=(*asked.then, Put(b"c", b"")))
    before = rig.rows()
    for bound in (looks - 1, looks):
        monkeypatch.setattr(bounds, "LOOKED_KEYS_MAX", bound)
        assert rig.rows() == before
        assert why(rig, puts) is (Refusal.TOO_LARGE if bound < looks else None)


def test_a_value_that_is_compared_counts_for_its_length(rig: Rig) -> None:
    rig.apply([Put(b"b0", b"v" * 5 * 1024)])
    assert why(rig, Txn(when=(VALUES_OF_FIVE,))) is None
    rig.apply([Put(b"b0", b"v" * 6 * 1024)])
    assert why(rig, Txn(when=(VALUES_OF_FIVE,))) is Refusal.TOO_LARGE
    assert why(rig, Txn(when=(ALL_FIVE, ALL_FIVE))) is None


def test_the_value_of_a_single_key_counts_as_those_of_a_span_do(rig: Rig) -> None:
    rig.apply([Put(b"b0", b"v" * 5 * 1024)])
    one = evolve(VALUES_OF_FIVE, keys=b"b0")
    assert why(rig, Txn(when=(one, one))) is None
    assert why(rig, Txn(when=(one, one, one))) is Refusal.TOO_LARGE
    made = Compare(b"b0", CompareTarget.VERSION, CompareResult.GREATER, 0)
    assert why(rig, Txn(when=(made,) * 100)) is None


RANGES = (
    Range(A),
    Range(A, limit=1),
    Range(A, count_only=True),
    Range(A, mod_revision_min=100),
    Range(A, limit=1, order=SortOrder.DESCEND, target=SortTarget.VALUE),
)


@pytest.mark.parametrize("wanted", RANGES)
def test_a_range_looks_at_all_of_its_span_whatever_it_gives(rig: Rig, wanted: Range) -> None:
    fits: tuple[Operation, ...] = (wanted, Range(prefix_span(b"b1")), Range(prefix_span(b"b2")))
    assert why(rig, Txn(then=fits)) is None
    assert why(rig, Txn(then=(wanted, Range(B)))) is Refusal.RESULT_NOT_KEPT
    assert why(rig, Txn(then=(Txn(then=(wanted,)), Range(B)))) is Refusal.RESULT_NOT_KEPT
    assert why(rig, Txn(when=(ALL_FIVE,), then=(wanted,))) is Refusal.RESULT_NOT_KEPT
    past = evolve(wanted, revision=6)
    assert why(rig, Txn(then=(past, Range(B)))) is Refusal.RESULT_NOT_KEPT


def test_values_that_a_range_reads_count_for_their_length(rig: Rig) -> None:
    greatest = Range(B, limit=1, order=SortOrder.DESCEND, target=SortTarget.VALUE)
    rig.apply([Put(b"b4", b"v" * 5 * 1024)])
    assert why(rig, Txn(then=(greatest,))) is None
    rig.apply([Put(b"b4", b"v" * 6 * 1024)])
    assert why(rig, Txn(then=(greatest,))) is Refusal.RESULT_NOT_KEPT
    assert why(rig, Txn(then=(evolve(greatest, target=SortTarget.MOD, keys_only=True),))) is None


def test_what_was_not_told_was_done_and_what_was_refused_was_not(rig: Rig) -> None:
    far = Range(EVERYTHING, limit=1)
    (result,) = rig.apply([Txn(then=(Put(b"c", b""), far))])
    assert isinstance(result, Refused)
    assert isinstance(refused(result), OutcomeUnknownError)
    assert rig.range(prefix_span(b"c")).count == 1
    (result,) = rig.apply([Txn(when=(ALL_SIX, ALL_FIVE), then=(DeleteSpan(EVERYTHING),))])
    assert isinstance(result, Refused)
    assert isinstance(refused(result), RequestTooLargeError)
    assert rig.range(EVERYTHING).count == 12


def test_no_more_is_looked_at_than_a_step_beyond_the_bound(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(txn, "_STEP_KEYS", 3)
    rig.apply([Put(b"d%04d" % number, b"") for number in range(300)])
    everything = evolve(ALL_SIX, keys=EVERYTHING)
    for asked, looked in (
        (Txn(when=(everything, everything)), BOUND + 1),
        (Txn(then=(Range(EVERYTHING, count_only=True),) * 2), 4 * 3),
    ):
        reader = Counting(rig.store)
        assert isinstance(txn.apply_txn(Slice(reader, rig.machine.head), asked), Refused)
        assert reader.looked == looked


def test_looks_count_for_what_an_entry_may_hold(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "HELD_BYTES_MAX", 128 * BOUND)
    for asked in (
        Txn(when=(ALL_SIX,)),
        Txn(when=(ALL_SIX, ALL_FIVE)),
        Txn(then=(Range(A, count_only=True),)),
    ):
        writes = Slice(rig.store, rig.machine.head)
        txn.apply_txn(writes, asked)
        assert 128 * 6 <= writes.held <= 128 * 11
    monkeypatch.setattr(bounds, "REVISION_KEYS_MAX", 5)
    writes = Slice(rig.store, rig.machine.head)
    assert isinstance(txn.apply_delete(writes, DeleteSpan(A)), Refused)
    assert writes.held == 128 * 5


def test_within_the_bound_everything_is_told(rig: Rig) -> None:
    (result,) = rig.apply([Txn(when=(FIRST_OF_SIX,), otherwise=(Range(A), Range(A, limit=1)))])
    assert isinstance(result, Refused)
    (result,) = rig.apply([Txn(when=(FIRST_OF_SIX,), otherwise=(Range(A),))])
    assert isinstance(result, TxnResult)
    assert isinstance(result.results[0], RangeResult)
    assert result.results[0].count == 6
