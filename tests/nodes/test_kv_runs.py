"""Whole nodes run the whole KV under faults; where it is broken in one place, its rule says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import pytest
from attrs import evolve

from raftkv.kv import compaction, leases, reader, rows
from raftkv.kv.commands import parse_once
from raftkv.kv.deadlines import Deadlines
from raftkv.kv.engine import Slice
from raftkv.kv.leases import Granted
from raftkv.kv.rows import Head
from raftkv.kv.sessions import Sessions
from raftkv.node.settings import Settings
from raftkv.storage.base import Reader
from raftkv.testing.choices import SeededChoices
from raftkv.testing.nodes.options import Faults, Options
from raftkv.testing.nodes.run import run

Break: TypeAlias = Callable[[pytest.MonkeyPatch], None]

BUSY: Final = Options(
    settings=Settings(election_ticks=10, retention_entries=20, ballast_bytes=0),
    faults=Faults(
        interval_ms=1500, crash=6, stop=1, partition=2, transfer=3, pause=2, disk_ms=5, lost=5
    ),
    keys=3,
    clients=3,
    think_ms=20,
    timeout_ms=1000,
    txns=300,
    past_reads=500,
    watchers=3,
    watch_buffer=2,
    holders=3,
    compact_ms=200,
    sessions=True,
)
"""Every part of the KV in use, and enough trouble for what only shows when something fails."""

LEASES: Final = evolve(
    BUSY,
    faults=Faults(interval_ms=700, transfer=12, crash=2),
    clients=1,
    think_ms=100,
    watchers=0,
    holders=6,
    compact_ms=0,
)
"""Leases above all, and leaders that change."""

RETRIES: Final = evolve(
    BUSY,
    faults=Faults(interval_ms=800, partition=8, delay_ms=150, disk_ms=400),
    clients=6,
    timeout_ms=4000,
    reads=50,
    watchers=0,
    holders=0,
    compact_ms=0,
)
"""Writes that take longer than a first attempt may."""

STEPS: Final = 1500


def test_everything_is_met_and_nothing_is_found() -> None:
    marks = Counter[str]()
    for seed in range(4):
        outcome = run(SeededChoices(seed), STEPS, options=BUSY)
        assert outcome.finding is None, outcome.finding
        marks.update(outcome.marks)
    for mark in (
        "transaction",
        "read of the past",
        "compaction",
        "watch change",
        "watch progress",
        "watch resumed",
        "lease granted",
        "lease renewed",
        "lease revoked",
        "lease expired",
    ):
        assert marks[mark], mark


def test_a_crash_amid_compactions_takes_no_revision_back() -> None:
    options = Options(
        settings=BUSY.settings,
        faults=Faults(interval_ms=200, crash=12, disk_ms=20),
        keys=3,
        clients=3,
        think_ms=10,
        timeout_ms=500,
        past_reads=300,
        compact_ms=100,
    )
    marks = Counter[str]()
    for seed in range(2):
        outcome = run(SeededChoices(seed), STEPS, options=options)
        assert outcome.finding is None, outcome.finding
        marks.update(outcome.marks)
    assert marks["compaction"]
    assert marks["crash"]


# --- broken on purpose ----------------------------------------------------------------------------


def _reads_what_is_compacted(patch: pytest.MonkeyPatch) -> None:
    def broken(_head: Head, _revision: int) -> None:
        pass

    patch.setattr(reader, "check_revision", broken)


def _sweeps_what_is_readable(patch: pytest.MonkeyPatch) -> None:
    def broken(reader: Reader, floor: int) -> object:
        return _RESUME(reader, floor + 2)

    patch.setattr(compaction, "_resume", broken)


def _leaves_a_key_of_a_lease(patch: pytest.MonkeyPatch) -> None:
    def broken(reader: Reader, lease: int) -> Iterator[bytes]:
        return iter(list(_ATTACHED(reader, lease))[1:])

    def uncounted(_key: bytes) -> int:
        return 0

    patch.setattr(leases, "read_attached", broken)
    patch.setattr(rows, "weight_of", uncounted)  # else the member itself misses the key


def _next_keeper_ends_leases_at_once(patch: pytest.MonkeyPatch) -> None:
    load = Deadlines.load

    def broken(self: Deadlines, found: Granted, now_ns: int, grace_ns: int) -> None:
        load(self, found, now_ns - 10**9 * found.ttl, grace_ns)

    patch.setattr(Deadlines, "load", broken)


def _does_again_what_was_done(patch: pytest.MonkeyPatch) -> None:
    def broken(
        _self: Sessions, writes: Slice, data: bytes, apply: Callable[[Slice, bytes], object]
    ) -> object:
        return apply(writes, parse_once(data)[-1])

    patch.setattr(Sessions, "once", broken)


_RESUME = compaction._resume  # pyright: ignore[reportPrivateUsage]
_ATTACHED = leases.read_attached


@pytest.mark.parametrize(
    ("break_it", "options", "invariants"),
    [
        (_reads_what_is_compacted, BUSY, {"I30"}),
        # Whoever looks first: a reader of the past, or a watcher that comes to the gap.
        (_sweeps_what_is_readable, BUSY, {"I30", "I48", "I52", "StorageCorruptError"}),
        # A reader of the key, or who puts it and detaches it from a lease that there is not.
        (_leaves_a_key_of_a_lease, LEASES, {"I48", "I52"}),
        (_next_keeper_ends_leases_at_once, LEASES, {"I41"}),
        (_does_again_what_was_done, RETRIES, {"I48"}),
    ],
)
def test_a_broken_kv_is_found(
    break_it: Break, options: Options, invariants: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)
    runs = (run(SeededChoices(seed), STEPS, options=options) for seed in range(12))
    found = next((one.finding for one in runs if one.finding is not None), None)
    assert found is not None
    assert found.invariant in invariants, found


@pytest.mark.parametrize("options", [LEASES, RETRIES])
def test_the_same_kv_unbroken_is_not(options: Options) -> None:
    outcome = run(SeededChoices(0), STEPS, options=options)
    assert outcome.finding is None, outcome.finding
