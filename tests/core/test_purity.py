"""The core is a function: of its arguments alone, everywhere, for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy

import pytest
from attrs import evolve, fields
from attrs.exceptions import FrozenInstanceError

from raftkv.core import Input, Ready, State, digest, has_ready, ready, step
from raftkv.errors import InvariantError
from raftkv.testing import SeededChoices, Simulation, draw_options
from raftkv.testing.member import Member

STEPS = 800

DIGESTS = """
import hashlib, sys
from raftkv.core import digest
from raftkv.testing import SeededChoices, run
for seed in (5, 17, 23):
    outcome = run(SeededChoices(seed), 400, keep=None)
    whole = hashlib.sha256()
    for time, node, happened, state in outcome.trace.records():
        if state is not None:
            whole.update(digest(state))
    print(outcome.steps, whole.hexdigest())
"""


class Recorded(Simulation):
    """A faulty run of which every call of the core is kept."""

    def __init__(self, seed: int) -> None:
        self.calls: list[tuple[State, Input, State]] = []
        self.readies: list[State] = []
        choices = SeededChoices(seed)
        super().__init__(draw_options(choices), choices)

    def feed(self, member: Member, event: Input) -> None:
        before = member.state
        super().feed(member, event)
        self.calls.append((before, event, member.state))

    def work(self, member: Member) -> None:
        if has_ready(member.state):
            self.readies.append(member.state)
        super().work(member)


@pytest.fixture(scope="module", params=[2, 13, 40, 41])
def recorded(request: pytest.FixtureRequest) -> Recorded:
    simulation = Recorded(request.param)
    simulation.run(STEPS)
    return simulation


def test_a_step_again_gives_the_same_result_long_afterwards(recorded: Recorded) -> None:
    assert len(recorded.calls) >= STEPS
    for before, event, after in recorded.calls:
        again = step(before, event)
        assert again == after
        assert again is not after
        assert hash(again) == hash(after)
        assert digest(again) == digest(after)


def test_a_stepped_state_is_what_its_constructor_makes_of_its_fields(recorded: Recorded) -> None:
    """Steps make States by handing a dict on: nothing but the fields may lie in it."""
    names = [one.name for one in fields(State)]
    for _, _, state in recorded.calls[::50]:
        assert list(vars(state)) == names
        made = State(**vars(state))
        assert made == state
        assert hash(made) == hash(state)
        assert [*vars(evolve(state, term=state.term))] == names
        assert deepcopy(state) == state  # by the protocol of pickle
        for part in (*state.progress, state.log):
            assert list(vars(part)) == [one.name for one in fields(type(part))]
        with pytest.raises(FrozenInstanceError):
            state.term = 7  # type: ignore[misc] - refused


def test_a_ready_again_gives_the_same_work(recorded: Recorded) -> None:
    assert len(recorded.readies) > STEPS // 4
    first: list[tuple[State, Ready]] = [ready(state) for state in recorded.readies]
    assert [ready(state) for state in reversed(recorded.readies)] == first[::-1]


def test_old_states_are_what_they_were(recorded: Recorded) -> None:
    before = [(state, digest(state), hash(state)) for state, _, _ in recorded.calls]
    for state, event, _ in recorded.calls:
        step(state, event)
    for state, old_digest, old_hash in before:
        assert digest(state) == old_digest
        assert hash(state) == old_hash


def test_states_of_one_member_lie_in_sets_and_differ_as_their_digests_do(
    recorded: Recorded,
) -> None:
    states = [after for _, _, after in recorded.calls]
    distinct = {*states}
    assert 1 < len(distinct) <= len(states)
    assert len({digest(state) for state in states}) == len(distinct)
    assert all(state in distinct for state in states)


def test_branches_from_one_state_do_not_see_each_other(recorded: Recorded) -> None:
    inputs = [event for _, event, _ in recorded.calls[:40]]
    state = recorded.calls[0][0]
    own = set(_branches(state, inputs))
    again = set(_branches(state, inputs[::-1]))
    assert own == again


def _branches(state: State, inputs: list[Input]) -> list[State]:
    found: list[State] = []
    for event in inputs:
        # An input that was meant for another state may be a caller's mistake here.
        with suppress(InvariantError):
            found.append(step(state, event))
    return found


def test_digests_are_the_same_in_every_process_and_under_every_hash_seed() -> None:
    printed = [_python(DIGESTS, hash_seed) for hash_seed in ("0", "1", "12345")]
    assert printed[0].count("\n") == 3
    assert printed[0] == printed[1] == printed[2]


def _python(code: str, hash_seed: str) -> str:
    done: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
    return done(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
