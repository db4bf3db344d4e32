"""What can be asked of the store, as values: the same for applications, the log and a server.

:mod:`raftkv.kv.client.op` and :mod:`raftkv.kv.client.when` make them for applications,
:mod:`raftkv.kv.commands` gives them their bytes, :mod:`raftkv.kv.machine` their meaning. Names,
zeros and defaults are etcd's: what is 0, empty or False is as if it had not been said.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NoReturn, TypeAlias

from attrs import frozen

from raftkv.errors import InvalidArgumentError
from raftkv.kv.model import Span

TXN_OPERATIONS_MAX: Final = 128
"""Most comparisons, and most operations of one branch, of a transaction (etcd: ``max-txn-ops``)."""

TXN_PARTS_MAX: Final = 1024
"""Most comparisons and operations of a transaction with all those inside, in both branches.

etcd has no such bound: by its others, 1.5 MiB may hold 50,000, which all members would apply in one
go.
"""

TXN_DEPTH_MAX: Final = 8
"""Deepest nesting of transactions; 1 is one without another inside."""

LEASE_TTL_MAX: Final = 9_000_000_000
"""Longest time to live of a lease in seconds (etcd: ``too large lease TTL``)."""


class SortTarget(IntEnum):
    """By what a range is sorted. Numbers are etcd's."""

    KEY = 0
    VERSION = 1
    CREATE = 2
    MOD = 3
    VALUE = 4


class SortOrder(IntEnum):
    """Which way. ``NONE`` with a target other than ``KEY`` sorts ascending. Numbers are etcd's."""

    NONE = 0
    ASCEND = 1
    DESCEND = 2


@frozen(slots=True)
class Put:
    """Set ``key``. Without ``lease`` a lease that the key had is detached.

    ``previous`` asks for what the key was. ``ignore_value`` and ``ignore_lease`` keep what it has:
    ``value`` is empty, ``lease`` 0 then, and a key that does not exist is refused.
    """

    key: bytes
    value: bytes
    lease: int = 0
    previous: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False


@frozen(slots=True)
class DeleteOne:
    """Delete ``key`` if it exists."""

    key: bytes
    previous: bool = False


@frozen(slots=True)
class DeleteSpan:
    """Delete every key in ``span``, all in one revision."""

    span: Span
    previous: bool = False


@frozen(slots=True)
class Range:
    """Read the keys in ``span``, now (``revision`` 0) or as they were right after ``revision``.

    ``limit`` 0 is none. The four bounds are inclusive, 0 is none. ``count`` of the answer is that
    of the span, before bounds and limit.
    """

    span: Span
    limit: int = 0
    revision: int = 0
    order: SortOrder = SortOrder.NONE
    target: SortTarget = SortTarget.KEY
    keys_only: bool = False
    count_only: bool = False
    mod_revision_min: int = 0
    mod_revision_max: int = 0
    create_revision_min: int = 0
    create_revision_max: int = 0


class CompareTarget(IntEnum):
    """What of a key is compared. Numbers are etcd's."""

    VERSION = 0
    CREATE = 1
    MOD = 2
    VALUE = 3
    LEASE = 4


class CompareResult(IntEnum):
    """How what the key has must stand to what is given. Numbers are etcd's."""

    EQUAL = 0
    GREATER = 1
    LESS = 2
    NOT_EQUAL = 3


@frozen(slots=True)
class Compare:
    """A condition on one key, or on every key of a span.

    A key that does not exist, and a span without keys, compare as zeros; for ``VALUE`` they never
    satisfy anything. ``given`` is bytes for ``VALUE``, else an int.
    """

    keys: bytes | Span
    target: CompareTarget
    result: CompareResult
    given: int | bytes

    def __bool__(self) -> NoReturn:
        """Refused, so that nobody joins conditions by ``and``, or chains them, and loses one."""
        raise InvalidArgumentError(
            "a condition has no truth before the store decides it: give each one by itself to"
            " txn(when=[...])"
        )


@frozen(slots=True)
class Txn:
    """If all of ``when`` hold, ``then``, else ``otherwise``: in order, in one revision.

    One part that cannot be done leaves all of it undone, and its caller hears why.
    Operations see what earlier ones of the same transaction wrote; conditions do not.
    """

    when: tuple[Compare, ...] = ()
    then: tuple[Operation, ...] = ()
    otherwise: tuple[Operation, ...] = ()


Operation: TypeAlias = "Put | DeleteOne | DeleteSpan | Range | Txn"
"""What stands in a branch of a transaction."""


# --- commands that are not operations ------------------------------------------------------------


@frozen(slots=True)
class Compact:
    """Forget what is superseded at ``revision``; it stays readable itself."""

    revision: int


@frozen(slots=True)
class Sweep:
    """Remove rows that compaction made superfluous: at most ``events`` events' worth.

    Proposed by the leader's keeper, so that all members remove the same rows at the same index.
    """

    events: int


@frozen(slots=True)
class Grant:
    """Make a lease of ``ttl`` seconds. ``lease`` is its id, 0 lets the store choose."""

    lease: int
    ttl: int


@frozen(slots=True)
class Revoke:
    """End a lease and delete its keys, in one revision, in key order."""

    lease: int


KEPT_LEASES_MAX: Final = 1024
"""Most leases that a keeper names in one command."""


@frozen(slots=True)
class TakeOver:
    """A new leader keeps the leases from here on: what keepers before it decided is void.

    ``keeper`` is the leader's term.
    """

    keeper: int


@frozen(slots=True)
class Expire:
    """Revoke leases whose time is up, each in a revision of its own.

    Void unless ``keeper`` is still who keeps them. Of them those are meant that the keeper knew:
    none that was granted, under the same id, after the first ``since`` grants; 0: all.
    """

    keeper: int
    leases: tuple[int, ...]
    since: int = 0


@frozen(slots=True)
class Checkpoint:
    """Remember what remains of leases: id and seconds; 0: all of it.

    Void unless ``keeper`` is still who keeps them; ``since`` as in :class:`Expire`.
    """

    keeper: int
    remaining: tuple[tuple[int, int], ...]
    since: int = 0


class AlarmKind(IntEnum):
    """What is wrong. Numbers are etcd's."""

    NO_SPACE = 1
    CORRUPT = 2


@frozen(slots=True)
class SetAlarm:
    """Raise or, with ``active`` False, disarm the alarm of ``member``."""

    member: int
    kind: AlarmKind
    active: bool


@frozen(slots=True)
class OpenSession:
    """Make a lease as :class:`Grant` does, and a client session that lives as long as it does.

    The session gets a number that no other had or will have: done twice it makes two of them.
    """

    lease: int
    ttl: int


@frozen(slots=True)
class Once:
    """``command`` (its bytes), to be applied once however often it is proposed.

    ``session``, the number of one that was opened, and ``sequence`` identify it; results of
    sequences below ``answered`` are no longer asked for.
    """

    session: int
    sequence: int
    answered: int
    command: bytes


KvCommand: TypeAlias = (
    Put | DeleteOne | DeleteSpan | Txn | Compact | Sweep | Grant | Revoke | TakeOver | Expire
    | Checkpoint | SetAlarm | OpenSession | Once
)  # fmt: skip
"""What is replicated."""
