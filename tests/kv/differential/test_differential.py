"""One long conversation with a real etcd, and every answer of it compared."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import anyio
import pytest

from tests.kv.differential import ours
from tests.kv.differential.asks import Answer, Ask, Seen, Watch, WatchBegin, Wrong
from tests.kv.differential.etcd import Etcd, program, running
from tests.kv.differential.known import Known, read_known
from tests.kv.differential.probes import probes
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


class Conversation:
    """Everything asked, and what the model answers to what was drawn."""

    def __init__(self) -> None:
        requests = Requests(seed=1)
        drawn = list(requests.take(ASKED))
        self.by_model = [answer for _, answer in drawn]
        self.asks = [ask for ask, _ in drawn] + list(probes(requests.model.revision))

    def differences(
        self, one: Sequence[Answer], other: Sequence[Answer]
    ) -> Iterator[tuple[Ask | Watch, object, object]]:
        """Of answers to all, or to the first, those that differ; watchers one by one."""
        watchers: tuple[Watch, ...] = ()
        for ask, this, that in zip(self.asks, one, other, strict=False):
            if isinstance(ask, WatchBegin):
                watchers = ask.watchers
            if isinstance(this, Seen) and isinstance(that, Seen):
                seen = zip(watchers, this.changes, that.changes, strict=True)
                yield from (row for row in seen if row[1] != row[2])
                watchers = ()
            elif this != that:
                yield ask, this, that


@pytest.fixture(scope="module")
def conversation() -> Conversation:
    return Conversation()


@pytest.fixture(scope="module")
def by_etcd(conversation: Conversation) -> list[Answer]:
    etcd = program()
    assert etcd is not None
    with running(etcd) as port, contextlib.closing(Etcd(port)) as asked:
        return [asked.ask(ask) for ask in conversation.asks]


@pytest.fixture(scope="module")
def by_raftkv(conversation: Conversation) -> list[Answer]:
    async def ask_all() -> list[Answer]:
        async with ours.running() as asked:
            return [await asked.ask(ask) for ask in conversation.asks]

    return anyio.run(ask_all)


def test_every_kind_of_request_and_of_error_is_met_often(
    conversation: Conversation, by_etcd: list[Answer]
) -> None:
    kinds = Counter[str]()
    for ask in conversation.asks:
        kind, count = asked_for(ask)
        kinds[kind] += count
    errors = Counter(words for answer in by_etcd for words in errors_in(answer))
    assert kinds.total() >= 10_000
    assert {kind: kinds[kind] for kind, least in KINDS_MIN.items() if kinds[kind] < least} == {}
    assert {one: errors[one] for one, least in ERRORS_MIN.items() if errors[one] < least} == {}


def test_the_model_answers_as_etcd_does(conversation: Conversation, by_etcd: list[Answer]) -> None:
    assert list(conversation.differences(conversation.by_model, by_etcd))[:3] == []


def test_raftkv_answers_as_etcd_does_but_for_what_is_known(
    conversation: Conversation, by_etcd: list[Answer], by_raftkv: list[Answer]
) -> None:
    known = read_known()
    met = set[Known]()
    unknown: list[tuple[Ask | Watch, object, object]] = []
    for ask, theirs, ours_ in conversation.differences(by_etcd, by_raftkv):
        row = next((row for row in known if row.covers(ask, theirs, ours_)), None)
        if row is None:
            unknown.append((ask, theirs, ours_))
        else:
            met.add(row)
    assert unknown[:3] == []
    assert [row for row in known if row not in met] == [], "no longer different: strike it out"


def test_the_known_differences_are_few_and_have_their_reasons() -> None:
    known = read_known()
    assert 0 < len(known) <= 20
    assert all(len(row.reason) > 20 for row in known)
