"""A real etcd on loopback, asked through its JSON gateway."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final, TypeAlias, cast

from raftkv.kv.model import (
    Change,
    DeleteResult,
    EventKind,
    KeyEvent,
    KeyValue,
    OperationResult,
    PutResult,
    RangeResult,
    Span,
    TxnResult,
)
from raftkv.kv.requests import (
    Compact,
    Compare,
    CompareTarget,
    DeleteOne,
    DeleteSpan,
    Grant,
    Operation,
    Put,
    Range,
    Revoke,
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

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | bool"
Fields: TypeAlias = "dict[str, Json]"

_START_SECONDS: Final = 30
_ANSWER_SECONDS: Final = 20
_LIVED_SECONDS: Final = 120
"""A lease that was granted at most so long ago has lost at most so much of its time."""


def program() -> str | None:
    """Where etcd is, if it is here."""
    return shutil.which("etcd") or (
        "/usr/bin/etcd" if os.access("/usr/bin/etcd", os.X_OK) else None
    )


@contextlib.contextmanager
def running(etcd: str) -> Generator[int]:
    """An etcd of one member on an empty folder; gives the port of its clients."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="raftkv-etcd-", dir=memory) as folder:
        clients, peers = _free_ports()
        client_url, peer_url = f"http://127.0.0.1:{clients}", f"http://127.0.0.1:{peers}"
        command = [
            etcd,
            f"--data-dir={folder}/data",
            f"--listen-client-urls={client_url}",
            f"--advertise-client-urls={client_url}",
            f"--listen-peer-urls={peer_url}",
            f"--initial-advertise-peer-urls={peer_url}",
            f"--initial-cluster=default={peer_url}",
        ]
        with open(f"{folder}/log", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_until_ready(process, clients, f"{folder}/log")
            yield clients
        finally:
            process.kill()
            process.wait()


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            try:
                connection.request("GET", "/health")
                if b'"true"' in connection.getresponse().read():
                    return
            finally:
                connection.close()
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"etcd did not start:\n{Path(log).read_text()[-2000:]}")
        time.sleep(0.02)


class Etcd:
    """Asks one etcd, one thing after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
        self._connection.connect()
        # A request is two writes, its head and its body: Nagle would hold the second back.
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watching: list[_Watcher] = []

    def close(self) -> None:
        self._connection.close()
        for one in self._watching:
            one.close()

    def ask(self, ask: Ask) -> Answer:
        try:
            return self._ask(ask)
        except _EtcdError as error:
            return Wrong(error.words)

    def _ask(self, ask: Ask) -> Answer:
        match ask:
            case Put():
                return _put_result(self._post("/v3/kv/put", _put(ask)))
            case DeleteOne() | DeleteSpan():
                return _delete_result(self._post("/v3/kv/deleterange", _delete(ask)))
            case Txn():
                return _txn_result(self._post("/v3/kv/txn", _txn(ask)), ask)
            case Range():
                return _range_result(self._post("/v3/kv/range", _range(ask)))
            case Get(key, revision):
                asked: Fields = {"key": _text(key), "revision": str(revision)}
                found = _range_result(self._post("/v3/kv/range", asked))
                return found.items[0] if found.items else None
            case Compact(revision):
                # Physical: it is answered when all is removed, so that what follows is certain.
                asked = {"revision": str(revision), "physical": True}
                return At(_revision(self._post("/v3/kv/compaction", asked)))
            case WatchBegin(watchers):
                self._watching = [_Watcher(self._port, one) for one in watchers]
                return None
            case WatchEnd(until):
                watching, self._watching = self._watching, []
                seen = [one.finish(last) for one, last in zip(watching, until, strict=True)]
                for one in watching:
                    one.close()
                return Seen(tuple(seen))
            case RaiseAlarm():
                return self._alarm("ACTIVATE")
            case Disarm():
                return self._alarm("DEACTIVATE")
            case _:
                return self._ask_leases(ask)

    def _ask_leases(
        self, ask: Grant | Revoke | GrantAndRevoke | KeepAlive | TimeToLive | ListLeases
    ) -> Answer:
        match ask:
            case Grant(lease, ttl):
                return self._grant(lease, ttl)
            case GrantAndRevoke(lease, ttl):
                granted = self._grant(lease, ttl)
                self._post("/v3/lease/revoke", {"ID": str(granted.id)})
                return Granted(lease, granted.ttl, granted.revision)
            case Revoke(lease):
                return At(_revision(self._post("/v3/lease/revoke", {"ID": str(lease)})))
            case KeepAlive(lease):
                answer = _fields(self._post("/v3/lease/keepalive", {"ID": str(lease)})["result"])
                return Lives(_int(answer, "TTL"), 0 if "TTL" in answer else -1, ())
            case TimeToLive(lease, keys):
                asked: Fields = {"ID": str(lease), "keys": keys}
                answer = self._post("/v3/lease/timetolive", asked)
                granted, ttl = _int(answer, "grantedTTL"), _int(answer, "TTL")
                if granted - _LIVED_SECONDS <= ttl <= granted and granted:
                    ttl = 0
                attached = sorted(_bytes(one) for one in _list(answer, "keys"))
                return Lives(granted, ttl, tuple(attached))
            case ListLeases():
                answer = self._post("/v3/lease/leases", {})
                ids = sorted(_int(_fields(one), "ID") for one in _list(answer, "leases"))
                return Ids(tuple(ids))

    def _grant(self, lease: int, ttl: int) -> Granted:
        answer = self._post("/v3/lease/grant", {"ID": str(lease), "TTL": str(ttl)})
        return Granted(_int(answer, "ID"), _int(answer, "TTL"), _revision(answer))

    def _alarm(self, action: str) -> At:
        status = self._post("/v3/maintenance/status", {})
        member = str(_fields(status["header"])["member_id"])
        answer = self._post(
            "/v3/maintenance/alarm", {"action": action, "memberID": member, "alarm": "NOSPACE"}
        )
        return At(_revision(answer))

    def _post(self, path: str, body: Fields) -> Fields:
        self._connection.request("POST", path, json.dumps(body))
        response = self._connection.getresponse()
        answer = cast("Fields", json.loads(response.read()))
        if response.status != 200:
            raise _EtcdError(str(answer["error"]))
        return answer


class _EtcdError(Exception):
    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words.removeprefix("etcdserver: ").removeprefix("mvcc: ")


# --- requests as JSON -----------------------------------------------------------------------------


def _put(put: Put) -> Fields:
    return {
        "key": _text(put.key),
        "value": _text(put.value),
        "lease": str(put.lease),
        "prev_kv": put.previous,
        "ignore_value": put.ignore_value,
        "ignore_lease": put.ignore_lease,
    }


def _delete(delete: DeleteOne | DeleteSpan) -> Fields:
    where = _where(delete.span) if isinstance(delete, DeleteSpan) else {"key": _text(delete.key)}
    return {**where, "prev_kv": delete.previous}


def _range(asked: Range) -> Fields:
    return {
        **_where(asked.span),
        "limit": str(asked.limit),
        "revision": str(asked.revision),
        "sort_order": asked.order,
        "sort_target": asked.target,
        "keys_only": asked.keys_only,
        "count_only": asked.count_only,
        "min_mod_revision": str(asked.mod_revision_min),
        "max_mod_revision": str(asked.mod_revision_max),
        "min_create_revision": str(asked.create_revision_min),
        "max_create_revision": str(asked.create_revision_max),
    }


def _where(span: Span) -> Fields:
    """A span's ends; from the first key on is 0, to the last is 0."""
    stop = b"\0" if span.stop is None else span.stop
    return {"key": _text(span.start or b"\0"), "range_end": _text(stop)}


def _txn(txn: Txn) -> Fields:
    return {
        "compare": [_compare(one) for one in txn.when],
        "success": [_operation(one) for one in txn.then],
        "failure": [_operation(one) for one in txn.otherwise],
    }


_COMPARED: Final = {
    CompareTarget.VERSION: "version",
    CompareTarget.CREATE: "create_revision",
    CompareTarget.MOD: "mod_revision",
    CompareTarget.VALUE: "value",
    CompareTarget.LEASE: "lease",
}


def _compare(one: Compare) -> Fields:
    where = _where(one.keys) if isinstance(one.keys, Span) else {"key": _text(one.keys)}
    given = _text(one.given) if isinstance(one.given, bytes) else str(one.given)
    return {**where, "target": one.target, "result": one.result, _COMPARED[one.target]: given}


def _operation(one: Operation) -> Fields:
    match one:
        case Put():
            return {"request_put": _put(one)}
        case DeleteOne() | DeleteSpan():
            return {"request_delete_range": _delete(one)}
        case Range():
            return {"request_range": _range(one)}
        case Txn():
            return {"request_txn": _txn(one)}


# --- answers from JSON ----------------------------------------------------------------------------


def _put_result(answer: Fields) -> PutResult:
    previous = _key_value(answer["prev_kv"]) if "prev_kv" in answer else None
    return PutResult(_revision(answer), previous)


def _delete_result(answer: Fields) -> DeleteResult:
    previous = tuple(_key_value(one) for one in _list(answer, "prev_kvs"))
    return DeleteResult(_revision(answer), _int(answer, "deleted"), previous)


def _range_result(answer: Fields) -> RangeResult:
    items = tuple(_key_value(one) for one in _list(answer, "kvs"))
    return RangeResult(items, _int(answer, "count"), "more" in answer, _revision(answer))


def _txn_result(answer: Fields, txn: Txn) -> TxnResult:
    """One within another names no revision."""
    succeeded = "succeeded" in answer
    branch = txn.then if succeeded else txn.otherwise
    results = tuple(
        _operation_result(_fields(one), operation)
        for one, operation in zip(_list(answer, "responses"), branch, strict=True)
    )
    return TxnResult(_revision(answer), succeeded, results)


def _operation_result(answer: Fields, operation: Operation) -> OperationResult:
    parsers: dict[str, Callable[[Fields], OperationResult]] = {
        "response_put": _put_result,
        "response_delete_range": _delete_result,
        "response_range": _range_result,
    }
    (kind, inner), *_ = answer.items()
    if isinstance(operation, Txn):
        return _txn_result(_fields(inner), operation)
    return parsers[kind](_fields(inner))


def _key_value(given: Json) -> KeyValue:
    one = _fields(given)
    return KeyValue(
        _bytes(one["key"]),
        _bytes(one.get("value", "")),
        _int(one, "create_revision"),
        _int(one, "mod_revision"),
        _int(one, "version"),
        _int(one, "lease"),
    )


def _revision(answer: Fields) -> int:
    return _int(_fields(answer.get("header", {})), "revision")


def _fields(given: Json) -> Fields:
    if not isinstance(given, dict):
        raise TypeError(f"not an object: {given!r}")
    return given


def _list(answer: Fields, name: str) -> list[Json]:
    given = answer.get(name, [])
    if not isinstance(given, list):
        raise TypeError(f"not a list: {given!r}")
    return given


def _int(answer: Fields, name: str) -> int:
    return int(cast("str", answer.get(name, "0")))


def _text(given: bytes) -> str:
    return b64encode(given).decode()


def _bytes(given: Json) -> bytes:
    return b64decode(str(given))


# --- watching -------------------------------------------------------------------------------------


class _Watcher:
    """One watcher on a connection of its own, on which one line is one answer.

    The gateway may lose what stands behind the first of several requests of a stream.
    """

    def __init__(self, port: int, asked: Watch) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
        self._connection.request("POST", "/v3/watch", json.dumps(_create(asked)))
        self._response = self._connection.getresponse()
        self._changes: list[Change] = []
        self._ended: Wrong | None = None
        while not self._take():
            pass

    def close(self) -> None:
        self._response.close()
        self._connection.close()

    def finish(self, until: int) -> tuple[Change, ...] | Wrong:
        """All that it saw, once it saw this revision; 0: nothing is waited for, -1: its end."""
        changes = self._changes
        while self._ended is None and until and (not changes or changes[-1].revision < until):
            self._take()
            if until < 0 and changes:
                break
        return self._ended or tuple(changes)

    def _take(self) -> bool:
        """One answer; whether it says that the watcher was created."""
        answer = _fields(_fields(json.loads(self._response.readline()))["result"])
        if "canceled" in answer:
            reason = str(answer.get("cancel_reason", "required revision has been compacted"))
            self._ended = Wrong(reason.removeprefix("mvcc: "))
        for given in _list(answer, "events"):
            event = _event(_fields(given))
            changes, revision = self._changes, event.kv.mod_revision
            if changes and changes[-1].revision == revision:
                changes[-1] = Change(revision, (*changes[-1].events, event))
            else:
                changes.append(Change(revision, (event,)))
        return "created" in answer


def _create(one: Watch) -> Fields:
    filters = [*([] if one.puts else ["NOPUT"]), *([] if one.deletes else ["NODELETE"])]
    return {
        "create_request": {
            **_where(one.span),
            "start_revision": str(one.start),
            "prev_kv": one.previous,
            "filters": cast("list[Json]", filters),
        }
    }


def _event(given: Fields) -> KeyEvent:
    kind = EventKind.DELETE if given.get("type") == "DELETE" else EventKind.PUT
    previous = _key_value(given["prev_kv"]) if "prev_kv" in given else None
    return KeyEvent(kind, _key_value(given["kv"]), previous)
