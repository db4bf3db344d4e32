"""Runs of whole nodes: green, repeatable, and red when something is broken."""

# Nodes are broken here, from inside.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from attrs import evolve

from raftkv.core.ready import Ready
from raftkv.core.types import Entry, Membership
from raftkv.errors import DeadlineError
from raftkv.node import disk as node_disk
from raftkv.node.applier import Applier
from raftkv.node.loop import Loop
from raftkv.node.settings import Settings
from raftkv.node.waiters import InFlight
from raftkv.storage.base import Batch, WitnessRecord
from raftkv.storage.member import MemberStorage
from raftkv.testing.choices import ReplayedChoices, SeededChoices
from raftkv.testing.nodes.options import Faults, MachineKind, Options, Theme, draw_options
from raftkv.testing.nodes.run import replay, run, simulate
from tests.source import ROOT

STEPS = 500


@pytest.mark.parametrize("seed", [0, 3, 7, 9])
def test_a_seed_is_green(seed: int) -> None:
    outcome = simulate(seed, STEPS)
    assert outcome.finding is None
    assert outcome.marks["recovered"] == 1
    assert outcome.operations
    assert outcome.steps >= STEPS


@pytest.mark.parametrize("kind", MachineKind)
def test_every_kind_of_machine_survives(kind: MachineKind) -> None:
    choices = SeededChoices(4)
    drawn = evolve(draw_options(choices), machine=kind, theme=Theme.CRASHES)
    outcome = run(choices, STEPS, options=drawn)
    assert outcome.finding is None
    assert outcome.marks["operation done"]


def test_a_record_and_its_story_are_the_run() -> None:
    outcome = simulate(5, STEPS)
    again = replay(outcome.decisions, STEPS, keep=200)
    assert (again.digest, again.steps, again.marks) == (
        outcome.digest,
        outcome.steps,
        outcome.marks,
    )
    story = again.story("seed 5")
    assert story is not None
    assert len(story.events) == 200
    assert outcome.story("seed 5") is None


def test_no_decision_at_all_is_a_calm_run() -> None:
    outcome = run(ReplayedChoices(()), STEPS)
    assert outcome.options == Options(
        settings=outcome.options.settings, faults=outcome.options.faults
    )
    assert outcome.finding is None
    assert not outcome.marks["crash"]
    assert not outcome.marks["operation unknown"]


def test_a_seed_is_the_same_run_in_every_process_and_on_a_real_store() -> None:
    program = (
        "from raftkv.testing.nodes.run import run;"
        "from raftkv.testing.choices import SeededChoices;"
        "print(run(SeededChoices(2), 300, real_stores=%s).digest)"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program % real],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed, real in (("1", False), ("2", True))
    }
    assert told == {simulate(2, 300).digest + "\n"}


# --- what they must notice ------------------------------------------------------------------------

Break = Callable[[pytest.MonkeyPatch], None]


def _acknowledges_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    save = node_disk.Disk.save

    def broken(self: node_disk.Disk, ready: Ready) -> None:
        save(self, ready)
        if ready.must_sync and ready.messages_after_persist:
            self.on_durable(list(ready.messages_after_persist))

    patch.setattr(node_disk.Disk, "save", broken)


def _leader_counts_itself_before_its_sync(patch: pytest.MonkeyPatch) -> None:
    write = node_disk.Disk.write

    async def broken(self: node_disk.Disk) -> None:
        numbers = [promise.number for promise in self._unwritten]
        await write(self)
        if numbers:
            self._durable.append(node_disk.Promise(numbers[-1], (), is_urgent=False))

    patch.setattr(node_disk.Disk, "write", broken)


def _reads_without_a_quorum(patch: pytest.MonkeyPatch) -> None:
    def broken(self: Loop) -> None:
        for lease in (False, True):
            context = self._reads.ask(lease=lease, now_ns=self._clock.monotonic_ns())
            if context is not None:
                self._reads.confirm(context, self.state.commit)
                self._reads.resolve(self._applier.mark.index)

    patch.setattr(Loop, "_feed_reads", broken)


def _applied_index_behind_its_effects(patch: pytest.MonkeyPatch) -> None:
    advance = Applier._advance

    def broken(self: Applier, entry: Entry, membership: Membership, batch: Batch) -> None:
        before = self.mark
        advance(self, entry, membership, batch)
        if self._durable is not None and before.index:
            self._log.mark_applied(batch, before)

    patch.setattr(Applier, "_advance", broken)


def _guesses_that_nothing_happened(patch: pytest.MonkeyPatch) -> None:
    def broken(self: InFlight, request: int, what: str) -> DeadlineError:
        del self
        return DeadlineError(f"{request} did not happen: {what}")

    patch.setattr(InFlight, "_unknown", broken)


def _skips_most_syncs(patch: pytest.MonkeyPatch) -> None:
    sync = MemberStorage.sync
    count = [0]

    def broken(self: MemberStorage, promised: WitnessRecord) -> int:
        count[0] += 1
        return self.store.written if count[0] % 8 else sync(self, promised)

    patch.setattr(MemberStorage, "sync", broken)


ROUGH = Options(
    settings=Settings(election_ticks=10, retention_entries=20, ballast_bytes=0),
    faults=Faults(interval_ms=300, crash=12, partition=4, disk_ms=20, lost=20, delay_ms=20),
    keys=3,
    clients=6,
    think_ms=20,
    timeout_ms=300,
)


@pytest.mark.parametrize(
    ("break_it", "invariant"),
    [
        (_acknowledges_before_the_sync, "I9"),
        (_leader_counts_itself_before_its_sync, "I15"),
        (_reads_without_a_quorum, "I48"),
        (_applied_index_behind_its_effects, "I13"),
        (_guesses_that_nothing_happened, "I48"),
        (_skips_most_syncs, "I9"),
    ],
)
def test_a_broken_node_is_found(
    break_it: Break, invariant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)
    runs = (run(SeededChoices(seed), 1000, options=ROUGH) for seed in range(4))
    found = next((one.finding for one in runs if one.finding is not None), None)
    assert found is not None
    assert found.invariant == invariant


def test_the_same_node_unbroken_is_not() -> None:
    assert run(SeededChoices(0), 1000, options=ROUGH).finding is None
