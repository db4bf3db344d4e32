"""The hash over a revision: the same for members that agree, another for any that differ."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import CompactedError, FutureRevisionError
from raftkv.kv import rows
from raftkv.kv.hashing import HashRead, read_hash
from raftkv.kv.reader import read_head
from raftkv.kv.requests import Compact, DeleteOne, KvCommand, Put, Sweep
from raftkv.storage.base import Space
from tests.kv.oracle import Oracle, apply_all, commands
from tests.kv.rig import Rig, memory_rig

LONG = b"v" * (rows.INLINE_BYTES_MAX + 1)


def rig_of(*given_commands: KvCommand) -> Rig:
    rig = memory_rig()
    rig.apply(given_commands)
    return rig


def test_it_names_what_it_covers() -> None:
    rig = rig_of(Put(b"a", b"1"), Put(b"a", b"2"), Put(b"a", b"3"), Compact(3))
    assert (read_hash(rig.store).revision, read_hash(rig.store).floor) == (4, 3)
    assert (read_hash(rig.store, 3).revision, read_hash(rig.store, 3).floor) == (3, 3)
    assert len(read_hash(rig.store).hash) == 32


def test_a_revision_that_cannot_be_read_cannot_be_hashed() -> None:
    rig = rig_of(Put(b"a", b"1"), Put(b"a", b"2"), Compact(3))
    with pytest.raises(CompactedError):
        read_hash(rig.store, 2)
    with pytest.raises(FutureRevisionError):
        read_hash(rig.store, 4)


def _rewrite(rig: Rig, tag: bytes, change: Callable[[bytes], bytes]) -> None:
    batch = rig.store.batch()
    for key, row in rig.store.scan(Space.MACHINE):
        if key[:1] == tag:
            batch.put(Space.MACHINE, key, change(row))
    rig.store.write(batch)


@pytest.mark.parametrize(
    ("tag", "place"),
    [
        (rows.CURRENT, -1),  # the value
        (rows.CURRENT, 1),  # mod revision
        (rows.CURRENT, 13),  # create revision
        (rows.CURRENT, 21),  # version
        (rows.CURRENT, 29),  # lease
        (rows.HISTORY, 0),  # the end
        (rows.VALUES, 700),
    ],
)
def test_a_bit_that_differs_makes_another_hash(tag: bytes, place: int) -> None:
    rig = rig_of(Put(b"a", LONG), DeleteOne(b"a"), Put(b"b", b"xyz"))
    before = read_hash(rig.store)

    def flip(row: bytes) -> bytes:
        at = place % len(row)
        return row[:at] + bytes((row[at] ^ 1,)) + row[at + 1 :]

    _rewrite(rig, tag, flip)
    assert read_hash(rig.store).hash != before.hash


def test_a_version_belongs_to_it_from_behind_the_floor_to_the_revision_that_ends_it() -> None:
    rigs = [rig_of(Put(b"a", value), DeleteOne(b"a"), Put(b"b", b"")) for value in (b"1", b"2")]
    for revision in (2, 3, 4):
        assert len({read_hash(rig.store, revision).hash for rig in rigs}) == 2
    for rig in rigs:
        rig.apply([Compact(3)])  # not swept
    assert len({read_hash(rig.store).hash for rig in rigs}) == 1


def test_where_a_key_ends_and_its_value_begins_matters() -> None:
    said = {read_hash(rig_of(Put(key, value)).store).hash for key, value in
            ((b"ab", b"c"), (b"a", b"bc"), (b"abc", b""))}  # fmt: skip
    assert len(said) == 3


@given(
    st.lists(commands, max_size=15), st.lists(commands, max_size=10), st.lists(commands, max_size=5)
)
def test_it_tells_histories_apart_and_nothing_else(
    common: list[KvCommand], one: list[KvCommand], other: list[KvCommand]
) -> None:
    first, second = rig_of(*common, *one), rig_of(*common, *other)
    oracles = Oracle(), Oracle()
    apply_all(oracles[0], [*common, *one])
    apply_all(oracles[1], [*common, *other])
    shared = min(oracle.revision for oracle in oracles)
    for revision in range(1, shared + 1):
        states = [[oracle.states[number] for number in range(revision + 1)] for oracle in oracles]
        hashes = [read_hash(rig.store, revision) for rig in (first, second)]
        assert (hashes[0] == hashes[1]) == (states[0] == states[1])


@given(
    st.lists(commands, min_size=1, max_size=20),
    st.lists(commands, max_size=30),
    st.integers(1, 4),
    st.floats(0, 1),
)
def test_what_happens_between_its_steps_does_not_change_it(
    before: list[KvCommand], between: list[KvCommand], step: int, at: float
) -> None:
    rig = rig_of(*before)
    rig.apply([Compact(max(1, round(at * read_head(rig.store).revision)))])
    wanted = read_hash(rig.store)
    read, rest = HashRead(), iter(between)
    while not read.advance(rig.store, step):
        rig.apply([*(command for _, command in zip(range(2), rest, strict=False)), Sweep(1)])
    assert read.result == wanted


def test_a_floor_that_rises_meanwhile_makes_it_begin_anew() -> None:
    rig = rig_of(*(Put(b"k%d" % number, b"v") for number in range(9)), DeleteOne(b"k0"))
    read = HashRead()
    assert not read.advance(rig.store, 3)
    rig.apply([Compact(9), Sweep(100), Put(b"x", b"")])
    while not read.advance(rig.store, 3):
        pass
    assert read.result == read_hash(rig.store, 11)
    assert read.result.floor == 9
    behind = HashRead(10)
    assert not behind.advance(rig.store, 3)
    rig.apply([Compact(11)])
    with pytest.raises(CompactedError):
        behind.advance(rig.store, 3)


def test_it_is_taken_in_steps_that_large_values_cut_short() -> None:
    rig = rig_of(*(Put(b"k%d" % number, b"v" * 100_000) for number in range(9)))
    for most in (1, 1_000):
        read, steps = HashRead(), 1
        while not read.advance(rig.store, most):
            steps += 1
        assert steps >= 3
        assert read.result == read_hash(rig.store)
