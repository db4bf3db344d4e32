"""What type checkers are told about transactions. Never run: pyright reads it."""

from __future__ import annotations

from typing import assert_type

import raftkv
from raftkv import op, when
from raftkv.kv.requests import Compare, Range


def comparing_gives_conditions() -> None:
    """The operators that etcd knows, and only with what can be compared."""
    assert_type(when.value("a") == b"1", Compare)
    assert_type(when.value("a") != "1", Compare)
    assert_type(when.version("a") > 3, Compare)
    assert_type(when.mod_revision(prefix="a/") < 3, Compare)
    assert_type(when.lease("a") == 7, Compare)
    assert_type(when.exists("a"), Compare)
    assert when.value("a") < 1  # pyright: ignore[reportOperatorIssue] - a value is bytes
    assert when.version("a") <= 3  # pyright: ignore[reportOperatorIssue] - etcd has no <=
    if when.exists("a"):  # pyright: ignore[reportGeneralTypeIssues] - nobody knows yet
        pass


async def a_transaction_takes_them(kv: raftkv.Kv) -> None:
    """And operations, of any kinds."""
    done = await kv.txn(
        when=[when.value("a") == b"1", when.absent("b")],
        then=[op.put("a", b"2"), op.txn(then=[op.delete(prefix="c")])],
        otherwise=[op.get("a"), op.range("a", limit=1)],
    )
    assert_type(done.succeeded, bool)
    assert_type(op.range("a"), Range)
    await kv.txn(then=[when.absent("b")])  # pyright: ignore[reportArgumentType] - a condition
    await kv.txn(when=[True])  # pyright: ignore[reportArgumentType] - decided too early
