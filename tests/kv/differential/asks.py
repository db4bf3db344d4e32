"""What both are asked beyond the store's own requests, and the neutral answers of both.

Answers are raftkv's own result values, with ids and what only one of the two tells left out.
"""

from __future__ import annotations

from typing import TypeAlias

from attrs import frozen

from raftkv.kv.model import (
    Change,
    DeleteResult,
    KeyValue,
    PutResult,
    RangeResult,
    Span,
    TxnResult,
)
from raftkv.kv.requests import (
    Compact,
    DeleteOne,
    DeleteSpan,
    Grant,
    Put,
    Range,
    Revoke,
    Txn,
)


@frozen
class Get:
    """One key, now or at a past revision."""

    key: bytes
    revision: int = 0


@frozen
class GrantAndRevoke:
    """Grant a lease under whatever id, 0 included, and revoke what was granted."""

    lease: int
    ttl: int


@frozen
class KeepAlive:
    lease: int


@frozen
class TimeToLive:
    lease: int
    keys: bool


@frozen
class ListLeases:
    pass


@frozen
class RaiseAlarm:
    """Say that there is no space left."""


@frozen
class Disarm:
    pass


@frozen
class Watch:
    """One watcher; ``start`` 0 is now."""

    span: Span
    start: int = 0
    previous: bool = False
    puts: bool = True
    deletes: bool = True


@frozen
class WatchBegin:
    """Watchers that begin together, and are there when this is answered."""

    watchers: tuple[Watch, ...]


@frozen
class WatchEnd:
    """What the open watchers saw.

    ``until`` is the last revision that each waits for; 0: it sees nothing, -1: it is refused.
    """

    until: tuple[int, ...]


Ask: TypeAlias = (
    Put | DeleteOne | DeleteSpan | Txn | Get | Range | Compact | Grant | Revoke | GrantAndRevoke
    | KeepAlive | TimeToLive | ListLeases | RaiseAlarm | Disarm | WatchBegin | WatchEnd
)  # fmt: skip


@frozen
class Wrong:
    """An error, by etcd's words without its prefixes."""

    words: str


@frozen
class Granted:
    """A lease, and at which revision; ``id`` 0 where the store chose it."""

    id: int
    ttl: int
    revision: int


@frozen
class Lives:
    """How a lease does: ``ttl`` is -1 if there is none, 0 if it lives, else what cannot be."""

    granted: int
    ttl: int
    keys: tuple[bytes, ...]


@frozen
class Ids:
    ids: tuple[int, ...]


@frozen
class At:
    """Done, as of a revision."""

    revision: int


@frozen
class Seen:
    """What each watcher saw, or why it could not begin."""

    changes: tuple[tuple[Change, ...] | Wrong, ...]


Answer: TypeAlias = (
    PutResult | DeleteResult | RangeResult | TxnResult | KeyValue | Wrong | Granted | Lives | Ids
    | At | Seen | None
)  # fmt: skip
