"""Every error that etcd has for requests of the store, met through ``Kv``: class and words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import raftkv
from raftkv import op, when
from raftkv.errors import (
    CompactedError,
    Error,
    FutureRevisionError,
    InvalidArgumentError,
    KeyNotFoundError,
    LeaseExistsError,
    LeaseNotFoundError,
    NoSpaceError,
    RequestTooLargeError,
    TooManyRequestsError,
)
from raftkv.kv import leases
from raftkv.kv.model import EVERYTHING, REQUEST_BYTES_MAX
from raftkv.kv.requests import (
    LEASE_TTL_MAX,
    AlarmKind,
    Compact,
    DeleteOne,
    Grant,
    Put,
    SetAlarm,
    Txn,
)
from tests.kv.test_client import Bench

Call = Callable[[Any], Awaitable[object]]
Row = tuple[str, Call, type[Error], str]

_MANY = [op.get("k")] * 129
_HALF = [op.get("k")] * 65
_DUPLICATE = "duplicate key given in txn request"
_TOO_MANY = "too many operations in txn request"


def nested(depth: int) -> raftkv.Operation:
    inner: raftkv.Operation = op.put("deep", "")
    for _ in range(depth):
        inner = op.txn(then=[inner])
    return inner


# What leaves nothing behind, and is not even proposed.
AT_THE_EDGE: list[Row] = [
    ("no key", lambda kv: kv.put("", "v"), InvalidArgumentError, "key is not provided"),
    ("no key in a get", lambda kv: kv.get(""), InvalidArgumentError, "key is not provided"),
    ("nothing deleted", lambda kv: kv.delete(), InvalidArgumentError, "key is not provided"),
    (
        "no key in a transaction",
        lambda kv: kv.txn(otherwise=[Put(b"", b"")]),
        InvalidArgumentError,
        "key is not provided",
    ),
    (
        "no key deep in a transaction",
        lambda kv: kv.txn(then=[op.txn(otherwise=[DeleteOne(b"")])]),
        InvalidArgumentError,
        "key is not provided",
    ),
    (
        "no key in a condition",
        lambda kv: kv.txn(when=[raftkv.Compare(b"", *_version())]),
        InvalidArgumentError,
        "key is not provided",
    ),
    (
        "value is provided",
        lambda kv: kv.put("k", "v", ignore_value=True),
        InvalidArgumentError,
        "value is provided",
    ),
    (
        "value is provided in a transaction",
        lambda kv: kv.txn(then=[Put(b"k", b"v", ignore_value=True)]),
        InvalidArgumentError,
        "value is provided",
    ),
    (
        "lease is provided",
        lambda kv: kv.put("k", "v", lease=7, ignore_lease=True),
        InvalidArgumentError,
        "lease is provided",
    ),
    ("too many then", lambda kv: kv.txn(then=_MANY), InvalidArgumentError, _TOO_MANY),
    ("too many otherwise", lambda kv: kv.txn(otherwise=_MANY), InvalidArgumentError, _TOO_MANY),
    (
        "too many conditions",
        lambda kv: kv.txn(when=[when.exists("k")] * 129),
        InvalidArgumentError,
        _TOO_MANY,
    ),
    (
        "too many with those around",
        lambda kv: kv.txn(then=[*_HALF[1:], op.txn(then=_HALF)]),
        InvalidArgumentError,
        _TOO_MANY,
    ),
    ("too deep", lambda kv: kv.txn(then=[nested(8)]), InvalidArgumentError, "8"),
    (
        "put twice",
        lambda kv: kv.txn(then=[op.put("k", "1"), op.put("k", "2")]),
        InvalidArgumentError,
        _DUPLICATE,
    ),
    (
        "put twice in the branch not taken",
        lambda kv: kv.txn(otherwise=[op.put("k", "1"), op.put("k", "2")]),
        InvalidArgumentError,
        _DUPLICATE,
    ),
    (
        "put and deleted",
        lambda kv: kv.txn(then=[op.put("k1", "1"), op.delete(prefix="k")]),
        InvalidArgumentError,
        _DUPLICATE,
    ),
    (
        "put beside a transaction that puts",
        lambda kv: kv.txn(then=[op.put("k", "1"), op.txn(otherwise=[op.put("k", "2")])]),
        InvalidArgumentError,
        _DUPLICATE,
    ),
    (
        "too large",
        lambda kv: kv.put("k", bytes(REQUEST_BYTES_MAX)),
        RequestTooLargeError,
        "request is too large",
    ),
    (
        "a transaction too large",
        lambda kv: kv.txn(then=[op.put(key, bytes(REQUEST_BYTES_MAX // 2)) for key in "ab"]),
        RequestTooLargeError,
        "request is too large",
    ),
    ("no order", lambda kv: kv.range(order=1), InvalidArgumentError, "invalid sort option"),
    ("no target", lambda kv: kv.range(sort_by="mod"), InvalidArgumentError, "invalid sort option"),
    (
        "bounds",
        lambda kv: kv.range(min_mod_revision=-1),
        InvalidArgumentError,
        "min_mod_revision must not be negative",
    ),
    (
        "a bound beyond 63 bits",
        lambda kv: kv.range(max_create_revision=2**63),
        InvalidArgumentError,
        "below 2",
    ),
    ("no lease", lambda kv: kv.put("k", "v", lease="7"), InvalidArgumentError, "lease must be"),
    ("a lease below 0", lambda kv: kv.put("k", "", lease=-1), InvalidArgumentError, "lease must"),
    (
        "too long a lease",
        lambda kv: kv.grant(LEASE_TTL_MAX + 1),
        InvalidArgumentError,
        "too large lease TTL",
    ),
    ("no conditions", lambda kv: kv.txn(when=7), InvalidArgumentError, "when takes a list"),
    ("no condition", lambda kv: kv.txn(when=[7]), InvalidArgumentError, "when takes conditions"),
    ("no operation", lambda kv: kv.txn(then=["k"]), InvalidArgumentError, "then takes operations"),
]

# What every member refuses alike.
BY_THE_STORE: list[Row] = [
    (
        "key not found",
        lambda kv: kv.put("absent", ignore_value=True),
        KeyNotFoundError,
        "key not found",
    ),
    (
        "key not found in a transaction",
        lambda kv: kv.txn(then=[op.put("a", ""), op.put("absent", "", ignore_lease=True)]),
        KeyNotFoundError,
        "key not found",
    ),
    (
        "lease not found",
        lambda kv: kv.put("k", "v", lease=7),
        LeaseNotFoundError,
        "requested lease not found",
    ),
    (
        "lease not found in a transaction",
        lambda kv: kv.txn(then=[op.put("a", ""), op.put("b", "", lease=7)]),
        LeaseNotFoundError,
        "requested lease not found",
    ),
    ("revoked", lambda kv: kv.revoke(7), LeaseNotFoundError, "requested lease not found"),
    ("lease exists", lambda kv: kv.grant(60, id=5), LeaseExistsError, "lease already exists"),
    ("future", lambda kv: kv.get("k", revision=99), FutureRevisionError, "is a future revision"),
    (
        "future in a transaction",
        lambda kv: kv.txn(then=[op.put("a", ""), op.get("k", revision=99)]),
        FutureRevisionError,
        "is a future revision",
    ),
    ("compacted", lambda kv: kv.range(revision=2), CompactedError, "has been compacted"),
    (
        "compacted in a transaction",
        lambda kv: kv.txn(then=[op.put("a", ""), op.range(revision=2)]),
        CompactedError,
        "has been compacted",
    ),
    ("compacted twice", lambda kv: kv.compact(3), CompactedError, "has been compacted"),
    ("compacted ahead", lambda kv: kv.compact(99), FutureRevisionError, "is a future revision"),
]


def _version() -> tuple[Any, Any, int]:
    made = when.version("k") == 1
    assert isinstance(made.given, int)
    return made.target, made.result, made.given


def stocked() -> Bench:
    """A store at revision 4, compacted at 3, with lease 5."""
    bench = Bench()
    bench.rig.apply([Put(b"k", b"1"), Put(b"k", b"2"), Put(b"k", b"3"), Compact(3), Grant(5, 60)])
    return bench


@pytest.mark.parametrize(
    ("call", "kind", "words"), [row[1:] for row in AT_THE_EDGE], ids=[row[0] for row in AT_THE_EDGE]
)
async def test_what_no_store_would_take_is_refused_before_it_is_proposed(
    call: Call, kind: type[Error], words: str
) -> None:
    bench = stocked()
    before = bench.rig.rows()
    with pytest.raises(kind, match=words) as caught:
        await call(bench.kv)
    assert not caught.value.may_have_happened
    assert bench.node.asked == []
    assert bench.rig.rows() == before


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [row[1:] for row in BY_THE_STORE],
    ids=[row[0] for row in BY_THE_STORE],
)
async def test_what_the_store_refuses_changes_nothing(
    call: Call, kind: type[Error], words: str
) -> None:
    bench = stocked()
    before = bench.rig.rows()
    with pytest.raises(kind, match=words) as caught:
        await call(bench.kv)
    assert not caught.value.may_have_happened
    assert bench.rig.rows() == before
    if isinstance(caught.value, CompactedError | FutureRevisionError):
        assert caught.value.revision == (3 if isinstance(caught.value, CompactedError) else 4)


TAKES_SPACE: dict[str, Call] = {
    "put": lambda kv: kv.put("a", "v"),
    "txn": lambda kv: kv.txn(otherwise=[op.txn(then=[op.put("a", "v")])]),
    "grant": lambda kv: kv.grant(60),
}


@pytest.mark.parametrize("call", TAKES_SPACE.values(), ids=TAKES_SPACE)
async def test_without_space_what_takes_some_is_refused_and_the_rest_goes_on(call: Call) -> None:
    bench = stocked()
    bench.rig.apply([SetAlarm(1, AlarmKind.NO_SPACE, True)])
    with pytest.raises(NoSpaceError, match="database space exceeded") as caught:
        await call(bench.kv)
    assert not caught.value.may_have_happened
    assert await bench.kv.get("k") is not None
    done = await bench.kv.txn(then=[op.delete("k"), op.get("k")])
    assert done.results[1] is None
    await bench.kv.revoke(5)


async def test_there_are_so_many_leases_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASES_MAX", 2)
    bench = stocked()
    await bench.kv.grant(60)
    with pytest.raises(TooManyRequestsError, match="too many"):
        await bench.kv.grant(60)
    await bench.kv.revoke(5)
    await bench.kv.grant(60)


async def test_what_may_be_is_done_up_to_the_bounds() -> None:
    bench = stocked()
    done = await bench.kv.txn(then=[op.put(f"{number}", "") for number in range(128)])
    assert len(done.results) == 128
    done = await bench.kv.txn(then=[*_HALF[1:], op.txn(then=_HALF[2:])])
    assert isinstance(done.results[-1], raftkv.TxnResult)
    assert done.results[-1].results == (done.results[0],) * 63
    assert (await bench.kv.txn(then=[nested(7)])).revision == 6
    both = [op.put("k", "1")], [op.put("k", "2")]
    inner = op.txn(when=[when.absent("k")], then=both[0], otherwise=both[1])
    assert (await bench.kv.txn(then=[inner, op.delete("a"), op.delete(prefix="a")])).revision == 7
    empty = await bench.kv.txn()
    assert (empty.succeeded, empty.results, empty.revision) == (True, (), 7)
    assert bench.proposed()[-1] == Txn()
    found = await bench.kv.range()
    assert found.count == len(bench.rig.range(EVERYTHING).items)


async def test_a_put_keeps_the_value_or_the_lease_that_it_is_told_to() -> None:
    kv = stocked().kv
    await kv.put("k", ignore_value=True, lease=5)
    found = await kv.get("k")
    assert found is not None
    assert (found.value, found.lease) == (b"3", 5)
    await kv.put("k", "4", ignore_lease=True)
    found = await kv.get("k")
    assert found is not None
    assert (found.value, found.lease) == (b"4", 5)
    await kv.put("k", "5")
    found = await kv.get("k")
    assert found is not None
    assert found.lease == 0
