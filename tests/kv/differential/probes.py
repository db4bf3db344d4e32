"""Requests that etcd and raftkv are known to answer differently, though they change both alike.

Each row of known.txt is met by one of these, or by the conversation that is drawn.
"""

from __future__ import annotations

from typing import Final

from raftkv.kv.model import Span
from raftkv.kv.requests import TXN_DEPTH_MAX, Compact, DeleteOne, DeleteSpan, Put, Range, Txn
from tests.kv.differential.asks import (
    Ask,
    Disarm,
    Get,
    GrantAndRevoke,
    RaiseAlarm,
    Watch,
    WatchBegin,
    WatchEnd,
)

_NOWHERE: Final = b"nowhere"
_KEPT: Final = Put(_NOWHERE, b"", ignore_value=True)  # refused, as there is no such key
_READ: Final = Range(Span(_NOWHERE, _NOWHERE + b"\0"))


def _nested(depth: int) -> Txn:
    txn = Txn(then=(_READ,))
    for _ in range(depth - 1):
        txn = Txn(then=(txn,))
    return txn


def probes(revision: int) -> tuple[Ask, ...]:
    """To be asked of a store at this revision that was compacted before."""
    return (*_REFUSED, *_of_the_floor(revision))


def _of_the_floor(revision: int) -> tuple[Ask, ...]:
    """A deletion of the very revision that everything is compacted at, watched from there."""
    put, delete = Put(b"floor", b"1"), DeleteOne(b"floor")
    watch = Watch(Span(b"floor", b"floor\0"), start=revision + 2)
    begin, end = WatchBegin((watch,)), WatchEnd((revision + 4,))
    return (put, delete, Compact(revision + 2), begin, put, delete, end)


_REFUSED: Final[tuple[Ask, ...]] = (
    RaiseAlarm(),
    Txn(then=(Txn(then=(_KEPT,)),)),
    GrantAndRevoke(5, 9_000_000_001),
    Disarm(),
    Txn(then=(DeleteSpan(Span(_NOWHERE, None)), _KEPT)),
    _nested(TXN_DEPTH_MAX),
    _nested(TXN_DEPTH_MAX + 1),
    Get(b"k" * 70_000),
    Get(_NOWHERE, revision=-1),
    Range(Span(_NOWHERE, None), limit=-1),
    Range(Span(_NOWHERE, None), mod_revision_min=-1),
    Compact(-1),
    GrantAndRevoke(-7, 60),
    WatchBegin(
        (Watch(Span(_NOWHERE, None), start=-1), Watch(Span(b"", None), 0, False, False, False))
    ),
    WatchEnd((-1, 0)),
)
