"""What a search without revisions says of the histories of simulated clients."""

from __future__ import annotations

from collections import Counter

import pytest

from raftkv.kv.model import KeyValue, PutResult
from raftkv.testing.histories.kv import (
    Compare,
    Get,
    KvHistory,
    KvRequest,
    KvResponse,
    Put,
    Relation,
    Target,
    Txn,
)
from raftkv.testing.histories.operations import History
from raftkv.testing.histories.verdict import Verdict
from raftkv.testing.nodes import opinion
from raftkv.testing.nodes.opinion import second_opinion
from raftkv.testing.nodes.run import simulate

PUT = Put(b"k", b"v")


def history(*done: tuple[KvRequest, KvResponse]) -> KvHistory:
    made = History[KvRequest, KvResponse]()
    for request, response in done:
        made.done(made.call("c", request), response)
    return made


def test_a_stale_value_is_refused_whatever_revisions_say() -> None:
    marks = Counter[str]()
    verdict = second_opinion(history((PUT, PutResult(2)), (Get(b"k"), None)), 8, marks)
    assert verdict is not None
    assert not verdict.is_right
    shown = KeyValue(b"k", b"v", create_revision=77, mod_revision=99, version=1)
    verdict = second_opinion(history((PUT, PutResult(2)), (Get(b"k"), shown)), 8, marks)
    assert verdict is not None
    assert verdict.is_right
    assert marks == {opinion.SEARCHED: 2}


def test_what_is_too_large_is_no_pass() -> None:
    marks = Counter[str]()
    puts = [(Put(b"k", b"%d" % number), PutResult(number + 2)) for number in range(301)]
    assert second_opinion(history(*puts), 1, marks) is None
    assert second_opinion(history(*puts[:300]), 9, marks) is None
    compares = Txn((Compare(b"k", Target.MOD, Relation.EQUAL, 1),))
    assert second_opinion(history((compares, None)), 1, marks) is None
    assert marks == {opinion.TOO_LARGE: 3}


def test_a_search_that_comes_to_no_end_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opinion, "STEPS_MAX", 0)
    marks = Counter[str]()
    verdict = second_opinion(history((PUT, PutResult(2)), (Get(b"k"), None)), 1, marks)
    assert verdict is not None
    assert not verdict.is_right
    assert marks == {opinion.INCONCLUSIVE: 1}


def test_a_run_that_only_the_search_refuses_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = second_opinion(history((PUT, PutResult(2)), (Get(b"k"), None)), 1, Counter())

    def refuse(_history: KvHistory, _clients: int, _marks: Counter[str]) -> Verdict | None:
        return wrong

    monkeypatch.setattr("raftkv.testing.nodes.run.second_opinion", refuse)
    found = simulate(0, 60).finding
    assert found is not None
    assert found.invariant == "I48"
    assert "by search" in found.broken
