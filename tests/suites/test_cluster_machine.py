"""The Hypothesis state machine: machines that keep the rules survive it, others are told apart."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import cast

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from examples import find_the_bug
from examples.counter import Counter
from examples.find_the_bug import TicketsInACluster
from raftkv.machine import Command, Machine
from raftkv.testing.histories import NotLinearizableError
from raftkv.testing.suites.cluster import ClusterMachine
from raftkv.testing.suites.fewest import fewest, program
from raftkv.testing.suites.play import Step
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
    forget(one)
    said = r"two members have different states: .* where it restored a snapshot"
    with pytest.raises(AssertionError, match=said):
        one.teardown()
    assert one.story().violated is not None


def test_whoever_looks_at_the_cluster_meets_the_failure_there() -> None:
    one = TicketsInACluster()
    assert len(one.cluster.nodes) == 3
    with pytest.raises(AssertionError, match="two members have different states"):
        forget(one)
    one.teardown()


def test_the_example_tells_the_bug_in_few_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    monkeypatch.setattr("sys.argv", ["find_the_bug.py", "--html", str(page)])
    try:
        find_the_bug.main()
    finally:
        logging.disable(logging.NOTSET)
    told = capsys.readouterr().out
    first = told.splitlines()[0]
    assert re.match(r"Wrong: after entry \d+ two members have different states", first)
    assert "where it restored a snapshot" in first
    suffice = re.search(r"^These (\d) steps suffice:$", told, re.MULTILINE)
    assert suffice is not None
    assert int(suffice[1]) <= 8
    assert told.index("state.teardown()") < told.index("What happened:")
    assert f"The whole story: {page}" in told
    assert "<html" in page.read_text(encoding="utf-8")


def test_a_class_without_commands_says_what_it_needs() -> None:
    class Bare(ClusterMachine):
        def make_machine(self) -> Machine[object]:
            return Counter()

    with pytest.raises(TypeError, match=r"Bare needs what may be proposed: commands = st\."):
        Bare()


def test_hypothesis_shrinks_where_the_user_has_rules_of_their_own() -> None:
    class WithARule(CounterInACluster):
        @rule()
        def look(self) -> None:
            """Something of the user's."""

    assert Phase.shrink not in TicketsInACluster.TestCase.settings.phases
    assert Phase.shrink in WithARule.TestCase.settings.phases


def test_steps_are_left_out_until_each_matters() -> None:
    asked: list[Step] = []

    def fails(steps: Sequence[Step]) -> bool:
        asked.extend(steps)
        words = [step[0] for step in steps]
        given = [
            word
            for step in steps
            if step[0] == "propose"
            for word in cast("tuple[bytes, ...]", step[2])
        ]
        return "restart" in words and b"x" in given

    steps: list[Step] = [("wait", 20), ("propose", "n1", (b"a", b"x", b"b"))]
    steps += [("pause", "n2"), ("restart", "n3"), ("resume",), ("wait", 5)] * 4
    best = fewest(steps, fails)
    assert best == (("propose", "n1", (b"x",)), ("restart", "n3"))
    assert program("Mine", best).splitlines() == [
        "These 2 steps suffice:",
        "state = Mine()",
        "state.propose(member='n1', commands=[b'x'])",
        "state.restart(member='n3')",
        "state.teardown()",
    ]


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
        assert one.running() == ["n1", "n2", "n3"]


def test_a_machine_that_raises_is_named_with_what_it_raised() -> None:
    def boom() -> None:
        with played(Raises) as one:
            one.propose(member="n1", commands=[b"fine"])
            one.propose(member="n1", commands=[b"boom"])

    with pytest.raises(AssertionError, match=r"raised ValueError at .*: boom"):
        boom()


def answered(*, judged: bool) -> None:
    with played(AnswersByItself, judged=judged) as one:
        one.propose(member="n1", commands=[b"a", b"b"])
        one.propose(member="n2", commands=[b"a"])


def test_answers_that_one_machine_could_not_have_given_are_refused() -> None:
    answered(judged=False)
    with pytest.raises(NotLinearizableError):
        answered(judged=True)
