"""One long conversation with a real etcd, and every answer of it compared."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Final

import pytest

from tests.kv.differential.asks import Answer, Ask, Seen, WatchBegin, Wrong
from tests.kv.differential.etcd import Etcd, program, running
from tests.kv.differential.requests import Requests

ASKED: Final = 10_500

# Of every kind at least so many, else they say little: half of what this conversation has.
KINDS_MIN: Final = {
    "Put": 1200,
    "Txn": 1200,
    "Range": 1100,
    "Get": 500,
    "DeleteOne": 250,
    "DeleteSpan": 120,
    "Compact": 30,
    "Grant": 120,
    "GrantAndRevoke": 50,
    "Revoke": 70,
    "KeepAlive": 70,
    "TimeToLive": 100,
    "ListLeases": 40,
    "RaiseAlarm": 12,
    "Watch": 150,
}
ERRORS_MIN: Final = {
    "requested lease not found": 400,
    "lease already exists": 40,
    "too large lease TTL": 35,
    "required revision is a future revision": 150,
    "required revision has been compacted": 150,
    "key not found": 150,
    "key is not provided": 30,
    "value is provided": 8,
    "lease is provided": 8,
    "duplicate key given in txn request": 100,
    "too many operations in txn request": 15,
    "database space exceeded": 25,
    "request is too large": 4,
    "watcher range is empty": 3,
}

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(300),
    pytest.mark.skipif(program() is None, reason="etcd is not here (Debian: etcd-server)"),
]


def asked_for(ask: Ask) -> tuple[str, int]:
    """Of which kind it is, and how many requests."""
    if isinstance(ask, WatchBegin):
        return "Watch", len(ask.watchers)
    return type(ask).__name__, 1


def errors_in(answer: Answer) -> list[str]:
    match answer:
        case Wrong(words):
            return [words]
        case Seen(changes):
            return [one.words for one in changes if isinstance(one, Wrong)]
        case _:
            return []


@pytest.fixture(scope="module")
def conversation() -> list[tuple[Ask, Answer]]:
    """What is asked, and what the model answers."""
    return list(Requests(seed=1).take(ASKED))


@pytest.fixture(scope="module")
def by_etcd(conversation: list[tuple[Ask, Answer]]) -> list[Answer]:
    etcd = program()
    assert etcd is not None
    with running(etcd) as port, contextlib.closing(Etcd(port)) as asked:
        return [asked.ask(ask) for ask, _ in conversation]


def test_every_kind_of_request_and_of_error_is_met_often(
    conversation: list[tuple[Ask, Answer]],
) -> None:
    kinds = Counter[str]()
    for ask, _ in conversation:
        kind, count = asked_for(ask)
        kinds[kind] += count
    errors = Counter(words for _, answer in conversation for words in errors_in(answer))
    assert kinds.total() >= 10_000
    assert {kind: kinds[kind] for kind, least in KINDS_MIN.items() if kinds[kind] < least} == {}
    assert {
        words: errors[words] for words, least in ERRORS_MIN.items() if errors[words] < least
    } == {}


def test_the_model_answers_as_etcd_does(
    conversation: list[tuple[Ask, Answer]], by_etcd: list[Answer]
) -> None:
    differences = [
        (ask, model, etcd)
        for (ask, model), etcd in zip(conversation, by_etcd, strict=True)
        if model != etcd
    ]
    assert differences[:3] == []
