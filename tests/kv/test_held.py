"""What a slice holds beside its commands: it ends early, and no entry makes it hold without end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import OutcomeUnknownError, TooManyRequestsError
from raftkv.kv import bounds
from raftkv.kv.commands import encode
from raftkv.kv.model import (
    EVERYTHING,
    DeleteResult,
    KvResult,
    PutResult,
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
    DeleteOne,
    DeleteSpan,
    Expire,
    Grant,
    KvCommand,
    Once,
    OpenSession,
    Operation,
    Put,
    Range,
    Revoke,
    TakeOver,
    Txn,
)
from raftkv.machine import Command
from tests.kv.rig import Rig, memory_rig
from tests.kv.test_retries import Script

HELD = 5_000
LONG = b"v" * 4_000  # two of them are too much
READS = Txn(then=(Range(EVERYTHING),))
KEEPER = 1


@pytest.fixture(autouse=True, scope="module")
def small_bounds() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "HELD_BYTES_MAX", HELD)
        yield


def rig_with_keys() -> Rig:
    rig = memory_rig()
    rig.apply([TakeOver(KEEPER), Grant(7, 60), Grant(8, 60), OpenSession(9, 60)])
    rig.apply([Put(b"a", LONG), Put(b"b", LONG)])
    rig.batches = 0
    return rig


def entries_of(given: Sequence[Sequence[KvCommand]]) -> list[Command]:
    """The commands of each entry."""
    return [Command(100 + n, encode(one)) for n, entry in enumerate(given) for one in entry]


def why(result: KvResult) -> Refusal | None:
    return result.why if isinstance(result, Refused) else None


def test_a_slice_that_holds_much_ends_before_the_next_entry() -> None:
    rig = rig_with_keys()
    results = rig.apply_entries(entries_of([[READS], [READS], [Put(b"c", b""), READS], [READS]]))
    assert [type(one) for one in results] == [TxnResult, TxnResult, PutResult, TxnResult, TxnResult]
    assert rig.batches == 4


@pytest.mark.parametrize(
    ("entry", "batches"),
    [
        ([Put(b"c", LONG)], 1),
        ([Put(b"a", b"", previous=True)], 2),
        ([Put(b"a", b"", previous=True, ignore_lease=True)], 2),
        ([DeleteOne(b"a", previous=True)], 2),
        ([DeleteSpan(EVERYTHING, previous=True)], 4),
        ([DeleteSpan(EVERYTHING)], 1),
        ([Txn(then=(Put(b"a", LONG, previous=True),))], 2),
    ],
)
def test_what_is_told_of_former_values_is_held(entry: list[KvCommand], batches: int) -> None:
    rig = rig_with_keys()
    restored = [Put(b"a", LONG), Put(b"b", LONG)]
    rig.apply_entries(entries_of([[*entry, *restored] for _ in range(4)]))
    assert rig.batches == batches


def test_keys_that_are_deleted_are_held() -> None:
    rig = rig_with_keys()
    keys = [[Put(b"k%d-%d" % (group, n), b"") for n in range(12)] for group in range(3)]
    rig.apply_entries(entries_of(keys))
    assert rig.batches == 1
    rig.apply_entries(entries_of([[DeleteSpan(prefix_span(b"k%d" % n))] for n in range(3)]))
    assert rig.batches == 4


def test_values_that_puts_keep_are_held() -> None:
    again = Put(b"a", b"", ignore_value=True)
    for command in (again, Txn(then=(again,))):
        rig = rig_with_keys()
        results = rig.apply_entries(entries_of([[command, command, command], [command]]))
        assert [why(one) for one in results] == [None, None, Refusal.ENTRY_FULL, None]
        assert rig.batches == 2


@pytest.mark.parametrize("end", [Put(b"k", b"", 99), Range(EVERYTHING, revision=10_000)])
def test_what_a_refused_transaction_looked_at_is_held(end: Operation) -> None:
    rig = rig_with_keys()
    rig.apply([Put(b"k%d" % n, b"") for n in range(40)])
    some = Compare(EVERYTHING, CompareTarget.VERSION, CompareResult.GREATER, 0)
    looks = Txn(when=(some,), then=(end,))
    results = rig.apply_entries(entries_of([[looks, looks]]))
    assert [why(one) is Refusal.ENTRY_FULL for one in results] == [False, True]


def test_the_keys_of_leases_that_end_are_held() -> None:
    for end in (Revoke(7), Expire(KEEPER, (7,))):
        rig = rig_with_keys()
        rig.apply([Put(b"k%d" % n, b"", 7) for n in range(12)])
        rig.batches = 0
        rig.apply_entries(entries_of([[end], [Put(b"c", b"")]]))
        assert rig.batches == 2


@pytest.mark.parametrize(
    "heavy",
    [
        Put(b"a", b"", ignore_value=True),
        READS,
        DeleteSpan(EVERYTHING),
        Put(b"a", b"", previous=True),
        Put(b"a", b"", ignore_lease=True, previous=True),
        DeleteOne(b"a", previous=True),
        Revoke(7),
        Expire(KEEPER, (7,)),
        Once(3, 0, 0, encode(READS)),
    ],
)
def test_an_entry_that_holds_much_takes_nothing_more_that_may(heavy: KvCommand) -> None:
    rig = rig_with_keys()
    one, full = rig.apply_entries(entries_of([[READS, heavy]]))
    assert why(one) is None
    assert why(full) is Refusal.ENTRY_FULL
    if not isinstance(heavy, Once):
        assert isinstance(refused(cast("Refused", full)), TooManyRequestsError)
        (done,) = rig.apply_entries(entries_of([[], [heavy]]))
        assert why(done) is None


def test_a_write_whose_entry_was_full_is_refused_for_good_under_its_sequence() -> None:
    rig = rig_with_keys()
    once = Once(3, 0, 0, encode(DeleteSpan(EVERYTHING)))
    _, full = rig.apply_entries(entries_of([[READS, once]]))
    assert why(full) is Refusal.ENTRY_FULL
    rig.restart()
    # Its client asks again under the next sequence; then an older copy of it comes.
    again = Once(3, 1, 0, encode(DeleteSpan(EVERYTHING)))
    assert rig.apply([again]) == [DeleteResult(4, 2)]
    rig.apply([Put(b"c", b"")])
    assert rig.apply([once]) == [full]
    assert rig.range(EVERYTHING).count == 1


@pytest.mark.parametrize(
    "light", [Put(b"c", LONG), DeleteOne(b"a"), Grant(10, 60), Put(b"a", b"", ignore_lease=True)]
)
def test_an_entry_that_holds_much_takes_whatever_cannot_add_to_it(light: KvCommand) -> None:
    rig = rig_with_keys()
    results = rig.apply_entries(entries_of([[READS, light, READS, light]]))
    assert [why(one) for one in results][1:3] == [None, Refusal.ENTRY_FULL]


def test_what_an_entry_holds_is_nothing_to_the_next() -> None:
    rig = rig_with_keys()
    little = Put(b"a", LONG, previous=True)
    results = rig.apply_entries(entries_of([[little], [little, little], [little, little, little]]))
    assert [why(one) for one in results] == [None] * 5 + [Refusal.ENTRY_FULL]


keys = st.sampled_from([b"a", b"b", b"c", b"d"])
commands: st.SearchStrategy[KvCommand] = st.one_of(
    st.builds(Put, keys, st.sampled_from([b"", LONG, LONG])),
    st.builds(Put, keys, st.just(LONG), st.just(7), st.booleans()),
    st.builds(DeleteOne, keys, st.booleans()),
    st.builds(DeleteSpan, st.just(EVERYTHING), st.booleans()),
    st.just(READS),
    st.just(Revoke(7)),
    st.just(Grant(7, 60)),
)


@given(st.lists(st.lists(commands, min_size=1, max_size=4), max_size=8))
def test_neither_rows_nor_results_depend_on_where_slices_end(
    given_entries: list[list[KvCommand]],
) -> None:
    together, apart = rig_with_keys(), rig_with_keys()
    entries = entries_of(given_entries)
    results = together.apply_entries(entries)
    one_by_one: list[KvResult] = []
    for _, entry in groupby(entries, attrgetter("index")):
        one_by_one += apart.apply_entries(list(entry))
    assert results == one_by_one
    assert together.rows() == apart.rows()
    together.close()
    apart.close()


# --- the client -----------------------------------------------------------------------------------

FULL = Refused("too much beside it", Refusal.ENTRY_FULL)


async def test_a_command_that_found_its_entry_full_is_proposed_again() -> None:
    node = Script()
    assert await node.put() == PutResult(2)
    node.lines += [FULL, FULL]
    command = encode(DeleteSpan(EVERYTHING))
    assert await node.session.propose(command, 5.0) == DeleteResult(3, 1)
    assert [sequence for sequence, _, _ in node.tries()] == [0, 1, 2, 3]


async def test_a_copy_that_found_its_entry_full_is_taken_to_another_sequence() -> None:
    node = Script()
    await node.put()
    node.lines += [OutcomeUnknownError("no answer"), FULL]
    assert await node.session.propose(encode(READS), 9.0) != FULL
    assert [sequence for sequence, _, _ in node.tries()] == [0, 1, 1, 2]


async def test_a_command_whose_time_is_over_hears_that_its_entry_was_full() -> None:
    node = Script()
    await node.put()

    def late(_command: bytes) -> Refused:
        node.clock.now += 2 * 10**9
        return FULL

    node.lines += [late] * 9
    assert await node.session.propose(encode(READS), 5.0) == FULL
    assert [sequence for sequence, _, _ in node.tries()] == [0, 1, 2, 3]
    assert [round(timeout, 1) for _, _, timeout in node.tries()][1:] == [1.5, 1.5, 1.0]
