"""The edge of the KV: what callers may pass, and the sentence for what they may not.

Everything is checked here before anything is proposed, so an InvalidArgumentError means that
nothing left this member.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol, TypeVar

from raftkv.errors import (
    Error,
    InvalidArgumentError,
    InvariantError,
    RequestTooLargeError,
)
from raftkv.kv.model import (
    KEY_BYTES_MAX,
    REQUEST_BYTES_MAX,
    KvResult,
    Refused,
    Span,
    check_key,
    prefix_span,
    refused,
    to_bytes,
)

Option = TypeVar("Option", bound=Enum)


class LeaseHolder(Protocol):
    """What has the id of a lease: a ``Lease``, or what granting one returned."""

    @property
    def id(self) -> int:
        """The lease's id."""
        ...


def lease_of(lease: int | LeaseHolder | None) -> int:
    """The lease's id, 0 for none. Raises InvalidArgumentError for another type, or below 0."""
    if lease is None:
        return 0
    found = lease if isinstance(lease, int) else getattr(lease, "id", lease)
    if type(found) is not int or not 0 <= found < 2**63:
        raise InvalidArgumentError(
            f"lease must be a lease, its id (0 to 2**63 - 1) or None, not {lease!r}"
        )
    return found


def key_of(key: str | bytes) -> bytes:
    """``key`` as bytes. Raises InvalidArgumentError unless a store can hold it."""
    if type(key) is not bytes:
        key = to_bytes("key", key)
    if not 0 < len(key) <= KEY_BYTES_MAX:
        check_key("key", key)
    return key


def value_of(value: str | bytes | None) -> bytes:
    """``value`` as bytes. Raises InvalidArgumentError for another type."""
    return value if type(value) is bytes else to_bytes("value", value)


def span_of(
    start: str | bytes | None, stop: str | bytes | None, prefix: str | bytes | None
) -> Span:
    """The keys meant; all without arguments. Raises InvalidArgumentError for both ways at once."""
    if prefix is not None:
        if start is not None or stop is not None:
            raise InvalidArgumentError(
                "prefix says all about the range: leave out start and stop, or give them alone"
            )
        return prefix_span(bound_of("prefix", prefix))
    return Span(
        b"" if start is None else bound_of("start", start),
        None if stop is None else bound_of("stop", stop),
    )


def span_to_delete(
    start: str | bytes | None, stop: str | bytes | None, prefix: str | bytes | None
) -> Span:
    """The same for a delete, which has to say what it means."""
    if start is None and stop is None and prefix is None:
        raise InvalidArgumentError(
            "key is not provided: give delete a key, prefix=, or start= and stop=; "
            'prefix="" deletes everything'
        )
    return span_of(start, stop, prefix)


def bound_of(what: str, given: str | bytes) -> bytes:
    """One end of a span as bytes."""
    bound = to_bytes(what, given)
    return check_key(what, bound) if bound else bound


def check_count(what: str, given: int) -> int:
    """``given`` if it is an int and not negative. Raises InvalidArgumentError."""
    if type(given) is not int:
        raise InvalidArgumentError(f"{what} must be an int, not {type(given).__name__}")
    if given < 0:
        raise InvalidArgumentError(f"{what} must not be negative, but is {given}; 0 means none")
    if given >= 2**63:
        raise InvalidArgumentError(f"{what} must be below 2**63, but is {given}")
    return given


def flag_of(what: str, given: bool) -> bool:
    """``given`` if it is a bool. Raises InvalidArgumentError."""
    if given is not True and given is not False:
        raise InvalidArgumentError(f"{what} must be True or False, not {given!r}")
    return given


def option_of(what: str, given: Option, kind: type[Option]) -> Option:
    """``given`` if it is one of ``kind``. Raises InvalidArgumentError (etcd: sort option)."""
    if type(given) is not kind:
        names = ", ".join(f"{kind.__name__}.{one.name}" for one in kind)
        raise InvalidArgumentError(f"invalid sort option: {what} must be {names}, not {given!r}")
    return given


def too_large(size: int) -> RequestTooLargeError:
    """What a request of so many bytes hears."""
    return RequestTooLargeError(
        f"request is too large: {size} bytes, at most {REQUEST_BYTES_MAX}; split the value over "
        "several keys, or store it elsewhere and put a reference"
    )


def refusal_of(result: KvResult) -> Error:
    """The error for a command that was refused, or answered by something else."""
    if isinstance(result, Refused):
        return refused(result)
    return InvariantError(f"a KV command was answered with a {type(result).__name__}")
