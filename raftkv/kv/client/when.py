"""Conditions of a transaction: ``from raftkv import when``.

    when.value("a") == b"1"        when.version("a") > 3        when.absent("b")
    when.exists(prefix="jobs/")    when.lease("a") == lease     when.mod_revision(prefix="") < 900

What a key has is compared by ``==``, ``!=``, ``<`` and ``>``, as etcd does; each comparison gives a
:class:`~raftkv.kv.requests.Compare` for ``txn(when=[...])``, all of which must hold. They see the
store as it was before the transaction.

With ``prefix``, or ``start`` and ``stop``, every key there must satisfy the condition. A key that
does not exist, and a range without any, compare with version, revisions and lease 0; their value
satisfies nothing, not even ``!=``.

A condition has no truth before the store decides it: ``and``, ``or``, ``if`` and chains such as
``1 < when.version("a") < 5`` raise InvalidArgumentError. Write two conditions.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Generic, TypeVar

from attrs import frozen

from raftkv.errors import InvalidArgumentError
from raftkv.kv.client.edge import LeaseHolder, key_of, lease_of, span_of
from raftkv.kv.model import Span, to_bytes
from raftkv.kv.requests import Compare, CompareResult, CompareTarget

__all__ = [
    "Lease",
    "Number",
    "Value",
    "absent",
    "create_revision",
    "exists",
    "lease",
    "mod_revision",
    "value",
    "version",
]

T_contra = TypeVar("T_contra", contravariant=True)


# Its operators answer with a condition instead of a bool, as those of expression builders do: two
# of these objects cannot be compared with each other, and none can be looked up by its hash.
class _Subject(Generic[T_contra]):
    __slots__ = ()

    __hash__: ClassVar[None]  # pyright: ignore[reportIncompatibleMethodOverride] - see above

    # See above.
    def __eq__(self, given: T_contra) -> Compare:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._compare(CompareResult.EQUAL, given)

    # See above.
    def __ne__(self, given: T_contra) -> Compare:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._compare(CompareResult.NOT_EQUAL, given)

    def __lt__(self, given: T_contra) -> Compare:
        return self._compare(CompareResult.LESS, given)

    def __gt__(self, given: T_contra) -> Compare:
        return self._compare(CompareResult.GREATER, given)

    @abstractmethod
    def _compare(self, result: CompareResult, given: T_contra) -> Compare: ...


@frozen(slots=True, eq=False)
class Value(_Subject[str | bytes]):
    """The value of a key, or of each key of a range. Bytes are compared as they sort."""

    keys: bytes | Span

    def _compare(self, result: CompareResult, given: str | bytes) -> Compare:
        return Compare(self.keys, CompareTarget.VALUE, result, to_bytes("a value", given))


@frozen(slots=True, eq=False)
class Number(_Subject[int]):
    """A version or revision of a key, or of each key of a range."""

    keys: bytes | Span
    target: CompareTarget

    def _compare(self, result: CompareResult, given: int) -> Compare:
        if type(given) is not int or not -(2**63) <= given < 2**63:
            what = self.target.name.lower()
            raise InvalidArgumentError(
                f"{what} is compared with an int of at most 64 bits, not {given!r}"
            )
        return Compare(self.keys, self.target, result, given)


@frozen(slots=True, eq=False)
class Lease(_Subject[int | LeaseHolder]):
    """The lease of a key, or of each key of a range; 0 for none."""

    keys: bytes | Span

    def _compare(self, result: CompareResult, given: int | LeaseHolder) -> Compare:
        return Compare(self.keys, CompareTarget.LEASE, result, lease_of(given))


def value(
    key: str | bytes | None = None,
    *,
    start: str | bytes | None = None,
    stop: str | bytes | None = None,
    prefix: str | bytes | None = None,
) -> Value:
    """What ``key`` is set to. What does not exist has no value, and satisfies nothing.

    Raises InvalidArgumentError unless it is one key, ``prefix``, or ``start`` and ``stop``; so do
    all functions here.
    """
    return Value(_keys(key, start, stop, prefix))


def version(
    key: str | bytes | None = None,
    *,
    start: str | bytes | None = None,
    stop: str | bytes | None = None,
    prefix: str | bytes | None = None,
) -> Number:
    """How often ``key`` was put since it was created; 0 if it does not exist."""
    return Number(_keys(key, start, stop, prefix), CompareTarget.VERSION)


def create_revision(
    key: str | bytes | None = None,
    *,
    start: str | bytes | None = None,
    stop: str | bytes | None = None,
    prefix: str | bytes | None = None,
) -> Number:
    """The revision that created ``key``; 0 if it does not exist."""
    return Number(_keys(key, start, stop, prefix), CompareTarget.CREATE)


def mod_revision(
    key: str | bytes | None = None,
    *,
    start: str | bytes | None = None,
    stop: str | bytes | None = None,
    prefix: str | bytes | None = None,
) -> Number:
    """The revision that changed ``key`` last; 0 if it does not exist."""
    return Number(_keys(key, start, stop, prefix), CompareTarget.MOD)


def lease(
    key: str | bytes | None = None,
    *,
    start: str | bytes | None = None,
    stop: str | bytes | None = None,
    prefix: str | bytes | None = None,
) -> Lease:
    """The KV lease that ``key`` is attached to, to be compared with a lease or its id."""
    return Lease(_keys(key, start, stop, prefix))


def exists(
    key: str | bytes | None = None,
    *,
    start: str | bytes | None = None,
    stop: str | bytes | None = None,
    prefix: str | bytes | None = None,
) -> Compare:
    """``key`` exists; of a range: at least one key does."""
    return create_revision(key, start=start, stop=stop, prefix=prefix) > 0


def absent(
    key: str | bytes | None = None,
    *,
    start: str | bytes | None = None,
    stop: str | bytes | None = None,
    prefix: str | bytes | None = None,
) -> Compare:
    """``key`` does not exist; of a range: no key does."""
    return create_revision(key, start=start, stop=stop, prefix=prefix) == 0


def _keys(
    key: str | bytes | None,
    start: str | bytes | None,
    stop: str | bytes | None,
    prefix: str | bytes | None,
) -> bytes | Span:
    if key is None:
        if start is None and stop is None and prefix is None:
            raise InvalidArgumentError(
                "key is not provided: give the condition a key, prefix=, or start= and stop="
            )
        return span_of(start, stop, prefix)
    if start is not None or stop is not None or prefix is not None:
        raise InvalidArgumentError(
            "a condition takes a key, or prefix=, or start= and stop=, and not several of them"
        )
    return key_of(key)
