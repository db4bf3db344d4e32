"""The suite for state machines: ours pass it, and each broken rule fails the test that names it."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from examples.counter import Counter
from raftkv.kv.commands import encode
from raftkv.kv.machine import KvMachine
from raftkv.machine import Machine
from raftkv.testing.suites.elsewhere import ElsewhereError
from raftkv.testing.suites.machine import MachineSuite
from raftkv.testing.suites.watch import watched
from tests.kv import oracle
from tests.suites import machines
from tests.suites.machines import OfHashes, Rows, Suite, Words


class TestACounter(MachineSuite):
    commands = st.sampled_from([b"+1", b"-1", b"+70"])

    def make_machine(self) -> Counter:
        return Counter()


class TestWords(Suite):
    pass


class TestRows(Suite):
    machine = Rows


class TestTheKv(MachineSuite):
    commands = oracle.commands.map(encode)

    def make_machine(self) -> Machine[object]:
        return KvMachine()


def _failure(machine: type[Words | Rows], test: str) -> str:
    suite = Suite()
    suite.machine = machine
    with pytest.raises(AssertionError) as failure:
        getattr(suite, test)()
    return str(failure.value)


_SLICES = "the_slices_of_apply_make_no_difference"
_BACK = "a_snapshot_at_any_point_gives_the_same_state_back"
_MOMENT = "a_snapshot_is_of_the_moment_in_which_it_was_asked_for"
_ASKED = "nothing_but_the_commands_is_asked"


@pytest.mark.parametrize(
    ("machine", "test", "said"),
    [
        (machines.CountsSlices, _SLICES, "of the same commands in other slices"),
        (machines.LosesAResult, "each_command_has_one_result", "4 commands gave 3 results"),
        (machines.KeepsTheOld, _BACK, "slice 0"),
        (machines.ForgetsTheLast, _BACK, "differ"),
        (machines.ForgetsToLookAgain, _BACK, "differ"),
        (machines.ReadsTheLiveStore, _MOMENT, "read while commands came"),
        (machines.HasOneHugeChunk, "chunks_of_a_snapshot_are_small", "a chunk of 10485"),
        (machines.LooksAtTheClock, _ASKED, "asks for time.time in machines.py"),
        (machines.KnowsTheDay, _ASKED, "asks for datetime.now in machines.py"),
        (machines.RollsDice, _ASKED, "asks for the random module"),
        (machines.NamesThings, _ASKED, "asks for os.urandom"),
        (machines.ReadsTheEnvironment, _ASKED, "asks for os.environ"),
        (machines.KnowsItsProcess, _ASKED, "asks for os.getpid"),
        (machines.AsksWhileRestoring, _ASKED, "restoring asks for time.monotonic_ns"),
    ],
)
def test_a_machine_that_breaks_a_rule_fails_the_test_of_that_rule(
    machine: type[Words | Rows], test: str, said: str
) -> None:
    assert said in _failure(machine, f"test_{test}")


def test_a_machine_on_disk_may_stop_early() -> None:
    suite = Suite()
    suite.machine = machines.StopsEarly
    suite.test_the_slices_of_apply_make_no_difference()
    suite.test_each_command_has_one_result()


def test_a_state_that_depends_on_the_order_of_a_set_differs_elsewhere() -> None:
    with pytest.raises(AssertionError, match="PYTHONHASHSEED"):
        OfHashes().test_other_processes_come_to_the_same()


def test_a_suite_that_another_process_cannot_import_is_named() -> None:
    class Local(Suite):
        pass

    with pytest.raises(ElsewhereError, match="does not run in a process of its own"):
        Local().test_other_processes_come_to_the_same()


def test_a_generator_with_a_seed_of_its_own_is_no_chance() -> None:
    suite = Suite()
    suite.machine = machines.OwnDice
    suite.test_nothing_but_the_commands_is_asked()


def test_what_runs_beside_is_not_watched() -> None:
    import time

    with watched() as asked:
        pass
    time.time()
    assert asked == []
