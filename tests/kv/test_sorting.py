"""Order, bounds and limit of a range: what etcd 3.4 answers, in steps and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from raftkv.kv import rows
from raftkv.kv.engine import Slice
from raftkv.kv.model import EVERYTHING, KeyValue, RangeResult
from raftkv.kv.reader import RangeRead, read_head, read_range
from raftkv.kv.requests import (
    DeleteOne,
    DeleteSpan,
    KvCommand,
    Put,
    Range,
    SortOrder,
    SortTarget,
)
from raftkv.kv.sorting import RUN_ITEMS, Sorter
from raftkv.kv.txn import apply_delete, apply_put
from raftkv.storage.base import Space
from tests.kv.oracle import Oracle, apply_all, commands, lies_in, spans, without_value
from tests.kv.rig import Rig, memory_rig

RANKS: dict[SortTarget, Callable[[KeyValue], tuple[int, bytes]]] = {
    SortTarget.KEY: lambda item: (0, item.key),
    SortTarget.VERSION: lambda item: (item.version, b""),
    SortTarget.CREATE: lambda item: (item.create_revision, b""),
    SortTarget.MOD: lambda item: (item.mod_revision, b""),
    SortTarget.VALUE: lambda item: (0, item.value),
}
STEP = 64
bounds = st.one_of(st.just(0), st.just(0), st.integers(1, 15))


def answer(oracle: Oracle, wanted: Range) -> RangeResult:
    """etcd's apply, as its source has it: everything, then cut, then sorted, then cut again."""
    state = oracle.states[wanted.revision or oracle.revision]
    found = [state[key] for key in sorted(state) if lies_in(key, wanted.span)]
    count = len(found)
    if wanted.count_only:
        return RangeResult((), count, False, oracle.revision)
    is_bounded = any(
        (
            wanted.mod_revision_min,
            wanted.mod_revision_max,
            wanted.create_revision_min,
            wanted.create_revision_max,
        )
    )
    if wanted.order is SortOrder.NONE and not is_bounded and wanted.limit:
        found = found[: wanted.limit + 1]
    if wanted.mod_revision_min:
        found = [item for item in found if item.mod_revision >= wanted.mod_revision_min]
    if wanted.mod_revision_max:
        found = [item for item in found if item.mod_revision <= wanted.mod_revision_max]
    if wanted.create_revision_min:
        found = [item for item in found if item.create_revision >= wanted.create_revision_min]
    if wanted.create_revision_max:
        found = [item for item in found if item.create_revision <= wanted.create_revision_max]
    if wanted.order is not SortOrder.NONE or wanted.target is not SortTarget.KEY:
        found.sort(key=RANKS[wanted.target], reverse=wanted.order is SortOrder.DESCEND)
    more = 0 < wanted.limit < len(found)
    items = found[: wanted.limit] if wanted.limit else found
    if wanted.keys_only:
        items = [without_value(item) for item in items]
    return RangeResult(tuple(items), count, more, oracle.revision)


ranges = st.builds(
    Range,
    st.one_of(st.just(EVERYTHING), spans),
    limit=st.integers(0, 4),
    order=st.sampled_from(SortOrder),
    target=st.sampled_from(SortTarget),
    keys_only=st.booleans(),
    count_only=st.booleans(),
    mod_revision_min=bounds,
    mod_revision_max=bounds,
    create_revision_min=bounds,
    create_revision_max=bounds,
)


# Keys a to e, created in the order e to a, then changed in the order b, d, a; each asked for is
# what etcd 3.4.23 answered. Revisions: a 6 and 9, b 5 and 7, c 4 and 4, d 3 and 8, e 2 and 2.
MEASURED: list[tuple[Range, bytes, bool]] = [
    (Range(EVERYTHING, limit=2), b"ab", True),
    (Range(EVERYTHING, limit=5), b"abcde", False),
    (Range(EVERYTHING, order=SortOrder.DESCEND, limit=2), b"ed", True),
    (Range(EVERYTHING, order=SortOrder.ASCEND, limit=2), b"ab", True),
    # A target without an order takes the first limit + 1 in key order, and sorts those.
    (Range(EVERYTHING, target=SortTarget.MOD), b"ecbda", False),
    (Range(EVERYTHING, target=SortTarget.MOD, limit=1), b"b", True),
    (Range(EVERYTHING, target=SortTarget.MOD, limit=2), b"cb", True),
    (Range(EVERYTHING, target=SortTarget.MOD, limit=4), b"ecbd", True),
    (Range(EVERYTHING, target=SortTarget.MOD, limit=5), b"ecbda", False),
    (Range(EVERYTHING, target=SortTarget.MOD, order=SortOrder.DESCEND), b"adbce", False),
    (Range(EVERYTHING, 1, target=SortTarget.MOD, order=SortOrder.ASCEND), b"e", True),
    (Range(EVERYTHING, 1, target=SortTarget.CREATE, order=SortOrder.DESCEND), b"a", True),
    # Unless there are bounds: then the limit comes last.
    (Range(EVERYTHING, 1, target=SortTarget.MOD, mod_revision_max=9), b"e", True),
    (Range(EVERYTHING, 1, target=SortTarget.MOD, create_revision_min=3), b"c", True),
    (Range(EVERYTHING, 2, mod_revision_min=7), b"ab", True),
    (Range(EVERYTHING, mod_revision_min=8), b"ad", False),
    (Range(EVERYTHING, mod_revision_max=7), b"bce", False),
    (Range(EVERYTHING, create_revision_min=5), b"ab", False),
    (Range(EVERYTHING, create_revision_max=3), b"de", False),
    (Range(EVERYTHING, create_revision_min=4, mod_revision_max=7), b"bc", False),
    (Range(EVERYTHING, mod_revision_min=5, mod_revision_max=5), b"", False),
    (Range(EVERYTHING, 1, count_only=True, mod_revision_min=9), b"", False),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(MEASURED)))
def test_a_range_answers_as_it_was_measured(number: int) -> None:
    rig = memory_rig()
    rig.apply([Put(bytes((key,)), b"") for key in b"edcba"])
    rig.apply([Put(bytes((key,)), b"") for key in b"bda"])
    wanted, keys, more = MEASURED[number]
    found = read_range(rig.store, wanted)
    assert b"".join(item.key for item in found.items) == keys
    assert (found.count, found.more) == (5, more)


@given(
    st.lists(commands, max_size=15),
    st.lists(commands, max_size=10),
    st.lists(ranges, min_size=1, max_size=5),
    st.floats(0, 1),
    st.integers(1, 4),
)
def test_a_range_answers_as_etcd_does(
    before: list[KvCommand], later: list[KvCommand], asked: list[Range], at: float, step: int
) -> None:
    rig, oracle = memory_rig(), Oracle()
    rig.apply(before + later)
    apply_all(oracle, before + later)
    for wanted in asked:
        for revision in (0, round(at * oracle.revision)):
            wanted = evolve(wanted, revision=revision)
            right = answer(oracle, wanted)
            assert read_range(rig.store, wanted) == right
            hurried = read_range(rig.store, wanted, counted=False)
            count = right.count if wanted.count_only else len(right.items)
            assert hurried == evolve(right, count=count)
            read = RangeRead(wanted)
            while not read.advance(rig.store, step):
                pass
            assert read.result == right


@given(
    st.lists(commands, max_size=15),
    st.lists(commands, max_size=10),
    st.lists(ranges, min_size=1, max_size=5),
    st.floats(0, 1),
)
def test_a_slice_is_read_as_the_store_will_be(
    before: list[KvCommand], own: list[KvCommand], asked: list[Range], at: float
) -> None:
    rig, oracle = memory_rig(), Oracle()
    rig.apply(before)
    apply_all(oracle, before)
    writes = Slice(rig.store, read_head(rig.store))
    for command in own:
        if isinstance(command, Put):
            apply_put(writes, command)
        elif isinstance(command, DeleteOne | DeleteSpan):
            apply_delete(writes, command)
    apply_all(oracle, own)
    for wanted in asked:
        for revision in (0, round(at * oracle.revision)):
            wanted = evolve(wanted, revision=revision)
            assert read_range(writes, wanted) == answer(oracle, wanted)


@pytest.mark.parametrize("target", SortTarget)
@pytest.mark.parametrize("order", SortOrder)
def test_keys_only_shows_no_values_even_if_sorted_by_them(
    target: SortTarget, order: SortOrder
) -> None:
    rig = memory_rig()
    rig.apply([Put(b"a", b"2"), Put(b"b", b"1" * 2000), Put(b"c", b"3")])
    found = read_range(rig.store, Range(EVERYTHING, order=order, target=target, keys_only=True))
    assert [item.value for item in found.items] == [b""] * 3
    if target is SortTarget.VALUE:
        down = order is SortOrder.DESCEND
        assert b"".join(item.key for item in found.items) == (b"cab" if down else b"bac")


def filled(count: int) -> Rig:
    """Keys in ascending, versions and values in other orders."""
    rig = memory_rig()
    rig.apply([Put(b"k%05d" % number, b"%d" % (number * 7919 % count)) for number in range(count)])
    return rig


@pytest.mark.parametrize("limit", [0, 1, 700, 3 * RUN_ITEMS])
@pytest.mark.parametrize("order", [SortOrder.ASCEND, SortOrder.DESCEND])
def test_more_than_a_run_is_merged_to_the_same(limit: int, order: SortOrder) -> None:
    count = 5 * RUN_ITEMS + 17
    wanted = Range(EVERYTHING, limit=limit, order=order, target=SortTarget.VALUE)
    found = read_range(filled(count).store, wanted)
    down = order is SortOrder.DESCEND
    values = sorted((b"%d" % number for number in range(count)), reverse=down)
    assert [item.value for item in found.items] == values[: limit or count]
    assert (found.count, found.more) == (count, 0 < limit < count)


def test_what_ranks_equal_stays_in_key_order_both_ways_over_many_runs() -> None:
    for descending in (False, True):
        sorter = Sorter(SortTarget.VERSION, descending=descending, limit=2 * RUN_ITEMS)
        items = [KeyValue(b"%06d" % n, b"", 1, 1, n % 2) for n in range(9 * RUN_ITEMS)]
        feed(sorter, items)
        wanted = sorted(items, key=lambda item: item.version, reverse=descending)
        assert sorter.items == wanted[: 2 * RUN_ITEMS]


@pytest.mark.parametrize("limit", [1, 50, RUN_ITEMS])
def test_a_limit_bounds_what_is_held(limit: int) -> None:
    sorter = Sorter(SortTarget.MOD, descending=True, limit=limit)
    # Each is better than all before: none can be turned away.
    most = feed(sorter, [KeyValue(b"%06d" % n, b"", 1, n, 1) for n in range(20 * RUN_ITEMS)])
    assert most <= 4 * limit + STEP
    assert len(sorter.items) == limit


def test_what_cannot_be_among_the_first_is_turned_away_before_its_value_is_read() -> None:
    rig = memory_rig()
    rig.apply([Put(b"k%05d" % number, b"v" * 2000) for number in range(3 * RUN_ITEMS)])
    loaded = 0

    class Counting(Slice):
        def get(self, space: Space, key: bytes) -> bytes | None:
            nonlocal loaded
            loaded += key.startswith(rows.VALUES)
            return super().get(space, key)

    reader = Counting(rig.store, read_head(rig.store))
    wanted = Range(EVERYTHING, limit=1, order=SortOrder.ASCEND, target=SortTarget.MOD)
    read = RangeRead(wanted)
    while not read.advance(reader, STEP):
        pass
    assert [item.key for item in read.result.items] == [b"k00000"]
    assert loaded <= 4 + STEP


def test_no_step_merges_more_than_it_was_asked_to() -> None:
    count = 4 * RUN_ITEMS
    rig = filled(count)
    read = RangeRead(Range(EVERYTHING, order=SortOrder.ASCEND, target=SortTarget.VALUE))
    steps = 1
    while not read.advance(rig.store, STEP):
        steps += 1
    assert steps >= 2 * count // STEP


def feed(sorter: Sorter, items: list[KeyValue]) -> int:
    """Give the items as a range does, some a step; return how many were held at most."""
    most, rest = 0, iter(items)
    while True:
        while not sorter.settle(STEP):
            most = max(most, sorter.held)
        batch = list(islice(rest, STEP))
        for item in batch:
            if sorter.wants(item):
                sorter.add(item)
        most = max(most, sorter.held)
        if not batch:
            break
    while not sorter.finish(STEP):
        pass
    return most
