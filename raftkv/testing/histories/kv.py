"""What clients ask of the KV and what it answers, as plain values to record and to check.

The writes are the KV's own commands (:class:`~raftkv.kv.commands.Put` and its siblings), the
answers its own results; here are the reads, and the transaction. A Get is answered with a
``KeyValue`` or None, a Range with a ``RangeResult``, a Txn with a :class:`TxnResult`.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Final, TypeAlias

from attrs import frozen

from raftkv.kv import rows
from raftkv.kv.model import DeleteResult, KeyValue, PutResult, RangeResult, Span
from raftkv.kv.reader import read_key
from raftkv.kv.requests import DeleteOne, DeleteSpan, Put, Revoke
from raftkv.storage.base import Reader, Space
from raftkv.testing.histories.operations import History, Operation

__all__ = [
    "KV_TYPES",
    "Compare",
    "DeleteOne",
    "DeleteResult",
    "DeleteSpan",
    "Get",
    "KeyValue",
    "KvHistory",
    "KvOperation",
    "KvRequest",
    "KvResponse",
    "Put",
    "PutResult",
    "Range",
    "RangeResult",
    "Relation",
    "Revoke",
    "Span",
    "Target",
    "Txn",
    "TxnResult",
    "Written",
    "load_kv_history",
    "revision_named",
    "written_in",
]


@frozen(slots=True)
class Get:
    """Read ``key``, now or as it was at ``revision``; ``serializable``: perhaps stale."""

    key: bytes
    revision: int = 0
    serializable: bool = False


@frozen(slots=True)
class Range:
    """Read the keys in ``span``; the rest as in ``Kv.range``."""

    span: Span
    revision: int = 0
    serializable: bool = False
    limit: int = 0
    keys_only: bool = False
    count_only: bool = False
    counted: bool = True


class Target(Enum):
    """What of a key a transaction looks at."""

    VALUE = "value"
    VERSION = "version"
    CREATE = "create"
    MOD = "mod"


class Relation(Enum):
    """How it should compare."""

    EQUAL = "="
    NOT_EQUAL = "!="
    LESS = "<"
    GREATER = ">"


@frozen(slots=True)
class Compare:
    """A condition on one key. A key that does not exist has revisions and version 0, no value."""

    key: bytes
    target: Target
    relation: Relation
    wanted: bytes | int


TxnRequest: TypeAlias = Put | DeleteOne | DeleteSpan | Get | Range
"""What a transaction may do; its reads show what its own writes before them made."""


@frozen(slots=True)
class Txn:
    """If all ``conditions`` hold do ``then``, else ``otherwise``: all in one revision."""

    conditions: tuple[Compare, ...] = ()
    then: tuple[TxnRequest, ...] = ()
    otherwise: tuple[TxnRequest, ...] = ()


TxnAnswer: TypeAlias = PutResult | DeleteResult | RangeResult | KeyValue | None


@frozen(slots=True)
class TxnResult:
    """Which branch was taken and what its requests were answered, as of ``revision``."""

    revision: int
    succeeded: bool
    responses: tuple[TxnAnswer, ...] = ()


KvRequest: TypeAlias = TxnRequest | Txn | Revoke
"""A Revoke stands for the end of a lease, by whatever: nobody is answered that."""
KvResponse: TypeAlias = TxnAnswer | TxnResult
KvOperation: TypeAlias = Operation[KvRequest, KvResponse]
KvHistory: TypeAlias = History[KvRequest, KvResponse]

KV_TYPES: Final = (
    Put,
    DeleteOne,
    DeleteSpan,
    Get,
    Range,
    Txn,
    Revoke,
    Compare,
    Target,
    Relation,
    Span,
    KeyValue,
    PutResult,
    DeleteResult,
    RangeResult,
    TxnResult,
)
"""The classes that a KV history is made of, to load one."""


def load_kv_history(path: Path) -> KvHistory:
    """Read a history of the KV that ``History.save`` wrote."""
    return History[KvRequest, KvResponse].load(path, KV_TYPES)


def revision_named(response: KvResponse) -> int:
    """The revision that an answer names: that of the version it shows, else of the store; or 0."""
    if isinstance(response, KeyValue):
        return response.mod_revision
    return 0 if response is None else response.revision


@frozen(slots=True)
class Written:
    """One key that a revision changed, as a member's rows tell it."""

    revision: int
    key: bytes
    value: bytes | None
    """None: a deletion."""


def written_in(reader: Reader) -> Iterator[Written]:
    """What every revision wrote, in order, from the rows of a member's store.

    It needs all history since the first revision: a compacted store no longer has it.
    """
    for row_key, row in reader.scan(Space.MACHINE, rows.EVENTS, rows.EVENTS_STOP):
        revision, _ = rows.split_events_key(row_key)
        for event in rows.decode_events(row):
            found = None
            if event.kind == rows.PUT_EVENT:
                found = read_key(reader, event.key, revision)
            yield Written(revision, event.key, None if found is None else found.value)
