"""The Hypothesis state machine: machines that keep the rules survive it, others are told apart."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from examples.counter import Counter
from examples.find_the_bug import TicketsInACluster
from raftkv.machine import Command, Machine
from raftkv.testing.histories import NotLinearizableError
from raftkv.testing.suites.cluster import ClusterMachine
from tests.suites.machines import Rows, Words

FEW = settings(max_examples=10, stateful_step_count=15, deadline=None)


class CounterInACluster(ClusterMachine):
    commands = st.sampled_from([b"+1", b"-1"])

    def make_machine(self) -> Machine[object]:
        return Counter()


class RowsInACluster(ClusterMachine):
    commands = st.sampled_from([b"a", b"b"])
    size = 2

    def make_machine(self) -> Machine[object]:
        return Rows()


TestCounter = CounterInACluster.TestCase
TestCounter.settings = FEW
TestRows = RowsInACluster.TestCase
TestRows.settings = FEW


class Raises(Words):
    def one(self, command: Command) -> object:
        if command.data == b"boom":
            raise ValueError("boom")
        return super().one(command)


class AnswersByItself(Words):
    """Equal states everywhere, but what it answers is its own."""

    numbers = count()

    def apply(self, commands: Sequence[Command]) -> Sequence[object]:
        super().apply(commands)
        return [next(self.numbers) for _ in commands]


class InACluster(ClusterMachine):
    commands = st.just(b"word")
    machine: type[Words | Rows] = Words

    def make_machine(self) -> Machine[object]:
        return self.machine()


@contextmanager
def played(machine: type[Words | Rows], *, judged: bool = True) -> Generator[ClusterMachine]:
    """A machine in a cluster, with a test in the part of Hypothesis."""

    class Chosen(InACluster):
        is_judged = judged

    Chosen.machine = machine
    one = Chosen()
    try:
        yield one
    finally:
        one.teardown()


def forget(one: ClusterMachine) -> None:
    one.propose(member="n1", commands=[b"take it", b"give it"] * 3)
    one.restart(member="n2")
    one.propose(member="n2", commands=[b"take it"])
    one.wait(ticks=10)


def test_what_a_snapshot_forgets_shows_where_a_member_comes_back_from_one() -> None:
    one = TicketsInACluster()
    with pytest.raises(AssertionError, match="two members have different states"):
        forget(one)
    one.teardown()
    assert one.story().events


@pytest.mark.parametrize("machine", [Words, Rows])
def test_whatever_happens_to_members_a_machine_that_keeps_the_rules_is_well(
    machine: type[Words | Rows],
) -> None:
    with played(machine) as one:
        for victim in ("n1", "n2", "n3"):
            one.isolate(member=victim)
            one.propose(member=victim, commands=[b"a"])
            one.wait(ticks=30)
            one.pause(member=victim)
            one.propose(member="n1", commands=[b"b"] * 3)
            one.wait(ticks=5)
            one.resume()
            one.heal()
            one.crash(member=victim)
            one.propose(member="n2" if victim == "n1" else "n1", commands=[b"c"] * 6)
            one.wait(ticks=20)
            one.start(member=victim)
        assert len(one.cluster.nodes) == 3


def test_a_machine_that_raises_is_named_with_what_it_raised() -> None:
    with played(Raises) as one:
        one.propose(member="n1", commands=[b"fine"])
        with pytest.raises(AssertionError, match=r"raised ValueError at .*: boom"):
            one.propose(member="n1", commands=[b"boom"])


def answered(*, judged: bool) -> None:
    with played(AnswersByItself, judged=judged) as one:
        one.propose(member="n1", commands=[b"a", b"b"])
        one.propose(member="n2", commands=[b"a"])


def test_answers_that_one_machine_could_not_have_given_are_refused() -> None:
    answered(judged=False)
    with pytest.raises(NotLinearizableError):
        answered(judged=True)
