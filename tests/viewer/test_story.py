"""A writer keeps the newest events, and what must be known to show them."""

from __future__ import annotations

import doctest

import pytest
from attrs import evolve

from raftkv.core import EntryKind, Payload, Receive, RequestVote, Role, Tick, step
from raftkv.testing import story
from raftkv.testing.options import SAFE_WORLD
from raftkv.testing.story import CELLS, Kind, NodeView, StoryWriter, in_words, is_idle, node_view
from raftkv.testing.world import World
from raftkv.transport.codec import encode_messages


def view(term: int = 1, last: int = 0) -> NodeView:
    return NodeView(Role.FOLLOWER, term, "", "", 1, last, 0, 0, 0, "{1}", 0)


def test_the_example_in_its_docstring_runs() -> None:
    assert doctest.testmod(story).failed == 0


def test_a_writer_keeps_the_newest_events_and_goes_on_counting() -> None:
    writer = StoryWriter(["a"], keep=3)
    for number in range(1, 12):
        assert writer.event(number, "a", Kind.NOTE, "x") == number
        kept = [one.number for one in writer.story("s").events]
        assert kept == list(range(max(1, number - 2), number + 1))
    assert writer.count == 11


def test_words_are_made_only_when_asked_for() -> None:
    def fail(_: object) -> str:
        raise AssertionError("put into words")

    writer = StoryWriter(["a"], describe=fail)
    writer.event(1, "a", Kind.INPUT, object())
    with pytest.raises(AssertionError, match="put into words"):
        writer.story("s")


@pytest.mark.parametrize("filler", range(9))
def test_what_was_true_before_the_first_kept_event_is_known(filler: int) -> None:
    writer = StoryWriter(["a", "b", "c"], keep=2)
    writer.event(1, "a", Kind.START, "start", view(3))
    writer.event(1, "b", Kind.START, "start", view(4))
    writer.event(2, "b", Kind.PAUSE, "pause")
    writer.event(2, "a", Kind.CRASH, "crash")
    healed = writer.event(2, None, Kind.FAULT, "cut a")
    opened = writer.event(2, None, Kind.FAULT, "cut b")
    writer.event(2, None, Kind.HEAL, "a again", operation=healed)
    for _ in range(filler + 2):
        writer.event(3, "c", Kind.NOTE, "x")
    told = writer.story("s")
    assert told.nodes == ("a", "b", "c")
    assert {name: (one.term, one.is_up) for name, one in told.before.items()} == {
        "a": (3, False),
        "b": (4, True),
    }
    assert told.paused == ("b",)
    assert [one.number for one in told.faults] == [opened]
    assert told.faults[0].operation == opened


def test_a_heal_without_a_name_ends_all_faults() -> None:
    writer = StoryWriter(["a"], keep=1)
    writer.event(1, None, Kind.FAULT, "cut a")
    writer.event(1, None, Kind.FAULT, "cut b")
    writer.event(2, None, Kind.HEAL, "all")
    writer.event(3, "a", Kind.NOTE, "x")
    assert writer.story("s").faults == ()


def test_telling_it_changes_nothing() -> None:
    writer = StoryWriter(["a"], keep=2)
    for at in range(5):
        writer.event(at, "a", Kind.NOTE, "x", view(at))
    assert writer.story("s") == writer.story("s")


def test_a_violation_is_an_event_and_what_the_story_is_about() -> None:
    writer = StoryWriter(["a"])
    writer.event(1, "a", Kind.NOTE, "x")
    assert not writer.is_violated
    writer.violation(2, "a", "I4", "commit went from 3 to 2")
    assert writer.is_violated
    told = writer.story("s")
    assert told.violated == story.Violated("I4", "commit went from 3 to 2", 2)
    assert told.events[-1].text == "I4: commit went from 3 to 2"


def test_the_state_of_a_core_becomes_a_view_with_the_newest_entries() -> None:
    state = World(SAFE_WORLD).members[1].state
    log, _ = state.log.propose(
        2, tuple(Payload(EntryKind.NORMAL, b"%d" % number) for number in range(CELLS + 5))
    )
    leading = evolve(state, role=Role.LEADER, term=2, vote=1, leader=1, log=log, unstable=7)
    seen = node_view(leading)
    assert seen is not None
    assert (seen.role, seen.vote, seen.leader) == (Role.LEADER, "n1", "n1")
    assert (seen.last, seen.stable) == (log.last_index, 6)
    assert [one.index for one in seen.entries] == list(range(seen.last - CELLS + 1, seen.last + 1))
    assert len({one.hash for one in seen.entries}) == CELLS
    assert seen.config == "{n1,n2,n3}"


def test_a_state_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="neither a State nor a NodeView"):
        node_view(7)


def test_a_story_of_no_events_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="at least one"):
        StoryWriter(keep=0)


def test_what_the_core_and_the_wire_say_is_put_into_words() -> None:
    ask = RequestVote(1, 2, 7, 5, 9)
    assert in_words(ask) == "RequestVote t7 9/5"
    assert in_words(Receive(ask)) == in_words(ask) == in_words(encode_messages([ask]))
    assert in_words(encode_messages([ask, ask])) == f"{in_words(ask)}, {in_words(ask)}"
    assert in_words(Tick()) == "Tick()"
    assert in_words(b"\x00what") == "frame of 5 bytes"
    assert in_words("as it is") == "as it is"


def test_ids_become_the_names_of_the_nodes_that_have_them() -> None:
    state = World(SAFE_WORLD).members[1].state
    drawn = 1161815862376338474
    mine = evolve(state, config=evolve(state.config, id=drawn), vote=drawn, leader=7)
    writer = StoryWriter(keep=1)
    writer.event(1, "berlin", Kind.INPUT, "x", mine)
    writer.event(2, "berlin", Kind.NOTE, f"peer={drawn} and 1494981760936795883, 12345", mine)
    (event,) = writer.story("s").events
    assert event.text == "peer=berlin and n…5883, 12345"
    assert event.view is not None
    assert (event.view.vote, event.view.leader) == ("berlin", "n7")


def test_a_tick_that_only_counts_is_idle_and_one_that_asks_for_votes_is_not() -> None:
    state = World(SAFE_WORLD).members[1].state
    idle: list[bool] = []
    for _ in range(state.timeout_ticks + 1):
        after = step(state, Tick())
        idle.append(is_idle(state, Tick(), after))
        state = after
    assert idle[0]
    assert not all(idle)
    ask = RequestVote(2, 1, 9, 5, 9)
    assert not is_idle(state, Receive(ask), state)
    assert not is_idle(state, Tick(), evolve(state, messages=(ask,)))


def test_a_step_that_takes_what_was_just_delivered_is_one_event_with_it() -> None:
    before, after = view(1), view(2)
    ask = Receive(RequestVote(1, 2, 7, 5, 9))
    writer = StoryWriter()
    sent = writer.event(1, "a", Kind.SEND, "ask", before, peer="b")
    writer.event(2, "b", Kind.DELIVER, "ask", before, peer="a", message=sent)
    writer.event(2, "b", Kind.INPUT, ask, after)
    writer.event(2, "b", Kind.INPUT, Tick(), before)
    writer.event(2, "b", Kind.INPUT, ask, after)
    writer.event(3, "b", Kind.DELIVER, "ask", before, peer="a")
    writer.event(3, "c", Kind.INPUT, ask, after)
    told = writer.story("s").events
    assert [one.kind for one in told] == [
        Kind.SEND, Kind.DELIVER, Kind.INPUT, Kind.INPUT, Kind.DELIVER, Kind.INPUT,
    ]  # fmt: skip
    assert (told[1].view, told[1].message, told[1].text) == (after, sent, "ask")


def test_nodes_that_were_not_named_are_in_order_and_none_is_forgotten() -> None:
    writer = StoryWriter(["z"], keep=1)
    for name in ("n10", "n2", "n1"):
        writer.event(1, name, Kind.START, "boot", view())
    writer.event(2, "n1", Kind.NOTE, "x")
    assert writer.story("s").nodes == ("z", "n1", "n2", "n10")
