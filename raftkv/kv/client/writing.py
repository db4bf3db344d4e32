"""The writing half of :class:`~raftkv.kv.client.kv.Kv`."""

from __future__ import annotations

from collections.abc import Iterable

from raftkv.errors import InvalidArgumentError
from raftkv.kv.checks import check_put, check_txn
from raftkv.kv.client import op
from raftkv.kv.client.base import Part
from raftkv.kv.client.edge import (
    LeaseHolder,
    flag_of,
    key_of,
    lease_of,
    refusal_of,
    span_to_delete,
    value_of,
)
from raftkv.kv.commands import encode, encode_delete, encode_delete_span, encode_put
from raftkv.kv.model import DeleteResult, OperationResult, PutResult, RangeResult, TxnResult
from raftkv.kv.requests import Compare, Operation, Put, Txn


class Writing(Part):
    """Puts, deletes and transactions."""

    async def put(
        self,
        key: str | bytes,
        value: str | bytes | None = None,
        *,
        lease: int | LeaseHolder | None = None,
        previous: bool = False,
        ignore_value: bool = False,
        ignore_lease: bool = False,
        timeout: float = 5.0,
    ) -> PutResult:
        """Set ``key`` to ``value``; on return that is durable on a majority.

        ``lease`` attaches the key to a KV lease, with which it goes; without one, a lease that it
        had is detached. ``ignore_value`` keeps the value it has (give none then), ``ignore_lease``
        its lease. With ``previous`` the result holds what the key was before.

        Raises InvalidArgumentError for an empty or oversized key or a wrong type, KeyNotFoundError
        where something shall be kept of a key that does not exist, LeaseNotFoundError for a lease
        that is not there, NoSpaceError at the quota, RequestTooLargeError beyond 1.5 MiB, or for a
        lease that has 20,000 keys already (see ``grant``).
        """
        key = key_of(key)
        wanted = flag_of("previous", previous)
        if ignore_value is False and ignore_lease is False:
            data = encode_put(key, value_of(value), lease_of(lease), wanted)
        else:
            keeps = flag_of("ignore_value", ignore_value)
            given = b"" if keeps and value is None else value_of(value)
            put = Put(
                key, given, lease_of(lease), wanted, keeps, flag_of("ignore_lease", ignore_lease)
            )
            check_put(put)
            data = encode(put)
        result = await self._propose(data, timeout)
        if type(result) is PutResult:
            return result
        raise refusal_of(result)

    async def delete(
        self,
        key: str | bytes | None = None,
        *,
        start: str | bytes | None = None,
        stop: str | bytes | None = None,
        prefix: str | bytes | None = None,
        previous: bool = False,
        timeout: float = 5.0,
    ) -> DeleteResult:
        r"""Delete ``key``, or all keys with ``prefix``, or all from ``start`` up to ``stop``.

        ``stop`` itself stays. All of them in one revision; deleting what does not exist is no error
        and makes none. With ``previous`` the result holds what they were. ``prefix=""`` deletes
        everything.

        Every member applies a delete in one go, so that one delete has at most 20,000 keys (one
        longer than a KiB counts for several), where etcd has no bound. More go in parts, each a
        revision of its own::

            while found := (await kv.range(prefix="old/", limit=10_000, keys_only=True)).items:
                await kv.delete(start="old/", stop=found[-1].key + b"\0")

        Raises InvalidArgumentError unless exactly one of the three ways is used;
        RequestTooLargeError, and deletes nothing, beyond 20,000 keys, or if ``previous`` would give
        more than 32 MiB.
        """
        wanted = flag_of("previous", previous)
        if key is None:
            data = encode_delete_span(span_to_delete(start, stop, prefix), wanted)
        elif start is None and stop is None and prefix is None:
            data = encode_delete(key_of(key), wanted)
        else:
            raise InvalidArgumentError(
                "delete takes a key, or prefix=, or start= and stop=, and not several of them"
            )
        result = await self._propose(data, timeout)
        if type(result) is DeleteResult:
            return result
        raise refusal_of(result)

    async def txn(
        self,
        *,
        when: Iterable[Compare] = (),
        then: Iterable[Operation] = (),
        otherwise: Iterable[Operation] = (),
        timeout: float = 5.0,
    ) -> TxnResult:
        """If all of ``when`` hold, do ``then``, else ``otherwise``: all of it in one revision.

        Conditions are made by ``raftkv.when``, operations by ``raftkv.op``; without a
        condition ``then`` is done. Operations see what earlier ones wrote; conditions see the store
        as it was. One that cannot be done, for want of a lease, a key or a revision, leaves all
        undone, and raises what it would alone. ``results`` of the answer are those of the branch
        taken, in order: of ``op.get`` a KeyValue or None, of others what the method of that name
        returns. ``revision`` is the new one, or the unchanged one if nothing was written.

        Every member applies a transaction in one go. So, where etcd has no bounds, its deletes have
        20,000 keys at most, as the store was before, one that several name counted for each; its
        conditions and ranges look at 50,000, a range at all in it whatever its limit; and what its
        ranges and ``previous`` find takes 32 MiB.

        Raises InvalidArgumentError beyond 128 conditions or operations of a branch, those around a
        transaction inside included, or 1,024 in all, or for a key that both of two operations would
        change, in whichever branch; RequestTooLargeError beyond 1.5 MiB, or if its deletes or its
        conditions go beyond those bounds; OutcomeUnknownError, which says that it was done, if its
        ranges or ``previous`` do; TooManyRequestsError if for all of ``timeout`` others that were
        proposed beside it found too much.
        """
        asked = op.txn(when=when, then=then, otherwise=otherwise)
        check_txn(asked)
        result = await self._propose(encode(asked), timeout)
        if type(result) is TxnResult:
            return _as_asked(asked, result)
        raise refusal_of(result)


def _as_asked(txn: Txn, result: TxnResult) -> TxnResult:
    """The result with that of each get as its caller wants it."""
    branch = txn.then if result.succeeded else txn.otherwise
    results: list[OperationResult] = []
    for operation, given in zip(branch, result.results, strict=True):
        if isinstance(operation, op.Get) and isinstance(given, RangeResult):
            results.append(given.items[0] if given.items else None)
        elif isinstance(operation, Txn) and isinstance(given, TxnResult):
            results.append(_as_asked(operation, given))
        else:
            results.append(given)
    return TxnResult(result.revision, result.succeeded, tuple(results))
