"""What a transaction does: ``from raftkv import op``.

    await kv.txn(then=[op.put("a", b"1"), op.delete(prefix="old/"), op.get("b")])

Each function makes a value and touches nothing; arguments mean what they mean to the method of the
same name of :class:`~raftkv.kv.client.kv.Kv`, and are checked at once. Values can be kept and used
again in other transactions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from attrs import frozen

from raftkv.errors import InvalidArgumentError
from raftkv.kv.checks import check_put
from raftkv.kv.client.edge import (
    LeaseHolder,
    check_count,
    flag_of,
    key_of,
    lease_of,
    option_of,
    span_of,
    span_to_delete,
    value_of,
)
from raftkv.kv.model import Span
from raftkv.kv.requests import (
    Compare,
    DeleteOne,
    DeleteSpan,
    Operation,
    Put,
    Range,
    SortOrder,
    SortTarget,
    Txn,
)

__all__ = ["Get", "delete", "get", "put", "range", "txn"]


@frozen(slots=True)
class Get(Range):
    """A range of one key, whose result is the key itself, or None."""


def put(
    key: str | bytes,
    value: str | bytes | None = None,
    *,
    lease: int | LeaseHolder | None = None,
    previous: bool = False,
    ignore_value: bool = False,
    ignore_lease: bool = False,
) -> Put:
    """Set ``key`` to ``value``; its result is a PutResult.

    A key may be put once in a transaction, and not deleted beside that. ``ignore_value`` and
    ``ignore_lease`` keep what the key has: without the key the whole transaction is refused.

    Raises InvalidArgumentError for an empty or oversized key, a wrong type, or a value or lease
    beside what ignores it.
    """
    keeps = flag_of("ignore_value", ignore_value)
    made = Put(
        key_of(key),
        b"" if keeps and value is None else value_of(value),
        lease_of(lease),
        flag_of("previous", previous),
        keeps,
        flag_of("ignore_lease", ignore_lease),
    )
    check_put(made)
    return made


def delete(
    key: str | bytes | None = None,
    *,
    start: str | bytes | None = None,
    stop: str | bytes | None = None,
    prefix: str | bytes | None = None,
    previous: bool = False,
) -> DeleteOne | DeleteSpan:
    """Delete ``key``, or all keys with ``prefix``, or all from ``start`` up to ``stop``.

    Its result is a DeleteResult. The deletes of a transaction may have 20,000 keys together, as
    ``kv.delete`` says. Raises InvalidArgumentError unless exactly one of the three ways is used.
    """
    wanted = flag_of("previous", previous)
    if key is None:
        return DeleteSpan(span_to_delete(start, stop, prefix), wanted)
    if start is not None or stop is not None or prefix is not None:
        raise InvalidArgumentError(
            "delete takes a key, or prefix=, or start= and stop=, and not several of them"
        )
    return DeleteOne(key_of(key), wanted)


def get(key: str | bytes, *, revision: int = 0) -> Get:
    """Read ``key``, with what the transaction wrote so far, or as it was right after ``revision``.

    Its result is a KeyValue, or None. A revision that cannot be read refuses the transaction.
    Raises InvalidArgumentError for an empty or oversized key, or a negative revision.
    """
    key = key_of(key)
    return Get(Span(key, key + b"\0"), revision=check_count("revision", revision))


def range(
    start: str | bytes | None = None,
    stop: str | bytes | None = None,
    *,
    prefix: str | bytes | None = None,
    limit: int = 0,
    revision: int = 0,
    order: SortOrder = SortOrder.NONE,
    sort_by: SortTarget = SortTarget.KEY,
    keys_only: bool = False,
    count_only: bool = False,
    min_mod_revision: int = 0,
    max_mod_revision: int = 0,
    min_create_revision: int = 0,
    max_create_revision: int = 0,
) -> Range:
    """Read the keys from ``start`` up to and excluding ``stop``, or with ``prefix``.

    It shows what the transaction wrote so far, or how it was right after ``revision``. Its result
    is a RangeResult. Raises InvalidArgumentError for ``prefix`` beside ``start`` or ``stop``, a
    negative number, or an order or target of another type.
    """
    return Range(
        span_of(start, stop, prefix),
        check_count("limit", limit),
        check_count("revision", revision),
        option_of("order", order, SortOrder),
        option_of("sort_by", sort_by, SortTarget),
        flag_of("keys_only", keys_only),
        flag_of("count_only", count_only),
        check_count("min_mod_revision", min_mod_revision),
        check_count("max_mod_revision", max_mod_revision),
        check_count("min_create_revision", min_create_revision),
        check_count("max_create_revision", max_create_revision),
    )


def txn(
    *,
    when: Iterable[Compare] = (),
    then: Iterable[Operation] = (),
    otherwise: Iterable[Operation] = (),
) -> Txn:
    """A transaction inside another: all its ``when`` decide which of the two is done.

    Like all conditions, they see the store as it was before the outermost transaction. Its result
    is a TxnResult. Raises InvalidArgumentError for what is no condition or operation.
    """
    return Txn(_conditions(when), _operations("then", then), _operations("otherwise", otherwise))


def _conditions(given: Iterable[object]) -> tuple[Compare, ...]:
    found: list[Compare] = []
    for one in _several("when", given):
        if not isinstance(one, Compare):
            raise InvalidArgumentError(
                f'when takes conditions such as when.value("a") == b"1", not {one!r}'
            )
        found.append(one)
    return tuple(found)


def _operations(what: str, given: Iterable[object]) -> tuple[Operation, ...]:
    found: list[Operation] = []
    for one in _several(what, given):
        if not isinstance(one, Put | DeleteOne | DeleteSpan | Range | Txn):
            raise InvalidArgumentError(
                f'{what} takes operations such as op.put("a", b"1"), not {one!r}'
            )
        found.append(one)
    return tuple(found)


def _several(what: str, given: object) -> tuple[object, ...]:
    try:
        return tuple(cast("Iterable[object]", given))
    except TypeError:
        raise InvalidArgumentError(f"{what} takes a list, not {given!r}") from None
