"""Failed runs of whole nodes are made small, also those of which only the end tells."""

from __future__ import annotations

import pytest
from attrs import evolve

from raftkv.handle import Node
from raftkv.testing import SeededChoices
from raftkv.testing.aligned import AlignedChoices, NotingChoices, Turn
from raftkv.testing.histories.kv import Get, KeyValue, KvRequest, KvResponse
from raftkv.testing.nodes.clients import KvClient, Plan
from raftkv.testing.nodes.run import replay, run, simulate
from raftkv.testing.shrink import shrink

STEPS = 300
BUSY = 13
"""A seed with clients and a nemesis that have much to do."""


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gets show every value as an empty one: no step of any core shows that."""
    send = KvClient.send

    async def asked(
        self: KvClient, node: Node[object], request: KvRequest, plan: Plan[KvRequest]
    ) -> KvResponse:
        answer = await send(self, node, request, plan)
        if isinstance(request, Get) and isinstance(answer, KeyValue):
            return evolve(answer, value=b"")
        return answer

    monkeypatch.setattr(KvClient, "send", asked)


@pytest.mark.usefixtures("forgetful")
def test_what_only_the_history_shows_is_made_small() -> None:
    runs = (simulate(seed, STEPS) for seed in range(50))
    failed = next(one for one in runs if one.finding is not None)
    told: list[int] = []
    small = shrink(
        run,
        failed.decisions,
        STEPS,
        is_over=lambda: len(told) >= 24,
        on_progress=lambda _trials, events: told.append(events),
    )
    assert small.finding.invariant == "I48"
    assert small.steps < STEPS or small.events < told[0]
    assert replay(small.decisions, small.steps).finding == small.finding


def test_a_run_of_nodes_is_the_same_when_its_turns_are_looked_up() -> None:
    drawn = run(SeededChoices(BUSY), STEPS)
    noted = NotingChoices(drawn.decisions, 1 << 60)
    assert run(noted, STEPS).digest == drawn.digest
    aligned = AlignedChoices(noted.turns(), 1 << 60)
    assert run(aligned, STEPS).digest == drawn.digest


def moments_of_acts(turns: list[Turn]) -> list[object]:
    """When, to the millisecond, the nemesis acts or leaves it."""
    found: list[object] = []
    moment: object = None
    for turn in turns:
        moment = turn.key[0] if turn.is_moment else moment
        if turn.key[:1] == ("nemesis",):
            found.append(moment)
    return found


def test_what_is_left_out_does_not_move_what_follows_it() -> None:
    steps = 2 * STEPS
    noted = NotingChoices(run(SeededChoices(BUSY), steps).decisions, 1 << 60)
    run(noted, steps)
    turns = noted.turns()
    acts = [place for place, turn in enumerate(turns) if turn.key[:1] == ("nemesis",)]
    left = [turn.without() if place in acts[::2] else turn for place, turn in enumerate(turns)]
    aligned = AlignedChoices(left, 1 << 60)
    less = run(aligned, steps)
    before, after = moments_of_acts(turns), moments_of_acts(aligned.turns())
    both = min(len(before), len(after))  # with fewer crashes the steps are taken in less time
    assert both > 5
    assert after[:both] == before[:both]
    assert replay(less.decisions, steps).digest == less.digest


def test_a_client_of_which_nothing_is_recorded_is_silent() -> None:
    drawn = run(SeededChoices(BUSY), STEPS)
    noted = NotingChoices(drawn.decisions, 1 << 60)
    run(noted, STEPS)
    users = ("client", "holder", "watcher")
    others = [turn for turn in noted.turns() if not turn.key or turn.key[0] not in users]
    silent = run(AlignedChoices(others, 1 << 60), STEPS)
    assert drawn.marks["operation done"] > 0
    assert silent.finding is None
    assert silent.operations == silent.options.clients  # each does one thing in the recovery
    assert replay(silent.decisions, STEPS).operations == silent.operations
