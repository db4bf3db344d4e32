"""The machine against a dictionary per revision, on two stores in lock-step.

One machine takes commands in slices on a memory store, its twin one by one on RocksDB. After every
slice both must hold the same rows, give the oracle's results, and answer every past revision as it
was.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    # Hypothesis leaves its parameters without types.
    run_state_machine_as_test,  # pyright: ignore[reportUnknownVariableType]
)

from raftkv.kv import rows
from raftkv.kv.model import EVERYTHING, KeyValue, Span
from raftkv.kv.reader import read_key
from raftkv.kv.requests import KvCommand, Put
from tests.kv.oracle import Oracle, apply_all, commands, keys, spans
from tests.kv.rig import MACHINE, Rig, memory_rig, rocks_rig

# Hundreds of stores are made here and none needs to survive a power cut: spare the disk, if we can.
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


class TwoStores(RuleBasedStateMachine):
    """Any commands, restarts and snapshots, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="raftkv-kv-", dir=_MEMORY)
        self.installed = 0

    @initialize()
    def begin(self) -> None:
        self.oracle = Oracle()
        self.sliced = memory_rig()
        self.single = rocks_rig(Path(self.folder.name) / "0")

    def teardown(self) -> None:
        self.sliced.close()
        self.single.close()
        self.folder.cleanup()

    @rule(
        given=st.lists(commands, min_size=1, max_size=12),
        sizes=st.lists(st.integers(1, 6), max_size=4),
    )
    def apply(self, given: list[KvCommand], sizes: list[int]) -> None:
        wanted = apply_all(self.oracle, given)
        assert self.sliced.apply_slices(given, sizes) == wanted
        assert self.single.apply_slices(given, [1]) == wanted

    @rule(which=st.booleans())
    def restart(self, which: bool) -> None:
        (self.sliced if which else self.single).restart()

    @rule()
    def a_snapshot_makes_a_third_member_equal(self) -> None:
        image = self.single.image()
        other = memory_rig()
        other.install(image)
        assert other.rows() == self.single.rows()
        assert other.image() == image
        other.restart()
        self.sliced.close()
        self.sliced = other

    @rule()
    def a_snapshot_replaces_what_another_store_held(self) -> None:
        self.installed += 1
        other = rocks_rig(Path(self.folder.name) / str(self.installed))
        other.apply_slices([*map(_junk, range(20))], [5])
        other.install(self.sliced.image())
        self.single.close()
        self.single = other

    @rule(
        span=spans,
        at=st.floats(0, 1),
        limit=st.integers(0, 4),
        keys_only=st.booleans(),
        count_only=st.booleans(),
        counted=st.booleans(),
    )
    def range(
        self, span: Span, at: float, limit: int, keys_only: bool, count_only: bool, counted: bool
    ) -> None:
        revision = round(at * self.oracle.revision)
        wanted = self.oracle.range(
            span,
            revision=revision,
            limit=limit,
            keys_only=keys_only,
            count_only=count_only,
            counted=counted,
        )
        for rig in (self.sliced, self.single):
            found = rig.range(
                span,
                revision=revision,
                limit=limit,
                keys_only=keys_only,
                count_only=count_only,
                counted=counted,
            )
            assert found == wanted

    @rule(key=keys, at=st.floats(0, 1))
    def get(self, key: bytes, at: float) -> None:
        revision = round(at * self.oracle.revision)
        wanted = self.oracle.states[revision or self.oracle.revision].get(key)
        for rig in (self.sliced, self.single):
            assert read_key(rig.store, key, revision) == wanted

    @precondition(lambda self: hasattr(self, "oracle"))
    @invariant()
    def members_agree(self) -> None:
        assert self.sliced.rows() == self.single.rows()
        assert self.sliced.machine.state_hash() == self.single.machine.state_hash()

    @precondition(lambda self: hasattr(self, "oracle"))
    @invariant()
    def events_tell_the_whole_history(self) -> None:
        assert list(_history(self.sliced)) == self.oracle.events

    @precondition(lambda self: hasattr(self, "oracle"))
    @invariant()
    def the_present_is_as_the_oracle_says(self) -> None:
        assert self.sliced.range(EVERYTHING) == self.oracle.range(EVERYTHING)


def _junk(number: int) -> KvCommand:
    return Put(b"junk%d" % number, b"j" * 100 * number)


def _history(rig: Rig) -> Iterator[tuple[int, bytes, KeyValue | None]]:
    """Walk the events as a watch would, and check that each points to the version before it."""
    before = (0, 0)
    for row_key, row in rig.store.scan(MACHINE, rows.EVENTS, b"S"):
        revision, sub = rows.split_events_key(row_key)
        for event in rows.decode_events(row):
            assert (revision, sub) in ((before[0] + 1, 0), (before[0], before[1] + 1), (2, 0))
            before = (revision, sub)
            sub += 1
            if event.previous_revision:
                place = (event.key, event.previous_revision, event.previous_sub)
                ended = rig.store.get(MACHINE, rows.history_key(*place))
                assert ended is not None
                assert rows.decode_ended(ended)[0] == revision
            is_delete = event.kind == rows.DELETE_EVENT
            found = read_key(rig.store, event.key, revision)
            assert (found is None) == is_delete
            yield revision, event.key, found


@pytest.mark.timeout(300)  # where there is no /dev/shm, a busy disk takes its time
def test_two_members_agree_with_each_other_and_with_a_dictionary_per_revision() -> None:
    run_state_machine_as_test(TwoStores, settings=settings(stateful_step_count=20))
