"""The checker by revisions: it accepts what one store answers and refuses everything else."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv import InvalidArgumentError
from raftkv.testing.histories.kv import (
    Compare,
    DeleteOne,
    DeleteResult,
    DeleteSpan,
    Get,
    KeyValue,
    KvOperation,
    KvRequest,
    KvResponse,
    Put,
    PutResult,
    Range,
    RangeResult,
    Relation,
    Revoke,
    Span,
    Target,
    Txn,
    TxnResult,
    Written,
    written_in,
)
from raftkv.testing.histories.operations import Operation, Outcome
from raftkv.testing.histories.reference import ReferenceKv
from raftkv.testing.histories.revisions import check_revisions
from raftkv.testing.histories.verdict import (
    InconclusiveError,
    Judgement,
    NotLinearizableError,
    Verdict,
)
from tests.histories.corpus import KEYS, recorded
from tests.kv.oracle import Oracle, commands
from tests.kv.rig import memory_rig

ALL = Span(b"", None)


def ok(start: int, stop: int, request: KvRequest, response: KvResponse) -> KvOperation:
    return Operation(f"c{start}", start, stop, request, response)


def unknown(start: int, request: KvRequest) -> KvOperation:
    return Operation(f"c{start}", start, None, request, None, Outcome.UNKNOWN)


def failed(start: int, stop: int, request: KvRequest) -> KvOperation:
    return Operation(f"c{start}", start, stop, request, None, Outcome.FAILED)


A1, A2 = KeyValue(b"a", b"1", 2, 2, 1), KeyValue(b"a", b"2", 2, 3, 2)
B3 = KeyValue(b"b", b"3", 4, 4, 1)
PUT_A1 = ok(10, 20, Put(b"a", b"1"), PutResult(2))
PUT_A2 = ok(30, 40, Put(b"a", b"2"), PutResult(3))
PUT_B3 = ok(50, 60, Put(b"b", b"3"), PutResult(4))
DELETE_A = ok(70, 80, DeleteOne(b"a"), DeleteResult(5, 1))
MOVE = Txn((Compare(b"b", Target.VALUE, Relation.EQUAL, b"3"),), (DeleteOne(b"b"), Put(b"c", b"3")))
MOVED = TxnResult(6, True, (DeleteResult(6, 1), PutResult(6)))
MOVE_B = ok(90, 100, MOVE, MOVED)
WRITES = (PUT_A1, PUT_A2, PUT_B3, DELETE_A, MOVE_B)
LOG = (
    Written(2, b"a", b"1"),
    Written(3, b"a", b"2"),
    Written(4, b"b", b"3"),
    Written(5, b"a", None),
    Written(6, b"b", None),
    Written(6, b"c", b"3"),
)


def but(*replaced: tuple[KvOperation, KvOperation]) -> tuple[KvOperation, ...]:
    by = {id(old): new for old, new in replaced}
    return tuple(by.get(id(one), one) for one in WRITES)


def late(request: KvRequest, response: KvResponse) -> tuple[KvOperation, ...]:
    return (*WRITES, ok(110, 120, request, response))


def at(moment: int, request: KvRequest, response: KvResponse) -> tuple[KvOperation, ...]:
    return (*WRITES, ok(moment, moment + 3, request, response))


C6 = KeyValue(b"c", b"3", 6, 6, 1)
ILLEGAL: dict[str, tuple[Sequence[KvOperation], str]] = {
    "stale get": (at(45, Get(b"a"), A1), "stale read"),
    "stale range": (at(45, Range(ALL), RangeResult((A1,), 1, False, 2)), "stale read"),
    "get that misses a put": (at(45, Get(b"a"), None), "back in time"),
    "get that misses what was never deleted": (
        late(Get(b"c"), None),
        "stale read: it is as of revision 5, but 6 was known",
    ),
    "get that misses a deletion": (at(85, Get(b"a"), A2), "stale read"),
    "reads in a row go back": (
        (*WRITES, ok(32, 34, Get(b"a"), A2), ok(36, 38, Get(b"a"), A1)),
        "stale read",
    ),
    "lost update": (at(65, Get(b"a"), KeyValue(b"a", b"1", 2, 2, 1)), "stale read"),
    "update lost from the versions": (
        at(45, Get(b"a"), KeyValue(b"a", b"2", 3, 3, 1)),
        "wrong answer",
    ),
    "duplicate apply": (at(65, Get(b"a"), KeyValue(b"a", b"2", 2, 4, 3)), "wrong answer"),
    "swapped revisions": (
        but(
            (PUT_A1, evolve(PUT_A1, response=PutResult(3))),
            (PUT_A2, evolve(PUT_A2, response=PutResult(2))),
        ),
        "back in time",
    ),
    "two writes at one revision": (but((PUT_B3, evolve(PUT_B3, response=PutResult(3)))), "two"),
    "write at the first revision": (but((PUT_A1, evolve(PUT_A1, response=PutResult(1)))), "begin"),
    "gap": ((PUT_A1, PUT_B3), "nobody asked"),
    "aborted read": (
        (PUT_A1, failed(30, 40, Put(b"a", b"2")), ok(50, 51, Get(b"a"), A2)),
        "surely failed",
    ),
    "read of a value that nobody put": (
        at(45, Get(b"a"), KeyValue(b"a", b"9", 2, 3, 2)),
        "wrong answer",
    ),
    "read from the future": (
        (*WRITES, ok(5, 9, Get(b"a"), A1)),
        "back in time",
    ),
    "write before it was asked for": (
        but((PUT_A1, evolve(PUT_A1, call_at=41, return_at=42))),
        "back in time",
    ),
    "split transaction": (
        at(95, Range(ALL), RangeResult((KeyValue(b"b", b"3", 4, 4, 1), C6), 2, False, 6)),
        "wrong answer",
    ),
    "half a transaction": (at(95, Range(ALL), RangeResult((), 0, False, 6)), "wrong answer"),
    "condition misjudged": (
        but((MOVE_B, evolve(MOVE_B, response=TxnResult(6, False, ())))),
        "nobody asked|should have|wrong answer",
    ),
    "transaction that should have written": (
        (*WRITES[:4], ok(90, 100, MOVE, TxnResult(5, True, ()))),
        "changed something",
    ),
    "lost delete": (
        (*WRITES, ok(85, 86, Range(Span(b"a", b"b")), RangeResult((A2,), 1, False, 5))),
        "wrong answer",
    ),
    "delete that found nothing": (at(65, DeleteOne(b"a"), DeleteResult(4, 0)), "changed something"),
    "delete of what is not there": (
        (*WRITES, ok(110, 120, DeleteOne(b"x"), DeleteResult(7, 1))),
        "wrong answer",
    ),
    "wrong previous": (
        but((PUT_A2, ok(30, 40, Put(b"a", b"2", previous=True), PutResult(3)))),
        "wrong answer",
    ),
    "range that misses a key": (at(61, Range(ALL), RangeResult((A2,), 1, False, 4)), "wrong"),
    "range out of order": (at(61, Range(ALL), RangeResult((B3, A2), 2, False, 4)), "wrong"),
    "wrong count": (at(61, Range(ALL), RangeResult((A2, B3), 3, False, 4)), "wrong"),
    "wrong more": (at(61, Range(ALL, limit=1), RangeResult((A2,), 2, False, 4)), "wrong"),
    "keys with values": (
        at(61, Range(ALL, keys_only=True), RangeResult((A2, B3), 2, False, 4)),
        "wrong",
    ),
    "wrong past": (late(Get(b"a", revision=2), A2), "wrong answer"),
    "wrong past of a range": (
        late(Range(ALL, revision=2), RangeResult((), 0, False, 6)),
        "wrong answer",
    ),
    "the past of tomorrow": (
        late(Range(ALL, revision=9), RangeResult((C6,), 1, False, 6)),
        "yet to be",
    ),
    "serializable, and never so": (
        late(Range(ALL, serializable=True), RangeResult((A1, B3), 2, False, 4)),
        "wrong answer",
    ),
    "serializable, from the future": (
        (*WRITES, ok(1, 2, Range(ALL, serializable=True), RangeResult((A1,), 1, False, 2))),
        "before that was asked for",
    ),
    "serializable get from the future": (
        (*WRITES, ok(1, 2, Get(b"a", serializable=True), A1)),
        "before that was asked for",
    ),
    "revision zero": (late(Range(ALL), RangeResult((), 0, False, 0)), "the first is 1"),
    "an answer to something else": (late(Get(b"a"), PutResult(7)), "wrong kind"),
}
WRONG_LOGS: dict[str, tuple[Sequence[KvOperation], Sequence[Written], str]] = {
    "acknowledged write is lost at the end": (WRITES, LOG[:4], "log ends at 5"),
    "acknowledged write is another": (WRITES, (*LOG[:2], Written(4, b"b", b"4"), *LOG[3:]), "lost"),
    "half a transaction": (WRITES, LOG[:5], "lost"),
    "write that nobody asked for": (WRITES, (*LOG, Written(7, b"x", b"x")), "nobody asked"),
    "deletion that nobody asked for": (WRITES, (*LOG, Written(7, b"c", None)), "nobody asked"),
    "failed write": (
        (*WRITES, failed(110, 120, Put(b"x", b"x"))),
        (*LOG, Written(7, b"x", b"x")),
        "surely failed",
    ),
    "unknown write twice": (
        (*WRITES, unknown(110, Put(b"x", b"x"))),
        (*LOG, Written(7, b"x", b"x"), Written(8, b"x", b"x")),
        "done before",
    ),
    "unknown write before it was asked for": (
        (unknown(45, Put(b"a", b"1")), *WRITES[1:]),
        LOG,
        "back in time",
    ),
    "revision missing": (WRITES, (*LOG[:2], *LOG[3:]), "missing"),
    "revisions that begin too late": (WRITES, LOG[1:], "missing"),
    "read beyond the log": (
        (*WRITES, ok(110, 120, Range(ALL), RangeResult((C6,), 1, False, 7))),
        LOG,
        "log ends",
    ),
}


def verdict_of(operations: Sequence[KvOperation], log: Sequence[Written] | None) -> Verdict:
    verdict = check_revisions(operations, log)
    assert verdict.judgement is Judgement.WRONG, verdict
    with pytest.raises(NotLinearizableError) as raised:
        verdict.check()
    assert str(raised.value) == str(verdict)
    return verdict


@pytest.mark.parametrize("name", ILLEGAL)
@pytest.mark.parametrize("has_log", [False, True])
def test_a_wrong_history_is_refused(name: str, has_log: bool) -> None:
    operations, what = ILLEGAL[name]
    if has_log:
        # With the log other sentences may come first; the judgement stays.
        verdict_of(operations, LOG)
        return
    verdict = verdict_of(operations, None)
    assert _has(verdict.what, what), verdict


def _has(text: str, words: str) -> bool:
    return any(word in text for word in words.split("|"))


@pytest.mark.parametrize("name", WRONG_LOGS)
def test_a_history_that_is_not_that_of_the_log_is_refused(name: str) -> None:
    operations, log, what = WRONG_LOGS[name]
    assert what in verdict_of(operations, log).what


def test_the_writes_that_all_wrong_histories_are_made_of_are_right() -> None:
    for log in (None, LOG):
        verdict = check_revisions(WRITES, log).check()
        assert verdict.facts["acknowledged writes"] == 5
        assert verdict.facts["revisions"] == 6


def test_a_refusal_shows_the_operations_that_contradict_each_other() -> None:
    stale = ok(45, 48, Get(b"a"), A1)
    verdict = check_revisions([*WRITES, stale])
    assert verdict.operations == (PUT_A2, stale)
    assert "Get(key=b'a'" in str(verdict)
    assert "as of revision 2, but 3 was known" in str(verdict)


@pytest.mark.parametrize("seed", range(60))
def test_what_one_store_answers_is_accepted(seed: int) -> None:
    random = Random(seed)
    made = recorded(random, 120, overlap=random.choice((0, 9, 40, 300)))
    verdict = check_revisions(made.operations, made.log).check()
    assert verdict.facts["operations"] == 120
    assert check_revisions(made.operations).judgement is not Judgement.WRONG


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 200))
def test_a_late_copy_of_an_early_answer_is_refused(random: Random, choice: int) -> None:
    made = recorded(random, 60, kinds="PPPDR", unknown=0.0, failed=0.0)
    reads = [one for one in made.operations if isinstance(one.response, RangeResult)]
    if not reads or not made.log:
        return
    one = reads[choice % len(reads)]
    assert isinstance(one.response, RangeResult)
    is_last = one.response.revision == made.log[-1].revision
    again = evolve(one, call_at=10_000, return_at=10_001)
    verdict = check_revisions([*made.operations, again], made.log)
    assert verdict.is_right == is_last


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 200))
def test_every_lost_write_of_the_log_is_noticed(random: Random, choice: int) -> None:
    made = recorded(random, 40, kinds="PPPDSTG", failed=0.0)
    if not made.log:
        return
    revisions = sorted({one.revision for one in made.log})
    lost = revisions[choice % len(revisions)]
    log = [
        evolve(one, revision=one.revision - (one.revision > lost))
        for one in made.log
        if one.revision != lost
    ]
    verdict = check_revisions(made.operations, log)
    is_told = any(
        _revision(one.response) >= lost for one in made.operations if one.outcome is Outcome.OK
    )
    assert not (verdict.is_right and is_told)


def _revision(response: KvResponse) -> int:
    if isinstance(response, KeyValue):
        return response.mod_revision
    return 0 if response is None else response.revision


def test_unknown_outcomes_are_taken_from_the_log() -> None:
    history = (
        unknown(5, Put(b"a", b"1", previous=True)),
        unknown(6, Put(b"a", b"1")),  # the same for all who see it: the earlier one did it
        unknown(7, Put(b"a", b"never")),
        PUT_A2,
        PUT_B3,
        unknown(65, DeleteSpan(Span(b"a", b"b"))),
        unknown(85, MOVE),
    )
    assert check_revisions(history, LOG).check().facts["unknown but done"] == 3


def test_unknown_outcomes_are_read_off_later_answers() -> None:
    history = (
        unknown(1, Put(b"a", b"1")),
        unknown(2, Put(b"a", b"other")),
        ok(25, 26, Get(b"a"), A1),
        PUT_A2,
    )
    assert check_revisions(history).check().facts["unknown but done"] == 1


def test_a_revision_that_several_may_have_made_is_not_guessed() -> None:
    history = (unknown(1, Put(b"x", b"1")), unknown(2, Put(b"y", b"1")), PUT_A2)
    verdict = check_revisions([*history, evolve(PUT_A2, request=Put(b"a", b"2"))][:3])
    assert verdict.judgement is Judgement.INCONCLUSIVE
    with pytest.raises(InconclusiveError, match="give the committed log"):
        verdict.check()


def test_a_contradiction_that_rests_on_a_choice_is_no_refusal() -> None:
    # Either of the two may have made revision 2. The span, called first, is taken: but then
    # nobody is left for revision 4, which the single deletion cannot have made.
    log = [
        Written(2, b"x", b"1"),
        Written(3, b"x", None),
        Written(4, b"y", b"1"),
        Written(5, b"y", None),
    ]
    history = (
        ok(1, 2, Put(b"x", b"1"), PutResult(2)),
        unknown(3, DeleteSpan(ALL)),
        unknown(4, DeleteOne(b"x")),
        ok(5, 6, Put(b"y", b"1"), PutResult(4)),
    )
    assert check_revisions(history, log).judgement is Judgement.INCONCLUSIVE


HELD = (
    unknown(1, Revoke(7)),
    ok(2, 3, Put(b"a", b"1", lease=7), PutResult(2)),
    ok(4, 5, Put(b"b", b"2", lease=7), PutResult(3)),
    ok(6, 7, Put(b"c", b"3"), PutResult(4)),
)
HELD_LOG = [Written(2, b"a", b"1"), Written(3, b"b", b"2"), Written(4, b"c", b"3")]


def test_a_lease_that_ends_takes_all_its_keys_and_no_other() -> None:
    both = [Written(5, b"a", None), Written(5, b"b", None)]
    verdict = check_revisions(HELD, [*HELD_LOG, *both]).check()
    assert verdict.facts["unknown but done"] == 1
    for wrong in (both[:1], [*both, Written(5, b"c", None)], [Written(5, b"c", None)]):
        refused = check_revisions(HELD, [*HELD_LOG, *wrong])
        assert refused.judgement is Judgement.WRONG
        assert "nobody asked for that" in str(refused)


def test_a_lease_ends_once() -> None:
    again = ok(8, 9, Put(b"a", b"4", lease=7), PutResult(6))
    ends = [Written(5, b"a", None), Written(5, b"b", None), Written(7, b"a", None)]
    log = [*HELD_LOG, *ends[:2], Written(6, b"a", b"4"), ends[2]]
    assert check_revisions([*HELD, again], log[:-1]).is_right
    assert check_revisions([*HELD, again], log).judgement is Judgement.WRONG


def test_a_range_behind_a_write_of_its_transaction_names_the_new_revision() -> None:
    read, put = Range(ALL), Put(b"a", b"1")
    answer = ReferenceKv().apply(Txn((), (read, put, read)))
    a = KeyValue(b"a", b"1", 2, 2, 1)
    before, after = RangeResult((), 0, False, 1), RangeResult((a,), 1, False, 2)
    assert answer == TxnResult(2, True, (before, PutResult(2), after))


def test_a_serializable_read_may_show_what_was_asked_for_as_it_returned() -> None:
    read = ok(1, 10, Range(ALL, serializable=True), RangeResult((A1,), 1, False, 2))
    assert check_revisions([PUT_A1, read]).is_right


def test_an_operation_cannot_return_before_it_is_called() -> None:
    with pytest.raises(InvalidArgumentError, match="before it was called"):
        check_revisions([ok(5, 4, Get(b"a"), None)])


@settings(max_examples=60, deadline=None)
@given(st.lists(commands, max_size=20))
def test_the_machine_and_the_checker_mean_the_same(given_commands: list[Put | DeleteOne]) -> None:
    rig = memory_rig()
    asked = [one for one in given_commands if not (isinstance(one, Put) and one.lease)]
    results = rig.apply(asked)
    history: list[KvOperation] = []
    for number, (request, response) in enumerate(zip(asked, results, strict=True)):
        assert isinstance(response, PutResult | DeleteResult)
        history.append(ok(2 * number, 2 * number + 1, request, response))
    check_revisions(history, written_in(rig.store)).check()


@settings(max_examples=60, deadline=None)
@given(st.lists(commands, max_size=12), st.data())
def test_the_reference_reads_as_the_oracle_does(
    given_commands: list[Put | DeleteOne], data: st.DataObject
) -> None:
    reference, oracle = ReferenceKv(), Oracle()
    for one in given_commands:
        if isinstance(one, Put) and one.lease:
            continue
        assert reference.apply(one) == oracle.apply(one)
    asked = Range(
        Span(data.draw(st.sampled_from([b"", *KEYS])), None),
        limit=data.draw(st.integers(0, 3)),
        keys_only=data.draw(st.booleans()),
        count_only=data.draw(st.booleans()),
        counted=data.draw(st.booleans()),
    )
    assert reference.range(asked) == oracle.range(
        asked.span,
        limit=asked.limit,
        keys_only=asked.keys_only,
        count_only=asked.count_only,
        counted=asked.counted,
    )
