"""Strategies for everything that can be asked of the store, made to meet its edges."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeAlias

from attrs import evolve, frozen
from hypothesis import strategies as st

from raftkv.kv.model import Span, prefix_span
from raftkv.kv.requests import (
    AlarmKind,
    Checkpoint,
    Compact,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteOne,
    DeleteSpan,
    Expire,
    Grant,
    KvCommand,
    OpenSession,
    Operation,
    Put,
    Range,
    Revoke,
    SetAlarm,
    SortOrder,
    SortTarget,
    TakeOver,
    Txn,
)


@frozen
class InSession:
    """A :class:`~raftkv.kv.requests.Once` whose command is not bytes yet.

    ``session`` counts those that there are, from the newest on, until it is resolved.
    """

    session: int
    sequence: int
    answered: int
    command: KvCommand


@frozen
class AtFraction:
    """A command that names a revision: so far on the way from nothing to a little too far."""

    command: Compact
    fraction: float


Given: TypeAlias = KvCommand | InSession | AtFraction

# Few, so that commands meet; among them those that ordering and escaping trip over.
keys = st.sampled_from([b"\0", b"a", b"a\0", b"aa", b"a\xff", b"\xff"])
edges = st.one_of(st.just(b""), keys)
values = st.sampled_from([b"", b"1", b"2", b"12", b"i" * 1024, b"l" * 1025])
spans = st.one_of(st.builds(Span, edges, st.none() | edges), edges.map(prefix_span))
leases = st.integers(1, 4)
flags = st.booleans()
some_lease = st.sampled_from([0, 1, 2, 3])
revisions = st.integers(0, 12)
bounds = st.sampled_from([0, 0, 0, 2, 5, 9, 15])

plain_puts = st.builds(Put, keys, values, some_lease, flags)
puts = st.one_of(
    plain_puts,
    plain_puts,
    plain_puts,
    plain_puts,
    st.builds(Put, keys, st.just(b""), some_lease, flags, ignore_value=st.just(True)),
    st.builds(Put, keys, values, st.just(0), flags, ignore_lease=st.just(True)),
)
deletes = st.one_of(st.builds(DeleteOne, keys, flags), st.builds(DeleteSpan, spans, flags))
ranges = st.builds(
    Range,
    spans,
    limit=st.sampled_from([0, 0, 1, 2, 4]),
    revision=st.one_of(st.just(0), revisions),
    order=st.sampled_from(SortOrder),
    target=st.sampled_from(SortTarget),
    keys_only=flags,
    count_only=st.sampled_from([False, False, True]),
    mod_revision_min=bounds,
    mod_revision_max=bounds,
    create_revision_min=bounds,
    create_revision_max=bounds,
)
compares = st.one_of(
    st.builds(
        Compare,
        keys | spans,
        st.sampled_from([one for one in CompareTarget if one is not CompareTarget.VALUE]),
        st.sampled_from(CompareResult),
        st.integers(0, 12),
    ),
    st.builds(
        Compare,
        keys | spans,
        st.just(CompareTarget.VALUE),
        st.sampled_from(CompareResult),
        values,
    ),
)


def _txns(inner: st.SearchStrategy[Operation]) -> st.SearchStrategy[Txn]:
    branch = st.lists(inner, max_size=3).map(tuple)
    return st.builds(Txn, st.lists(compares, max_size=2).map(tuple), branch, branch)


operations: st.SearchStrategy[Operation] = st.recursive(
    st.one_of(puts, deletes, ranges), _txns, max_leaves=5
)
txns = _txns(operations)

# What stands here more often is drawn more often.
_WRITES: st.SearchStrategy[KvCommand] = st.one_of(puts, puts, deletes, txns, txns, txns)


@st.composite
def writes(draw: st.DrawFn) -> KvCommand:
    return draw(_WRITES)


in_session = st.builds(
    InSession,
    st.sampled_from([1, 1, 1, 2, 3]),
    st.integers(0, 6) | st.sampled_from([63, 64, 65, 65_540]),
    st.sampled_from([0, 0, 0, 1, 3, 64]),
    st.one_of(writes(), writes(), writes(), st.builds(Revoke, leases)),
)

_COMMANDS: st.SearchStrategy[Given] = st.one_of(
    puts,
    deletes,
    txns,
    st.builds(Grant, leases, st.sampled_from([2, 60, 9_000_000_000])),
    st.builds(Revoke, st.sampled_from([1, 2, 2, 3, 3, 4])),
    st.builds(TakeOver, st.sampled_from([1, 1, 2, 3])),
    st.builds(Expire, st.integers(0, 3), st.lists(leases, max_size=3).map(tuple)),
    st.builds(
        Checkpoint,
        st.integers(0, 3),
        st.lists(st.tuples(leases, st.integers(0, 90)), max_size=2).map(tuple),
    ),
    st.builds(SetAlarm, st.integers(1, 2), st.just(AlarmKind.CORRUPT), flags),
    st.just(SetAlarm(1, AlarmKind.NO_SPACE, True)),
    st.just(SetAlarm(1, AlarmKind.NO_SPACE, False)),
    st.builds(OpenSession, st.sampled_from([1, 1, 2, 3]), st.just(60)),
    in_session,
    in_session,
    in_session,
    st.builds(AtFraction, st.just(Compact(0)), st.floats(0, 1.1)),
)


@st.composite
def commands(draw: st.DrawFn) -> Given:
    """Any of them. A function, as the strategy written out would fill pages."""
    return draw(_COMMANDS)


def resolved(
    given: Sequence[Given], revision: int, sessions: Collection[int]
) -> list[KvCommand | InSession]:
    """The commands, where fractions are of the revision that the store has now.

    ``sessions`` are those that there are. What asks for more of them than that asks for an old one,
    or one that never was.
    """
    newest = sorted(sessions, reverse=True)

    def resolve(one: Given) -> KvCommand | InSession:
        if isinstance(one, AtFraction):
            return Compact(round(one.fraction * revision))
        if isinstance(one, InSession) and one.session <= len(newest):
            return evolve(one, session=newest[one.session - 1])
        return one

    return [resolve(one) for one in given]
