"""The machine against a dictionary per revision, on two stores in lock-step.

One machine takes commands in slices on a memory store, its twin one by one on RocksDB. After every
slice both hold the same rows, give the model's results, and answer every past revision as it was;
neither restarts nor snapshots nor sweeps change anything that can be seen.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from attrs import evolve
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

from raftkv.errors import CompactedError, FutureRevisionError
from raftkv.kv import bounds
from raftkv.kv.commands import encode
from raftkv.kv.hashing import HashRead
from raftkv.kv.history import Wanted, changes_between
from raftkv.kv.leases import read_attached, read_leases
from raftkv.kv.model import (
    EVERYTHING,
    Change,
    Done,
    KeyValue,
    KvResult,
    RangeResult,
    Refusal,
    Refused,
    Span,
)
from raftkv.kv.reader import RangeRead, read_head, read_key
from raftkv.kv.requests import (
    AlarmKind,
    Grant,
    KvCommand,
    Once,
    OpenSession,
    Put,
    Range,
    SetAlarm,
    Sweep,
)
from raftkv.kv.sizes import measure
from raftkv.storage.base import Reader
from tests.kv.model.naive import Answer, Model, No
from tests.kv.model.requests import (
    Given,
    InSession,
    commands,
    keys,
    ranges,
    resolved,
    spans,
    writes,
)
from tests.kv.rig import memory_rig, rocks_rig

# Hundreds of stores are made here and none needs to survive a power cut: spare the disk, if we can.
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

KEYS_MAX = 3  # of six that there are


class TwoStores(RuleBasedStateMachine):
    """Any commands, restarts and snapshots, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="raftkv-kv-", dir=_MEMORY)
        self.installed = 0

    @initialize()
    def begin(self) -> None:
        self.model = Model(KEYS_MAX)
        self.sliced = memory_rig()
        self.single = rocks_rig(Path(self.folder.name) / "0")
        # There from the start, as most that is asked needs one.
        for command in (OpenSession(1, 60), Grant(2, 60)):
            assert answers(self.single.apply([command])) == [self.model.apply(command)]
            self.sliced.apply([command])

    def teardown(self) -> None:
        self.sliced.close()
        self.single.close()
        self.folder.cleanup()

    @rule(
        given=st.lists(commands(), min_size=8, max_size=20),
        sizes=st.lists(st.integers(1, 6), max_size=4),
    )
    def apply(self, given: list[Given], sizes: list[int]) -> None:
        self._apply(given, sizes)

    @rule(
        given=st.lists(writes(), min_size=8, max_size=16),
        sizes=st.lists(st.integers(1, 6), max_size=4),
    )
    def write(self, given: list[Given], sizes: list[int]) -> None:
        self._apply([SetAlarm(1, AlarmKind.NO_SPACE, False), *given], sizes)

    def _apply(self, given: list[Given], sizes: list[int]) -> None:
        asked = resolved(given, self.model.revision, self.model.sessions)
        wanted = [apply_to(self.model, one) for one in asked]
        proposed = [proposal(one) for one in asked]
        assert answers(self.sliced.apply_slices(proposed, sizes)) == wanted
        assert answers(self.single.apply_slices(proposed, [1])) == wanted

    @rule(events=st.integers(1, 30), sizes=st.lists(st.integers(1, 3), max_size=2))
    def sweep(self, events: int, sizes: list[int]) -> None:
        left = self.single.apply([Sweep(events)])
        assert left == self.sliced.apply_slices([Sweep(events)], sizes)
        assert isinstance(left[0], Done)
        assert left[0].revision == self.model.revision

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

    @rule(asked=ranges, at=st.floats(0, 1.1))
    def range(self, asked: Range, at: float) -> None:
        asked = evolve(asked, revision=round(at * self.model.revision))
        wanted = self.model.range(asked)
        for rig in (self.sliced, self.single):
            assert read_range(rig.store, asked) == wanted

    @rule(key=keys, at=st.floats(0, 1.1))
    def get(self, key: bytes, at: float) -> None:
        revision = round(at * self.model.revision)
        wanted = self.model.range(Range(Span(key, key + b"\0"), revision=revision))
        for rig in (self.sliced, self.single):
            found = read_one(rig.store, key, revision)
            if isinstance(wanted, No):
                assert found == wanted
            else:
                assert found == (wanted.items[0] if wanted.items else None)

    @rule(
        span=spans,
        at=st.floats(0, 1),
        previous=st.booleans(),
        puts=st.booleans(),
        deletes=st.booleans(),
    )
    def watch(self, span: Span, at: float, previous: bool, puts: bool, deletes: bool) -> None:
        start = max(2, round(at * self.model.revision))
        wanted = self.model.watch(span, start, previous=previous, puts=puts, deletes=deletes)
        for rig in (self.sliced, self.single):
            asked = Wanted(span, previous, puts, deletes)
            assert read_changes(rig.store, asked, start) == wanted

    @rule(at=st.floats(0, 1.1))
    def hash(self, at: float) -> None:
        revision = round(at * self.model.revision)
        assert read_hash(self.sliced.store, revision) == read_hash(self.single.store, revision)

    @precondition(lambda self: hasattr(self, "model"))
    @invariant()
    def members_agree(self) -> None:
        assert self.sliced.rows() == self.single.rows()
        assert self.sliced.machine.state_hash() == self.single.machine.state_hash()

    @precondition(lambda self: hasattr(self, "model"))
    @invariant()
    def the_present_is_as_the_model_says(self) -> None:
        store = self.sliced.store
        assert read_range(store, Range(EVERYTHING)) == self.model.range(Range(EVERYTHING))
        assert read_changes(store, Wanted(EVERYTHING, previous=True), max(2, self.model.floor)) == (
            self.model.watch(EVERYTHING, max(2, self.model.floor), previous=True)
        )
        found = {one.id: one for one in read_leases(store, 0, 10)}
        assert {lease: one.ttl for lease, one in found.items()} == self.model.leases
        assert {one.grant for one in found.values() if one.is_session} == {*self.model.sessions}
        assert read_head(store).size == measure(store)
        for lease in self.model.leases:
            assert list(read_attached(store, lease)) == self.model.keys_of(lease)
            assert found[lease].keys == len(self.model.keys_of(lease))


# --- asking a machine -----------------------------------------------------------------------------


def proposal(one: KvCommand | InSession) -> KvCommand:
    if isinstance(one, InSession):
        return Once(one.session, one.sequence, one.answered, encode(one.command))
    return one


def apply_to(model: Model, one: KvCommand | InSession) -> Answer:
    if isinstance(one, InSession):
        return model.once(one.session, one.sequence, one.answered, one.command)
    return model.apply(one)


def answers(results: Sequence[KvResult]) -> list[KvResult | No]:
    """Refusals without their sentences."""
    return [No(one.why, one.revision) if isinstance(one, Refused) else one for one in results]


def read_range(store: Reader, asked: Range) -> RangeResult | No:
    reading = RangeRead(asked)
    try:
        while not reading.advance(store, 3):
            pass
    except (CompactedError, FutureRevisionError) as error:
        return _no(error)
    return reading.result


def read_one(store: Reader, key: bytes, revision: int) -> KeyValue | No | None:
    try:
        return read_key(store, key, revision)
    except (CompactedError, FutureRevisionError) as error:
        return _no(error)


def read_changes(store: Reader, wanted: Wanted, start: int) -> list[Change] | No:
    head = read_head(store)
    try:
        return list(changes_between(store, wanted, start, head.revision + 1, floor=head.floor))
    except CompactedError as error:
        return _no(error)


def read_hash(store: Reader, revision: int) -> object:
    reading = HashRead(revision)
    try:
        while not reading.advance(store, 7):
            pass
    except (CompactedError, FutureRevisionError) as error:
        return _no(error)
    return reading.result


def _no(error: CompactedError | FutureRevisionError) -> No:
    is_past = isinstance(error, CompactedError)
    return No(Refusal.COMPACTED if is_past else Refusal.FUTURE_REVISION, error.revision)


def _junk(number: int) -> KvCommand:
    return Put(b"junk%d" % number, b"j" * 100 * number)


# Where there is no /dev/shm, a busy disk takes its time; a soak takes as long as it takes.
@pytest.mark.timeout(300 if settings().max_examples <= 1_000 else 0)
def test_two_members_agree_with_each_other_and_with_a_dictionary_per_revision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounds, "REVISION_KEYS_MAX", KEYS_MAX)
    run_state_machine_as_test(TwoStores, settings=settings(stateful_step_count=10))
