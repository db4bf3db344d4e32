"""An etcd-like database as one replicated machine, and the client that applications hold.

Reading order: ``model`` (what applications see), ``commands`` (what is replicated), ``rows`` (what
is on disk), ``engine`` (how a slice of commands changes rows), ``machine`` (a command's meaning),
``reader`` (gets and ranges, now and in the past), ``compaction`` and ``alarms`` (how the past goes,
and what happens without room), ``hashing`` (to compare members), ``image`` (snapshots and the
state's digest), ``client`` (:class:`~raftkv.kv.client.Kv`, which alone here knows a node).
"""

from __future__ import annotations

from raftkv.kv.machine import KvMachine
from raftkv.kv.model import (
    CompactResult,
    DeleteResult,
    KeyValue,
    KvHash,
    KvResult,
    PutResult,
    RangeResult,
    Refused,
    Span,
    prefix_span,
    prefix_stop,
)

__all__ = [
    "CompactResult",
    "DeleteResult",
    "KeyValue",
    "KvHash",
    "KvMachine",
    "KvResult",
    "PutResult",
    "RangeResult",
    "Refused",
    "Span",
    "prefix_span",
    "prefix_stop",
]
