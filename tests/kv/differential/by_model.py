"""The same requests, answered by the model: with etcd's words for what is wrong."""

from __future__ import annotations

from typing import Final

from attrs import evolve

from raftkv.kv.model import (
    Change,
    CompactResult,
    Done,
    LeaseResult,
    Refusal,
    SessionResult,
    Span,
    TxnResult,
)
from raftkv.kv.requests import (
    TXN_OPERATIONS_MAX,
    AlarmKind,
    Compact,
    DeleteOne,
    DeleteSpan,
    Grant,
    Operation,
    Put,
    Range,
    Revoke,
    SetAlarm,
    Txn,
)
from tests.kv.differential.asks import (
    Answer,
    Ask,
    At,
    Disarm,
    Get,
    GrantAndRevoke,
    Granted,
    Ids,
    KeepAlive,
    ListLeases,
    Lives,
    RaiseAlarm,
    Seen,
    TimeToLive,
    Watch,
    WatchBegin,
    WatchEnd,
    Wrong,
)
from tests.kv.model import naive
from tests.kv.model.naive import Model, No

TTL_MAX: Final = 9_000_000_000
TTL_MIN: Final = 2
REQUEST_BYTES_MAX: Final = 1536 * 1024

WORDS: Final = {
    Refusal.INVALID: "duplicate key given in txn request",
    Refusal.KEY_NOT_FOUND: "key not found",
    Refusal.LEASE_NOT_FOUND: "requested lease not found",
    Refusal.LEASE_EXISTS: "lease already exists",
    Refusal.NO_SPACE: "database space exceeded",
    Refusal.COMPACTED: "required revision has been compacted",
    Refusal.FUTURE_REVISION: "required revision is a future revision",
}


class ByModel:
    """Asks the model as etcd is asked."""

    def __init__(self) -> None:
        self.model = Model()
        self.watchers: tuple[Watch, ...] = ()
        self._begun: list[tuple[int, int]] = []
        """Of each watcher: where it starts, and the oldest revision that could be read then."""

    def ask(self, ask: Ask) -> Answer:
        try:
            return self._ask(ask)
        except _WrongError as error:
            return Wrong(error.words)

    def _ask(self, ask: Ask) -> Answer:
        model = self.model
        match ask:
            case Put() | DeleteOne() | DeleteSpan() | Txn():
                _check(ask)
                return _answer(model.apply(ask))
            case Compact() | Revoke():
                return _answer(model.apply(ask))
            case Range():
                return _answer(model.range(ask))
            case Get(key, revision):
                _check_key(key)
                found = model.range(Range(Span(key, key + b"\0"), revision=revision))
                if isinstance(found, No):
                    return _answer(found)
                return found.items[0] if found.items else None
            case WatchBegin(watchers):
                self.watchers = watchers
                now = model.revision + 1
                self._begun = [(one.start or now, model.floor) for one in watchers]
                return None
            case WatchEnd():
                seen = self.seen()
                self.watchers, self._begun = (), []
                return seen
            case RaiseAlarm() | Disarm():
                is_raised = isinstance(ask, RaiseAlarm)
                model.apply(SetAlarm(1, AlarmKind.NO_SPACE, is_raised))
                return At(0)
            case _:
                return self._ask_leases(ask)

    def _ask_leases(
        self, ask: Grant | GrantAndRevoke | KeepAlive | TimeToLive | ListLeases
    ) -> Answer:
        model = self.model
        match ask:
            case Grant(lease, ttl):
                return self._grant(lease, ttl)
            case GrantAndRevoke(lease, ttl):
                granted = self._grant(lease or -1, ttl)
                if isinstance(granted, Wrong):
                    return granted
                model.apply(Revoke(lease or -1))
                return evolve(granted, id=lease)
            case KeepAlive(lease):
                granted = model.leases.get(lease, 0)
                return Lives(granted, 0 if granted else -1, ())
            case TimeToLive(lease, keys):
                if lease not in model.leases:
                    return Lives(0, -1, ())
                attached = tuple(model.keys_of(lease)) if keys else ()
                return Lives(model.leases[lease], 0, attached)
            case ListLeases():
                return Ids(tuple(sorted(model.leases)))

    def _grant(self, lease: int, ttl: int) -> Granted | Wrong:
        if ttl > TTL_MAX and not self.model.alarms:
            return Wrong("too large lease TTL")
        answer = self.model.apply(Grant(lease, max(ttl, TTL_MIN)))
        if isinstance(answer, LeaseResult):
            return Granted(answer.id, answer.ttl, answer.revision)
        return Wrong(WORDS[answer.why] if isinstance(answer, No) else repr(answer))

    def seen(self) -> Seen:
        """What the open watchers saw so far."""
        found: list[tuple[Change, ...] | Wrong] = []
        for one, (start, floor) in zip(self.watchers, self._begun, strict=True):
            if one.span.is_empty:
                found.append(Wrong("watcher range is empty"))
                continue
            if start < floor:
                found.append(Wrong(WORDS[Refusal.COMPACTED]))
                continue
            changes = self.model.watch(
                one.span, start, previous=one.previous, puts=one.puts, deletes=one.deletes
            )
            found.append(() if isinstance(changes, No) else tuple(changes))
        return Seen(tuple(found))


def _answer(given: naive.Answer) -> Answer:
    match given:
        case No(why):
            return Wrong(WORDS[why])
        case Done(revision) | CompactResult(revision):
            return At(revision)
        case TxnResult():
            return without_inner_revisions(given)
        case LeaseResult() | SessionResult():
            raise TypeError(given)
        case _:
            return given


def without_inner_revisions(result: TxnResult) -> TxnResult:
    """A transaction within another names no revision in etcd."""
    return evolve(
        result,
        results=tuple(
            evolve(without_inner_revisions(one), revision=0) if isinstance(one, TxnResult) else one
            for one in result.results
        ),
    )


# --- what is wrong in itself ----------------------------------------------------------------------


class _WrongError(Exception):
    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


def _check(ask: Put | DeleteOne | DeleteSpan | Txn) -> None:
    if isinstance(ask, Txn):
        _check_txn(ask, TXN_OPERATIONS_MAX)
    else:
        _check_operation(ask, 0)
    if isinstance(ask, Put) and len(ask.value) > REQUEST_BYTES_MAX:
        raise _WrongError("request is too large")


def _check_txn(txn: Txn, operations_max: int) -> None:
    """What stands in a transaction counts for those within, too."""
    most = max(len(txn.when), len(txn.then), len(txn.otherwise))
    if most > operations_max:
        raise _WrongError("too many operations in txn request")
    for one in txn.when:
        if isinstance(one.keys, bytes):
            _check_key(one.keys)
    for operation in (*txn.then, *txn.otherwise):
        _check_operation(operation, operations_max - most)


def _check_operation(operation: Operation, operations_max: int) -> None:
    match operation:
        case Put():
            _check_key(operation.key)
            if operation.ignore_value and operation.value:
                raise _WrongError("value is provided")
            if operation.ignore_lease and operation.lease:
                raise _WrongError("lease is provided")
        case DeleteOne():
            _check_key(operation.key)
        case Txn():
            _check_txn(operation, operations_max)
        case Range() | DeleteSpan():
            pass


def _check_key(key: bytes) -> None:
    if not key:
        raise _WrongError("key is not provided")
