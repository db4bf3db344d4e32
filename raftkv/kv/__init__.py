"""An etcd-like database as one replicated machine, and the client that applications hold.

Reading order: ``model`` (what applications see), ``commands`` (what is replicated), ``rows`` (what
is on disk), ``engine`` (how a slice of commands changes rows), ``machine`` (a command's meaning),
``reader`` (gets and ranges, now and in the past), ``compaction`` and ``alarms`` (how the past goes,
and what happens without room), ``hashing`` (to compare members), ``image`` (snapshots and the
state's digest), ``client`` (:class:`~raftkv.kv.client.Kv`, which alone here knows a node).

The types that applications meet are names of :mod:`raftkv`. Imported from here is what lies behind
them: the machine, what its commands give (KvResult), and the values that :mod:`raftkv.op` and
:mod:`raftkv.when` make.
"""

from __future__ import annotations

from raftkv.kv.machine import KvMachine
from raftkv.kv.model import (
    CompactResult,
    DeleteResult,
    Done,
    KeyValue,
    KvHash,
    KvResult,
    LeaseResult,
    OperationResult,
    PutResult,
    RangeResult,
    Refusal,
    Refused,
    SessionResult,
    Span,
    TxnResult,
    prefix_span,
    prefix_stop,
)
from raftkv.kv.requests import (
    Compare,
    CompareResult,
    CompareTarget,
    DeleteOne,
    DeleteSpan,
    Operation,
    Put,
    Range,
    Txn,
)

__all__ = [
    "CompactResult",
    "Compare",
    "CompareResult",
    "CompareTarget",
    "DeleteOne",
    "DeleteResult",
    "DeleteSpan",
    "Done",
    "KeyValue",
    "KvHash",
    "KvMachine",
    "KvResult",
    "LeaseResult",
    "Operation",
    "OperationResult",
    "Put",
    "PutResult",
    "Range",
    "RangeResult",
    "Refusal",
    "Refused",
    "SessionResult",
    "Span",
    "Txn",
    "TxnResult",
    "prefix_span",
    "prefix_stop",
]
