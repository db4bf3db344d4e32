"""Recording a history, and keeping it in a file."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path

import pytest

from raftkv import InvalidArgumentError, OutcomeUnknownError, UnavailableError, UsageError
from raftkv.testing.histories.kv import (
    Compare,
    DeleteSpan,
    Get,
    KeyValue,
    KvRequest,
    KvResponse,
    Put,
    PutResult,
    Range,
    RangeResult,
    Relation,
    Span,
    Target,
    Txn,
    TxnResult,
    load_kv_history,
)
from raftkv.testing.histories.operations import History, Operation, Outcome


def test_calls_and_answers_are_numbered_in_their_order() -> None:
    history = History[str, int]()
    first, second = history.call("a", "one"), history.call("b", "two")
    history.done(second, 2)
    history.done(first, 1)
    third = history.call("a", "three")
    history.raised(third, UnavailableError("no"))
    fourth = history.call("b", "four")
    history.raised(fourth, OutcomeUnknownError("perhaps"))
    fifth = history.call("b", "five")
    history.raised(fifth, KeyboardInterrupt())
    history.call("c", "six")
    assert list(history) == [
        Operation("a", 1, 4, "one", 1),
        Operation("b", 2, 3, "two", 2),
        Operation("a", 5, 6, "three", None, Outcome.FAILED),
        Operation("b", 7, 8, "four", None, Outcome.UNKNOWN),
        Operation("b", 9, 10, "five", None, Outcome.UNKNOWN),
        Operation("c", 11, None, "six", None, Outcome.UNKNOWN),
    ]
    assert len(history) == 6


def test_an_operation_ends_once() -> None:
    history = History[str, int]()
    number = history.call("a", "one")
    history.done(number, 1)
    with pytest.raises(UsageError, match="ended already"):
        history.raised(number, ValueError())


def test_time_may_come_from_a_clock() -> None:
    times = iter((100, 250))
    history = History[str, int](now=lambda: next(times))
    history.done(history.call("a", "one"), 1)
    assert (history.operations[0].call_at, history.operations[0].return_at) == (100, 250)


async def _answer(value: int) -> int:
    return value


async def _fail() -> int:
    raise UnavailableError("nobody there")


async def test_awaited_work_is_noted_whether_it_succeeds_or_not() -> None:
    history = History[str, int]()
    works: list[Awaitable[int]] = [_answer(1), _fail()]
    assert await history.record("a", "one", works[0]) == 1
    with pytest.raises(UnavailableError):
        await history.record("a", "two", works[1])
    assert [one.outcome for one in history] == [Outcome.OK, Outcome.FAILED]


def kv_history() -> History[KvRequest, KvResponse]:
    key = KeyValue(b"\xff", b"\x00v", 2, 3, 2)
    return History(
        [
            Operation[KvRequest, KvResponse]("a", 1, 2, Put(b"\xff", b"v"), PutResult(2)),
            Operation("a", 3, 4, Get(b"\xff"), key),
            Operation("a", 5, 6, Get(b"x", 1, True), None),
            Operation("b", 4, 6, Range(Span(b"", None)), RangeResult((key,), 1, False, 3)),
            Operation("b", 7, None, DeleteSpan(Span(b"a", b"b")), None, Outcome.UNKNOWN),
            Operation(
                "b",
                8,
                9,
                Txn((Compare(b"a", Target.MOD, Relation.LESS, 7),), (Put(b"a", b"b"),)),
                TxnResult(4, True, (PutResult(4),)),
            ),
        ]
    )


def test_a_history_is_read_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "one.history"
    history = kv_history()
    history.save(path)
    read = load_kv_history(path)
    assert list(read) == list(history)
    assert read.call("c", Get(b"k")) == 6
    assert read.operations[6].call_at == 10  # time goes on where it stood


def test_a_history_can_be_written_while_it_happens(tmp_path: Path) -> None:
    lines: list[bytes] = []
    history = History[str, int](note=lines.append)
    history.done(history.call("a", "one"), 1)
    history.raised(history.call("b", "two"), UnavailableError("no"))
    history.call("a", "three")
    path = tmp_path / "one.history"
    path.write_bytes(b"".join(lines))
    assert list(History[str, int].load(path)) == list(history)
    history.save(path)
    assert path.read_bytes() == b"".join(lines)


def test_an_answer_that_a_crash_cut_short_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "one.history"
    kv_history().save(path)
    path.write_bytes(path.read_bytes()[:-5])
    *others, last = load_kv_history(path)
    assert others == list(kv_history())[:5]
    assert (last.call_at, last.outcome, last.response) == (8, Outcome.UNKNOWN, None)


@dataclass(frozen=True)
class Spell:
    words: dict[str, list[float]]


def test_classes_of_users_are_read_back_if_they_are_named(tmp_path: Path) -> None:
    path = tmp_path / "one.history"
    history = History([Operation[Spell, bool]("a", 1, 2, Spell({"x": [1.5]}), True)])
    history.save(path)
    assert list(History[Spell, bool].load(path, (Spell,))) == list(history)
    with pytest.raises(InvalidArgumentError, match="types= name"):
        History[Spell, bool].load(path)


@pytest.mark.parametrize("line", ["{}", "[1]", "nonsense", '[1, "a", null, 1]', '[1, "a", 1, {}]'])
def test_what_is_no_history_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "one.history"
    path.write_text(line + "\n")
    with pytest.raises(InvalidArgumentError, match="line 1"):
        load_kv_history(path)


def test_what_has_no_json_form_is_refused(tmp_path: Path) -> None:
    history = History([Operation[object, object]("a", 1, 2, object(), None)])
    with pytest.raises(InvalidArgumentError, match="frozen attrs class"):
        history.save(tmp_path / "one.history")
