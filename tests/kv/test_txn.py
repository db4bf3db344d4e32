"""Transactions: conditions see what was, operations what they did, and a bad part undoes all."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import InvalidArgumentError
from raftkv.kv import rows
from raftkv.kv.checks import check_txn
from raftkv.kv.model import (
    EVERYTHING,
    DeleteResult,
    KeyValue,
    KvResult,
    PutResult,
    RangeResult,
    Refusal,
    Refused,
    Span,
    TxnResult,
    prefix_span,
)
from raftkv.kv.reader import read_head, read_key
from raftkv.kv.requests import (
    TXN_DEPTH_MAX,
    TXN_OPERATIONS_MAX,
    TXN_PARTS_MAX,
    Compact,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteOne,
    DeleteSpan,
    Grant,
    KvCommand,
    Operation,
    Put,
    Range,
    Revoke,
    Txn,
)
from tests.kv.model.naive import NoError, check_duplicates
from tests.kv.rig import MACHINE, Rig, memory_rig

VALUE, VERSION = CompareTarget.VALUE, CompareTarget.VERSION
CREATE, MOD, LEASE = CompareTarget.CREATE, CompareTarget.MOD, CompareTarget.LEASE
EQUAL, GREATER = CompareResult.EQUAL, CompareResult.GREATER
LESS, NOT_EQUAL = CompareResult.LESS, CompareResult.NOT_EQUAL
A_LEASE = 9
NEVER = set[CompareResult]()


def filled() -> Rig:
    """``a`` and ``b`` at revision 6, ``a`` with a lease and a past."""
    rig = memory_rig()
    rig.apply(
        [
            Grant(A_LEASE, 60),
            Put(b"a", b"0"),
            Put(b"x", b"x"),
            DeleteOne(b"x"),
            Put(b"b", b"5"),
            Put(b"a", b"1", A_LEASE),
        ]
    )
    assert read_head(rig.store).revision == 6
    return rig


def apply_one(rig: Rig, command: KvCommand) -> KvResult:
    (result,) = rig.apply([command])
    return result


def done(result: KvResult) -> TxnResult:
    assert isinstance(result, TxnResult), result
    return result


# --- conditions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "target", "has"),
    [
        (b"a", VERSION, 2),
        (b"a", CREATE, 2),
        (b"a", MOD, 6),
        (b"a", LEASE, A_LEASE),
        (b"b", LEASE, 0),
        (b"x", VERSION, 0),
        (b"x", CREATE, 0),
        (b"x", MOD, 0),
        (b"x", LEASE, 0),
        (Span(b"c", b"d"), MOD, 0),
        (Span(b"b", b"a"), CREATE, 0),
    ],
)
def test_a_number_is_compared_and_what_is_missing_has_zeros(
    keys: bytes | Span, target: CompareTarget, has: int
) -> None:
    rig = filled()
    for given_number in (-1, has - 1, has, has + 1):
        held = {
            one
            for one in CompareResult
            if done(apply_one(rig, Txn((Compare(keys, target, one, given_number),)))).succeeded
        }
        if given_number == has:
            assert held == {EQUAL}
        else:
            assert held == {NOT_EQUAL, GREATER if has > given_number else LESS}


@pytest.mark.parametrize(
    ("keys", "value", "holds"),
    [
        (b"a", b"1", {EQUAL}),
        (b"a", b"", {NOT_EQUAL, GREATER}),
        (b"a", b"12", {NOT_EQUAL, LESS}),
        (b"x", b"", NEVER),
        (b"x", b"1", NEVER),
        (Span(b"c", None), b"", NEVER),
        (EVERYTHING, b"0", {NOT_EQUAL, GREATER}),
        (EVERYTHING, b"1", NEVER),
        (EVERYTHING, b"3", {NOT_EQUAL}),
    ],
)
def test_a_value_is_compared_as_bytes_and_a_missing_one_satisfies_nothing(
    keys: bytes | Span, value: bytes, holds: set[CompareResult]
) -> None:
    rig = filled()
    found = {
        one
        for one in CompareResult
        if done(apply_one(rig, Txn((Compare(keys, VALUE, one, value),)))).succeeded
    }
    assert found == holds


def test_a_long_value_is_compared_whole() -> None:
    rig = memory_rig()
    value = b"l" * (rows.INLINE_BYTES_MAX + 1)
    results = rig.apply([Put(b"k", value), Txn((Compare(b"k", VALUE, EQUAL, value),))])
    assert done(results[1]).succeeded
    assert not done(apply_one(rig, Txn((Compare(b"k", VALUE, GREATER, value),)))).succeeded


def test_all_conditions_and_all_keys_of_a_range_must_hold() -> None:
    rig = filled()
    yes, no = Compare(b"a", VERSION, EQUAL, 2), Compare(b"b", VERSION, EQUAL, 2)
    assert done(apply_one(rig, Txn((yes, yes)))).succeeded
    assert not done(apply_one(rig, Txn((yes, no)))).succeeded
    assert not done(apply_one(rig, Txn((no, yes)))).succeeded
    assert not done(apply_one(rig, Txn((Compare(EVERYTHING, VERSION, EQUAL, 2),)))).succeeded
    assert done(apply_one(rig, Txn((Compare(EVERYTHING, VERSION, GREATER, 0),)))).succeeded


def test_conditions_see_the_store_before_the_transaction_however_deep_they_stand() -> None:
    rig = filled()
    was = Compare(b"a", VALUE, EQUAL, b"1")
    gone = Compare(b"b", VERSION, EQUAL, 0)
    result = done(
        apply_one(
            rig,
            Txn(
                (was,),
                (
                    Put(b"a", b"2"),
                    DeleteOne(b"b"),
                    Txn((was,), (Txn((gone,), (), (Put(b"seen", b"before"),)),)),
                ),
            ),
        )
    )
    assert result.succeeded
    inner = result.results[2]
    assert isinstance(inner, TxnResult)
    assert inner.succeeded
    assert inner.results == (TxnResult(7, False, (PutResult(7),)),)


# --- effects --------------------------------------------------------------------------------------


def test_operations_see_earlier_ones_at_the_next_revision() -> None:
    rig = filled()
    result = done(
        apply_one(
            rig,
            Txn(
                then=(
                    Range(EVERYTHING),
                    Put(b"c", b"new"),
                    Range(Span(b"c", None)),
                    DeleteSpan(Span(b"a", b"c"), previous=True),
                    Range(EVERYTHING, keys_only=True),
                    Put(b"d", b"", previous=True),
                    Range(EVERYTHING, count_only=True),
                )
            ),
        )
    )
    a, b = KeyValue(b"a", b"1", 2, 6, 2, A_LEASE), KeyValue(b"b", b"5", 5, 5, 1)
    c = KeyValue(b"c", b"new", 7, 7, 1)
    assert result == TxnResult(
        7,
        True,
        (
            RangeResult((a, b), 2, False, 6),
            PutResult(7),
            RangeResult((c,), 1, False, 7),
            DeleteResult(7, 2, (a, b)),
            RangeResult((evolve(c, value=b""),), 1, False, 7),
            PutResult(7),
            RangeResult((), 2, False, 7),
        ),
    )
    assert read_head(rig.store).revision == 7


def test_a_range_of_the_past_sees_nothing_of_its_own_transaction() -> None:
    rig = filled()
    past = Range(EVERYTHING, revision=6)
    earlier = Range(Span(b"a", b"b"), revision=2)
    result = done(apply_one(rig, Txn(then=(DeleteSpan(EVERYTHING), past, earlier))))
    assert result.results[1:] == (
        RangeResult(rig.range(EVERYTHING, revision=6).items, 2, False, 7),
        RangeResult((KeyValue(b"a", b"0", 2, 2, 1),), 1, False, 7),
    )


def test_a_range_of_the_past_sees_what_its_own_slice_wrote_and_ended() -> None:
    rig = memory_rig()
    results = rig.apply(
        [
            Put(b"k", b"l" * 2000),
            Put(b"k", b"2"),
            DeleteOne(b"k"),
            Txn(then=tuple(Range(EVERYTHING, revision=at) for at in (1, 2, 3, 4))),
        ]
    )
    found = [
        tuple(item.value for item in one.items)
        for one in done(results[3]).results
        if isinstance(one, RangeResult)
    ]
    assert found == [(), (b"l" * 2000,), (b"2",), ()]


def test_all_effects_share_one_revision_in_the_order_of_the_operations() -> None:
    rig = filled()
    rig.apply(
        [
            Txn(
                then=(
                    Put(b"z", b""),
                    Txn(then=(Put(b"m", b""),)),
                    DeleteSpan(EVERYTHING),
                    DeleteOne(b"z"),
                )
            )
        ]
    )
    assert read_head(rig.store).revision == 6  # z is put and deleted: refused
    rig.apply(
        [Txn(then=(Put(b"z", b""), Txn(then=(Put(b"m", b""),)), DeleteSpan(Span(b"a", b"c"))))]
    )
    row = rig.store.get(MACHINE, rows.events_key(7, 0))
    assert row is not None
    assert [(one.kind, one.key) for one in rows.decode_events(row)] == [
        (rows.PUT_EVENT, b"z"),
        (rows.PUT_EVENT, b"m"),
        (rows.DELETE_EVENT, b"a"),
        (rows.DELETE_EVENT, b"b"),
    ]


def test_what_an_inner_transaction_put_a_later_one_may_delete() -> None:
    rig = memory_rig()
    result = apply_one(
        rig, Txn(then=(Txn(then=(Put(b"k", b"v"),)), Txn(then=(DeleteOne(b"k", True),))))
    )
    assert done(result).results[1] == TxnResult(
        2, True, (DeleteResult(2, 1, (KeyValue(b"k", b"v", 2, 2, 1),)),)
    )
    assert read_head(rig.store).revision == 2
    assert read_key(rig.store, b"k") is None
    assert read_key(rig.store, b"k", 2) is None
    assert rig.range(EVERYTHING, revision=2).items == ()
    assert apply_one(rig, Put(b"k", b"again")) == PutResult(3)
    assert read_key(rig.store, b"k") == KeyValue(b"k", b"again", 3, 3, 1)


@pytest.mark.parametrize(
    "txn",
    [
        Txn(),
        Txn(then=(Range(EVERYTHING), Range(EVERYTHING, revision=3))),
        Txn(then=(DeleteOne(b"x"), DeleteSpan(prefix_span(b"x")))),
        Txn(then=(Txn(otherwise=(Put(b"not", b"taken"),)),)),
        Txn((Compare(b"x", VALUE, EQUAL, b""),), (Put(b"not", b"taken"),)),
    ],
)
def test_a_transaction_that_changes_nothing_makes_no_revision_and_no_rows(txn: Txn) -> None:
    rig = filled()
    before = rig.rows()
    assert done(apply_one(rig, txn)).revision == 6
    assert rig.rows() == before


# --- puts that keep -------------------------------------------------------------------------------


@pytest.mark.parametrize("in_a_txn", [False, True])
def test_a_put_keeps_the_value_or_the_lease_it_is_told_to(in_a_txn: bool) -> None:
    rig = filled()

    def put(wanted: Put) -> KeyValue | None:
        apply_one(rig, Txn(then=(wanted,)) if in_a_txn else wanted)
        return read_key(rig.store, b"a")

    assert put(Put(b"a", b"2", ignore_lease=True)) == KeyValue(b"a", b"2", 2, 7, 3, A_LEASE)
    assert put(Put(b"a", b"", ignore_value=True)) == KeyValue(b"a", b"2", 2, 8, 4, 0)
    assert put(Put(b"a", b"", A_LEASE, ignore_value=True)) == (
        KeyValue(b"a", b"2", 2, 9, 5, A_LEASE)
    )
    both = Put(b"a", b"", ignore_value=True, ignore_lease=True)
    assert put(both) == KeyValue(b"a", b"2", 2, 10, 6, A_LEASE)
    assert put(Put(b"a", b"l" * 2000)) == KeyValue(b"a", b"l" * 2000, 2, 11, 7, 0)
    assert put(both) == KeyValue(b"a", b"l" * 2000, 2, 12, 8, 0)


def test_a_key_that_was_attached_anew_goes_with_its_new_lease_alone() -> None:
    rig = memory_rig()
    rig.apply([Grant(1, 60), Grant(2, 60), Put(b"k", b"", 1), Put(b"k", b"", 2), Revoke(1)])
    assert read_key(rig.store, b"k") == KeyValue(b"k", b"", 2, 3, 2, 2)
    rig.apply([Put(b"other", b"", 2), Put(b"k", b""), Revoke(2)])
    assert [item.key for item in rig.range(EVERYTHING).items] == [b"k"]


@pytest.mark.parametrize("delete", [DeleteOne(b"k"), DeleteSpan(EVERYTHING)])
def test_a_key_that_was_deleted_is_attached_no_more(delete: DeleteOne | DeleteSpan) -> None:
    rig = memory_rig()
    rig.apply([Grant(1, 60), Put(b"k", b"", 1), delete, Put(b"k", b"again"), Revoke(1)])
    assert read_key(rig.store, b"k") == KeyValue(b"k", b"again", 4, 4, 1)


def test_what_a_key_was_is_given_to_who_asked_for_it() -> None:
    rig = filled()
    was = KeyValue(b"a", b"1", 2, 6, 2, A_LEASE)
    asked = done(apply_one(rig, Txn(then=(Put(b"a", b"2", previous=True),))))
    assert asked.results == (PutResult(7, was),)
    plain = (Put(b"a", b"3"), Put(b"b", b"", ignore_value=True), DeleteSpan(Span(b"x", None)))
    assert done(apply_one(rig, Txn(then=plain))).results == (
        PutResult(8),
        PutResult(8),
        DeleteResult(8, 0),
    )


# --- what is refused ------------------------------------------------------------------------------

_GOOD = (Put(b"good", b""), DeleteOne(b"a"))


@pytest.mark.parametrize(
    ("bad", "why", "revision"),
    [
        (Put(b"k", b"", lease=7), Refusal.LEASE_NOT_FOUND, 0),
        (Put(b"k", b"", ignore_value=True), Refusal.KEY_NOT_FOUND, 0),
        (Put(b"k", b"v", ignore_lease=True), Refusal.KEY_NOT_FOUND, 0),
        (Put(b"k", b"", 7, ignore_value=True), Refusal.KEY_NOT_FOUND, 0),
        (Range(EVERYTHING, revision=7), Refusal.FUTURE_REVISION, 6),
        (Range(EVERYTHING, revision=3), Refusal.COMPACTED, 4),
        (Put(b"k", b"v", ignore_value=True), Refusal.INVALID, 0),
        (Put(b"b", b"", 7, ignore_lease=True), Refusal.INVALID, 0),
        (Put(b"a", b""), Refusal.INVALID, 0),
        (Put(b"good", b""), Refusal.INVALID, 0),
        (DeleteSpan(prefix_span(b"g")), Refusal.INVALID, 0),
        (Put(b"k" * 65_537, b""), Refusal.INVALID, 0),
    ],
)
@pytest.mark.parametrize("depth", [0, 2])
def test_one_bad_part_leaves_all_undone(
    bad: Operation, why: Refusal, revision: int, depth: int
) -> None:
    rig = filled()
    rig.apply([Compact(4)])
    before = rig.rows()
    for _ in range(depth):
        bad = Txn(then=(bad,))
    result = apply_one(rig, Txn(then=(*_GOOD, bad)))
    assert isinstance(result, Refused)
    assert (result.why, result.revision) == (why, revision)
    assert rig.rows() == before


def test_alone_a_put_misses_its_lease_before_its_key() -> None:
    # The other way round than in a transaction: as etcd.
    result = apply_one(filled(), Put(b"k", b"", 7, ignore_value=True))
    assert isinstance(result, Refused)
    assert result.why is Refusal.LEASE_NOT_FOUND


@pytest.mark.parametrize(
    "put", [Put(b"a", b"v", ignore_value=True), Put(b"a", b"v", A_LEASE, ignore_lease=True)]
)
def test_alone_too_a_put_may_not_give_what_it_ignores(put: Put) -> None:
    rig = filled()
    result = apply_one(rig, put)
    assert isinstance(result, Refused)
    assert result.why is Refusal.INVALID
    assert "is provided" in result.message
    assert read_head(rig.store).revision == 6


def test_what_only_the_store_can_refuse_is_not_refused_in_the_branch_not_taken() -> None:
    rig = filled()
    bad = (
        Put(b"k", b"", lease=7),
        Put(b"m", b"", ignore_value=True),
        Range(EVERYTHING, revision=70),
    )
    assert done(apply_one(rig, Txn(then=_GOOD, otherwise=bad))).revision == 7


@pytest.mark.parametrize(
    "branch",
    [
        (Put(b"k", b"1"), Put(b"k", b"2")),
        (Put(b"k", b"1"), DeleteOne(b"k")),
        (DeleteSpan(prefix_span(b"k")), Put(b"kk", b"")),
        (Txn(then=(Put(b"k", b""),)), Put(b"k", b"")),
        (Put(b"k", b""), Txn(otherwise=(DeleteOne(b"k"),))),
        (DeleteOne(b"k"), Txn(otherwise=(Put(b"k", b""),))),
        (Txn(then=(DeleteOne(b"k"),)), Txn(then=(Put(b"k", b""),))),
        (Txn(then=(Put(b"k", b""),)), Txn(otherwise=(Put(b"k", b""),))),
        (DeleteSpan(Span(b"a", b"c")), DeleteSpan(Span(b"b", None)), Put(b"x", b"")),
        (DeleteSpan(Span(b"a", b"z")), DeleteSpan(Span(b"b", b"c")), Put(b"x", b"")),
        (DeleteSpan(EVERYTHING), DeleteSpan(Span(b"b", b"c")), Put(b"x", b"")),
        (DeleteOne(b"a"), Txn(then=(Put(b"b", b""), DeleteOne(b"k"))), Put(b"k", b"")),
        (DeleteSpan(Span(b"b", b"c")), DeleteSpan(Span(b"a", b"b")), Put(b"bb", b"")),
    ],
)
def test_a_key_that_would_change_twice_is_refused_in_either_branch(
    branch: tuple[Operation, ...],
) -> None:
    rig = memory_rig()
    for txn in (Txn(then=branch), Txn(otherwise=branch), Txn(then=(Txn(otherwise=branch),))):
        result = apply_one(rig, txn)
        assert isinstance(result, Refused)
        assert "duplicate key given in txn request" in result.message
    assert rig.rows() == {}


def test_branches_that_exclude_each_other_may_put_the_same_key_and_deletes_may_overlap() -> None:
    either = Txn(then=(Put(b"k", b""),), otherwise=(Put(b"k", b""),))
    check_txn(either)
    check_txn(Txn(then=(either,), otherwise=(DeleteOne(b"k"),)))
    check_txn(Txn(then=(DeleteSpan(EVERYTHING), DeleteOne(b"k"), Txn(then=(DeleteOne(b"k"),)))))
    check_txn(Txn(then=(DeleteSpan(Span(b"z", b"a")), Put(b"k", b""))))


some_keys = st.sampled_from([b"a", b"b", b"bb", b"c"])
leaves: st.SearchStrategy[Operation] = st.one_of(
    some_keys.map(lambda key: Put(key, b"")),
    some_keys.map(lambda key: Put(key, b"")),
    some_keys.map(DeleteOne),
    st.builds(Span, some_keys, st.none() | some_keys).map(DeleteSpan),
)


def _txns(inner: st.SearchStrategy[Operation]) -> st.SearchStrategy[Txn]:
    branch = st.lists(inner, max_size=3).map(tuple)
    return st.tuples(branch, branch).map(lambda both: Txn((), *both))


@given(_txns(st.recursive(leaves, _txns, max_leaves=4)))
def test_colliding_keys_are_found_as_by_comparing_each_with_each(txn: Txn) -> None:
    try:
        check_duplicates(txn.then)
        check_duplicates(txn.otherwise)
    except NoError:
        with pytest.raises(InvalidArgumentError, match="duplicate key given in txn request"):
            check_txn(txn)
        return
    check_txn(txn)


@pytest.mark.parametrize(("target", "given_one"), [(VALUE, 1), (VERSION, b"1")])
def test_a_value_is_no_number_and_a_number_no_value(
    target: CompareTarget, given_one: int | bytes
) -> None:
    compare = Compare(b"k", target, EQUAL, given_one)
    for txn in (Txn((compare,)), Txn(then=(Txn((compare,)),))):
        with pytest.raises(InvalidArgumentError, match="cannot be compared with"):
            check_txn(txn)


def test_a_condition_needs_a_key_that_can_be() -> None:
    for key in (b"", b"k" * 65_537):
        with pytest.raises(InvalidArgumentError, match="key is"):
            check_txn(Txn((Compare(key, VERSION, EQUAL, 0),)))


def _puts(count: int) -> tuple[Operation, ...]:
    return tuple(Put(b"%d" % number, b"") for number in range(count))


def test_operations_are_counted_down_into_transactions_inside() -> None:
    limit = TXN_OPERATIONS_MAX
    compare = Compare(b"k", VERSION, EQUAL, 0)
    for good in (Txn((compare,) * limit, _puts(limit), _puts(limit)),):
        check_txn(good)
    inner = Txn(then=_puts(limit - 1))
    check_txn(Txn(then=(inner,)))
    for bad in (
        Txn((compare,) * (limit + 1)),
        Txn(then=_puts(limit + 1)),
        Txn(otherwise=_puts(limit + 1)),
        Txn(then=(Txn(otherwise=_puts(limit)),)),
        Txn((compare, compare), (inner,)),
    ):
        with pytest.raises(InvalidArgumentError, match="too many operations in txn request"):
            check_txn(bad)


@pytest.mark.parametrize("more", [0, 1])
def test_all_parts_of_a_transaction_together_are_bounded(more: int) -> None:
    def inner(number: int, count: int) -> Txn:
        mine = tuple(Put(b"%d/%d" % (number, one), b"") for one in range(count - 1))
        return Txn((Compare(b"k", VERSION, EQUAL, 0),), mine[::2], mine[1::2])

    transactions = (TXN_PARTS_MAX - 30) // 33
    rest = TXN_PARTS_MAX - 34 * transactions
    parts = (*(inner(number, 33) for number in range(transactions)), *_puts(rest + more))
    txn = Txn(then=parts)
    rig = memory_rig()
    result = apply_one(rig, txn)
    if not more:
        check_txn(txn)
        assert done(result).revision == 2
        return
    assert isinstance(result, Refused)
    assert "too many operations in txn request: more than" in result.message
    with pytest.raises(InvalidArgumentError, match="too many operations in txn request: 1025"):
        check_txn(txn)


def test_transactions_are_nested_so_deep_and_no_deeper() -> None:
    txn = Txn(then=(Put(b"k", b"v"),))
    for _ in range(TXN_DEPTH_MAX - 1):
        txn = Txn(then=(txn,))
    rig = memory_rig()
    assert done(apply_one(rig, txn)).revision == 2
    with pytest.raises(InvalidArgumentError, match="too many levels"):
        check_txn(Txn(then=(txn,)))
    assert isinstance(apply_one(rig, Txn(then=(txn,))), Refused)
