"""What applications hold: keys with their revisions, spans of keys, and the results of operations.

Words as in etcd: a *revision* counts the writes of the whole store (a fresh store is at 1, its
first write makes 2), a *version* counts the writes of one key since it was created, and a delete
ends that life.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, TypeAlias, assert_never

from attrs import frozen

from raftkv.errors import (
    CompactedError,
    Error,
    FutureRevisionError,
    InvalidArgumentError,
    KeyNotFoundError,
    LeaseExistsError,
    LeaseNotFoundError,
    NoSpaceError,
    OutcomeUnknownError,
    RequestTooLargeError,
    SessionNotFoundError,
    TooManyRequestsError,
)

FIRST_REVISION: Final = 1
"""The revision of a store that nobody has written to."""

KEY_BYTES_MAX: Final = 64 * 1024
"""Longest key; a longer one is refused before it is proposed."""

REQUEST_BYTES_MAX: Final = 1536 * 1024
"""Longest encoded command (etcd's 1.5 MiB); a longer one is refused before it is proposed."""


@frozen(slots=True)
class KeyValue:
    """One key as of one revision.

    ``create_revision`` is the revision that created it in its present life, ``mod_revision`` the
    one that changed it last, ``version`` the number of puts since creation (1 at first), ``lease``
    the id of the KV lease it is attached to, or 0.
    """

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


@frozen(slots=True)
class PutResult:
    """A put, as ``revision``; ``previous`` is what it replaced, if that was asked for."""

    revision: int
    previous: KeyValue | None = None


@frozen(slots=True)
class DeleteResult:
    """How many keys were deleted; if none, ``revision`` is the store's unchanged one.

    ``previous`` holds what they were, in key order, if that was asked for.
    """

    revision: int
    deleted: int
    previous: tuple[KeyValue, ...] = ()


@frozen(slots=True)
class RangeResult:
    """The keys found, in key order, as of the revision asked for.

    ``count`` is the number of keys in the range whatever the limit (unless ``counted=False`` was
    asked: then it is the number of items). ``more`` says that the limit cut the items short.
    ``revision`` is the store's current one at the time of the read, not the one asked for.
    """

    items: tuple[KeyValue, ...]
    count: int
    more: bool
    revision: int


class Refusal(IntEnum):
    """Why a command was refused. Each is an error class; etcd's words stand in the message.

    ``RESULT_NOT_KEPT`` alone is of one that was done, when it was asked for again, or when its
    ranges and ``previous`` found too much.
    """

    INVALID = 0
    KEY_NOT_FOUND = 1
    LEASE_NOT_FOUND = 2
    LEASE_EXISTS = 3
    NO_SPACE = 4
    COMPACTED = 5
    FUTURE_REVISION = 6
    TOO_MANY_LEASES = 7
    SESSION_NOT_FOUND = 8
    TOO_MANY_UNANSWERED = 9
    NOT_KEEPER = 10
    RESULT_NOT_KEPT = 11
    TOO_LARGE = 12
    ENTRY_FULL = 13


@frozen(slots=True)
class Refused:
    """A command that every member refused alike, without effect; ``message`` says why.

    ``revision`` is what CompactedError and FutureRevisionError carry.
    """

    message: str
    why: Refusal = Refusal.INVALID
    revision: int = 0


@frozen(slots=True)
class TxnResult:
    """What a transaction did: which branch, and what each of its operations gave, in order.

    ``revision`` is the new one, or the store's unchanged one if nothing was written.
    """

    revision: int
    succeeded: bool
    results: tuple[OperationResult, ...]


@frozen(slots=True)
class CompactResult:
    """A compaction; ``revision`` is the store's current one, ``floor`` the oldest readable now."""

    revision: int
    floor: int


@frozen(slots=True)
class KvHash:
    """What the store held from ``floor`` to ``revision``, as one number in hexadecimal.

    Members that hold the same have the same hash at the same revision and floor.
    """

    hash: str
    revision: int
    floor: int


@frozen(slots=True)
class LeaseResult:
    """A lease as granted: its id and the seconds it lives without being kept alive."""

    id: int
    ttl: int
    revision: int


@frozen(slots=True)
class SessionResult:
    """A client session as opened: its number, which no other ever has, and the lease it lives by.

    ``revision`` is the store's.
    """

    session: int
    lease: int
    revision: int


@frozen(slots=True)
class Done:
    """A command that has nothing to tell but the store's revision.

    ``left`` is what is left to do, for a command that does a part of something.
    """

    revision: int
    left: int = 0


OperationResult: TypeAlias = "PutResult | DeleteResult | RangeResult | TxnResult | KeyValue | None"
"""What an operation in a transaction gives; the last two for who asked for one key."""

KvResult: TypeAlias = (
    PutResult
    | DeleteResult
    | TxnResult
    | CompactResult
    | LeaseResult
    | SessionResult
    | Done
    | Refused
)
"""What applying one command gives."""


# --- watching -------------------------------------------------------------------------------------


class EventKind(IntEnum):
    """How a key changed. Numbers are etcd's."""

    PUT = 0
    DELETE = 1


@frozen(slots=True)
class KeyEvent:
    """One key changed.

    ``kv`` is what it is now; of a deleted key only ``key`` and ``mod_revision``, the rest is empty.
    ``previous`` is what it was, if that was asked for, it existed, and compaction has not taken it.
    """

    kind: EventKind
    kv: KeyValue
    previous: KeyValue | None = None

    @property
    def is_create(self) -> bool:
        """Whether the key began to exist."""
        return self.kind is EventKind.PUT and self.kv.create_revision == self.kv.mod_revision


@frozen(slots=True)
class Change:
    """Everything of one revision that a watcher asked for, in the order of its operations.

    ``is_fragment``: more of this revision follows (only if fragments were asked for). Without
    events it is a progress mark: everything up to ``revision`` has been delivered.
    """

    revision: int
    events: tuple[KeyEvent, ...]
    is_fragment: bool = False


@frozen(slots=True)
class Span:
    """The keys from ``start`` up to and excluding ``stop``; None means to the end."""

    start: bytes
    stop: bytes | None

    @property
    def is_empty(self) -> bool:
        """Whether no key can lie in it."""
        return self.stop is not None and self.start >= self.stop


EVERYTHING: Final = Span(b"", None)


def prefix_stop(prefix: bytes) -> bytes | None:
    """The first key behind all keys that begin with ``prefix``; None if there is none.

    The last byte below 0xff is incremented and what follows it dropped.
    """
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return None
    return stripped[:-1] + bytes((stripped[-1] + 1,))


def prefix_span(prefix: bytes) -> Span:
    """All keys that begin with ``prefix``; every key for the empty prefix."""
    return Span(prefix, prefix_stop(prefix))


def to_bytes(what: str, given: object) -> bytes:
    """``given`` as bytes: ``str`` is encoded as UTF-8, ``bytes`` taken as they are.

    Anything else raises InvalidArgumentError, in whose sentence ``what`` names the argument.
    """
    if isinstance(given, str):
        try:
            return given.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(
                f"{what} cannot be encoded as UTF-8 ({error.reason}); pass bytes instead"
            ) from error
    if isinstance(given, bytes):
        return bytes(given)
    raise InvalidArgumentError(f"{what} must be str or bytes, not {type(given).__name__}")


def check_key(what: str, key: bytes) -> bytes:
    """``key`` if a store can hold it. Raises InvalidArgumentError if it is empty or too long."""
    if not key:
        raise InvalidArgumentError(
            f"key is not provided: {what} is empty; give it at least one byte"
        )
    if len(key) > KEY_BYTES_MAX:
        raise InvalidArgumentError(
            f"{what} is too large: {len(key)} bytes, at most {KEY_BYTES_MAX}; shorten it"
        )
    return key


def refused(result: Refused) -> Error:
    """The error that a refused command becomes at its caller."""
    match result.why:
        case Refusal.INVALID | Refusal.NOT_KEEPER:
            return InvalidArgumentError(result.message)
        case Refusal.KEY_NOT_FOUND:
            return KeyNotFoundError(result.message)
        case Refusal.LEASE_NOT_FOUND:
            return LeaseNotFoundError(result.message)
        case Refusal.LEASE_EXISTS:
            return LeaseExistsError(result.message)
        case Refusal.NO_SPACE:
            return NoSpaceError(result.message)
        case Refusal.COMPACTED:
            return CompactedError(result.message, result.revision)
        case Refusal.FUTURE_REVISION:
            return FutureRevisionError(result.message, result.revision)
        case Refusal.SESSION_NOT_FOUND:
            return SessionNotFoundError(result.message)
        case Refusal.TOO_MANY_LEASES | Refusal.TOO_MANY_UNANSWERED | Refusal.ENTRY_FULL:
            return TooManyRequestsError(result.message)
        case Refusal.RESULT_NOT_KEPT:
            return OutcomeUnknownError(result.message)
        case Refusal.TOO_LARGE:
            return RequestTooLargeError(result.message)
        case _:
            assert_never(result.why)
