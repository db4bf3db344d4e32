"""Operations and conditions as applications write them: what they make, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from raftkv.errors import InvalidArgumentError
from raftkv.kv.client import op, when
from raftkv.kv.model import EVERYTHING, LeaseResult, Span, prefix_span
from raftkv.kv.requests import (
    Compare,
    CompareResult,
    CompareTarget,
    DeleteOne,
    DeleteSpan,
    Operation,
    Put,
    Range,
    SortOrder,
    SortTarget,
    Txn,
)

LEASE = LeaseResult(7, 10, 1)
VALUE, VERSION = CompareTarget.VALUE, CompareTarget.VERSION
CREATE, MOD = CompareTarget.CREATE, CompareTarget.MOD
EQUAL, GREATER = CompareResult.EQUAL, CompareResult.GREATER
LESS, NOT_EQUAL = CompareResult.LESS, CompareResult.NOT_EQUAL


def given(value: object) -> str:
    """Something of a type that the signatures do not allow."""
    return cast("str", value)


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (op.put("k", "v"), Put(b"k", b"v")),
        (op.put(b"k", b"", lease=7, previous=True), Put(b"k", b"", 7, True)),
        (op.put("k", "v", lease=LEASE), Put(b"k", b"v", 7)),
        (op.put("k", ignore_value=True), Put(b"k", b"", ignore_value=True)),
        (op.put("k", "v", ignore_lease=True), Put(b"k", b"v", ignore_lease=True)),
        (op.delete("k"), DeleteOne(b"k")),
        (op.delete("k", previous=True), DeleteOne(b"k", True)),
        (op.delete(prefix="k"), DeleteSpan(prefix_span(b"k"))),
        (op.delete(prefix=""), DeleteSpan(EVERYTHING)),
        (op.delete(start="a", stop="b"), DeleteSpan(Span(b"a", b"b"))),
        (op.get("k"), op.Get(Span(b"k", b"k\0"))),
        (op.get("k", revision=3), op.Get(Span(b"k", b"k\0"), revision=3)),
        (op.range(), Range(EVERYTHING)),
        (op.range("a", "b", limit=3, revision=4), Range(Span(b"a", b"b"), 3, 4)),
        (
            op.range(
                prefix="a",
                order=SortOrder.DESCEND,
                sort_by=SortTarget.MOD,
                keys_only=True,
                count_only=True,
                min_mod_revision=1,
                max_mod_revision=2,
                min_create_revision=3,
                max_create_revision=4,
            ),
            Range(
                prefix_span(b"a"),
                0,
                0,
                SortOrder.DESCEND,
                SortTarget.MOD,
                True,
                True,
                1,
                2,
                3,
                4,
            ),
        ),
        (
            op.txn(when=[when.absent("k")], then=[op.put("k", "")], otherwise=iter([op.get("k")])),
            Txn((Compare(b"k", CREATE, EQUAL, 0),), (Put(b"k", b""),), (op.get("k"),)),
        ),
        (op.txn(), Txn()),
    ],
)
def test_operations_say_what_they_are_told(made: Operation, wanted: Operation) -> None:
    assert made == wanted


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (when.value("k") == "v", Compare(b"k", VALUE, EQUAL, b"v")),
        (when.value("k") != b"v", Compare(b"k", VALUE, NOT_EQUAL, b"v")),
        (when.value("k") < "v", Compare(b"k", VALUE, LESS, b"v")),
        (when.value("k") > "v", Compare(b"k", VALUE, GREATER, b"v")),
        (when.version("k") == 1, Compare(b"k", VERSION, EQUAL, 1)),
        (when.version("k") != 1, Compare(b"k", VERSION, NOT_EQUAL, 1)),
        (when.version("k") < 1, Compare(b"k", VERSION, LESS, 1)),
        (when.version("k") > -1, Compare(b"k", VERSION, GREATER, -1)),
        (when.version("k") > 1, Compare(b"k", VERSION, GREATER, 1)),
        (when.create_revision("k") == 2**63 - 1, Compare(b"k", CREATE, EQUAL, 2**63 - 1)),
        (when.mod_revision(prefix="k") < 9, Compare(prefix_span(b"k"), MOD, LESS, 9)),
        (when.lease("k") == LEASE, Compare(b"k", CompareTarget.LEASE, EQUAL, 7)),
        (when.lease("k") != 0, Compare(b"k", CompareTarget.LEASE, NOT_EQUAL, 0)),
        (when.lease("k") < 8, Compare(b"k", CompareTarget.LEASE, LESS, 8)),
        (when.lease("k") > 8, Compare(b"k", CompareTarget.LEASE, GREATER, 8)),
        (when.exists("k"), Compare(b"k", CREATE, GREATER, 0)),
        (when.absent("k"), Compare(b"k", CREATE, EQUAL, 0)),
        (when.exists(prefix=""), Compare(EVERYTHING, CREATE, GREATER, 0)),
        (when.absent(start="a", stop="b"), Compare(Span(b"a", b"b"), CREATE, EQUAL, 0)),
    ],
)
def test_conditions_say_what_they_compare(made: Compare, wanted: Compare) -> None:
    assert made == wanted


def test_a_value_may_stand_on_the_left() -> None:
    assert (when.value("k") == b"v") == (when.value("k") == b"v")
    assert (when.version("k") == 1) == (when.version("k") == 1)


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: op.put("", "v"), "key is not provided"),
    (lambda: op.put("k" * 65_537, "v"), "too large"),
    (lambda: op.put("k"), "value must be str or bytes"),
    (lambda: op.put("k", given(1)), "value must be str or bytes"),
    (lambda: op.put("k", "v", lease=-1), "lease must be"),
    (lambda: op.put("k", "v", previous=cast("bool", 1)), "previous must be True or False"),
    (lambda: op.put("k", "v", ignore_value=True), "value is provided"),
    (lambda: op.put("k", "v", lease=7, ignore_lease=True), "lease is provided"),
    (lambda: op.delete(), "key is not provided"),
    (lambda: op.delete("k", prefix="k"), "not several of them"),
    (lambda: op.get(""), "key is not provided"),
    (lambda: op.get("k", revision=-1), "revision must not be negative"),
    (lambda: op.range("a", prefix="b"), "prefix says all"),
    (lambda: op.range(limit=-1), "limit must not be negative"),
    (lambda: op.range(order=cast("SortOrder", 1)), "invalid sort option"),
    (lambda: op.range(sort_by=cast("SortTarget", "mod")), "invalid sort option"),
    (lambda: op.txn(when=cast("list[Compare]", [True])), "when takes conditions"),
    (lambda: op.txn(when=cast("list[Compare]", when.absent("k"))), "when takes a list"),
    (lambda: op.txn(then=cast("list[Operation]", [when.absent("k")])), "then takes operations"),
    (lambda: op.txn(otherwise=cast("list[Operation]", 3)), "otherwise takes a list"),
    (lambda: when.value("k") == given(None), "a value must be str or bytes"),
    (lambda: when.version("k") == True, "compared with an int"),  # noqa: E712
    (lambda: when.version("k") == 2**63, "compared with an int"),
    (lambda: when.mod_revision("k") < cast("int", "9"), "mod is compared with an int"),
    (lambda: when.lease("k") == -1, "lease must be"),
    (lambda: when.version(), "key is not provided"),
    (lambda: when.version("k", prefix="k"), "not several of them"),
    (lambda: when.version(""), "key is not provided"),
]


@pytest.mark.parametrize(("make", "what"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_meant_is_refused_where_it_is_written(
    make: Callable[[], object], what: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=what):
        make()


def test_a_condition_is_not_true_or_false_so_none_is_lost() -> None:
    one, other = when.version("k") > 1, when.version("k") < 5
    for lose in (
        lambda: one and other,
        lambda: one or other,
        lambda: not one,  # pyright: ignore[reportGeneralTypeIssues] - as it shall
        lambda: 1 < when.version("k") < 5,
    ):
        with pytest.raises(InvalidArgumentError, match="no truth before the store decides"):
            lose()


@pytest.mark.parametrize("subject", [when.value("k"), when.version("k"), when.lease("k")])
def test_what_is_compared_has_no_hash_and_no_other_comparison(subject: object) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(subject)
    for compare in ("__le__", "__ge__"):
        assert getattr(type(subject), compare) is getattr(object, compare)
