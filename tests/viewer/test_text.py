"""A story as text: one line per event, its columns aligned."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftkv.testing.story import Kind, Story, StoryWriter
from raftkv.testing.viewer import as_text, newest
from tests.viewer.stories import HOSTILE, large, small


def rows(story: Story) -> list[str]:
    """The lines of events."""
    return as_text(story).splitlines()[2 : 2 + len(story.events)]


def test_a_small_story_reads_as_expected() -> None:
    expected = Path(__file__).with_name("small.txt")
    assert as_text(small()) == expected.read_text(encoding="utf-8")


def test_every_column_begins_at_the_same_place_in_every_line() -> None:
    story = large()
    lines = as_text(story).splitlines()
    place = lines[1].index("kind")
    kinds = {one.kind.name for one in story.events}
    assert {line[place:].split()[0] for line in rows(story)} == kinds
    assert all(line[place - 1] == " " for line in rows(story))


def test_a_line_stays_a_line_whatever_the_story_says() -> None:
    writer = StoryWriter(["a"])
    writer.event(1, "a", Kind.NOTE, "one\ntwo\rthree\x1b[2Jfour\u2028five")
    (line,) = rows(writer.story("s"))
    assert line.endswith(r"one\ntwo\rthree\x1b[2Jfour\u2028five")
    assert len(as_text(small("s", HOSTILE)).splitlines()) == len(as_text(small()).splitlines())


@pytest.mark.parametrize(
    ("kind", "acting", "later"),
    [
        (Kind.CRASH, "X", "x"),
        (Kind.STOP, "X", "x"),
        (Kind.PAUSE, "L", "="),
        (Kind.RESUME, "L", "l"),
        (Kind.START, "L", "l"),
    ],
)
def test_a_place_tells_whether_its_node_is_up(kind: Kind, acting: str, later: str) -> None:
    writer = StoryWriter(["n1", "n2"])
    writer.event(0, "n1", Kind.START, "boot", large().events[0].view)
    if kind is not Kind.PAUSE:
        writer.event(1, "n1", Kind.PAUSE, "stands still")
    writer.event(1, "n1", kind, "it")
    writer.event(2, "n2", Kind.NOTE, "there")
    seen = [line.split()[2] for line in rows(writer.story("s"))]
    assert seen[-2:] == [acting + "?", later + "!"]


def test_what_was_before_the_first_kept_event_is_shown() -> None:
    writer = StoryWriter(["n1", "n2", "n3"], keep=1)
    for event in large(nodes=3).events[:3]:
        writer.event(event.at, event.node, event.kind, event.text, event.view)
    writer.event(1, "n2", Kind.PAUSE, "stop")
    writer.event(1, "n3", Kind.CRASH, "crash")
    writer.event(1, None, Kind.NOTE, "now")
    (line,) = rows(writer.story("s"))
    assert line.split()[2] == "l=x"


@pytest.mark.parametrize("count", [1, 2, 7, 100, 499, 500, 501])
def test_the_newest_lines_of_a_story_are_those_of_its_newest_events(count: int) -> None:
    story = large()
    there = [" ".join(line.split()) for line in rows(story)]
    assert [" ".join(line.split()) for line in rows(newest(story, count))] == there[-count:]


@pytest.mark.parametrize("count", range(1, 16))
def test_what_is_cut_off_a_story_is_remembered(count: int) -> None:
    writer = StoryWriter(["a", "b", "c"])
    writer.event(1, "a", Kind.START, "start", large().events[0].view)
    writer.event(1, "b", Kind.START, "start", large().events[1].view)
    for _ in range(3):
        cut = writer.event(2, None, Kind.FAULT, "cut")
        writer.event(2, "b", Kind.PAUSE, "pause")
        writer.event(2, "a", Kind.CRASH, "crash")
        writer.event(2, None, Kind.HEAL, "mended", operation=cut)
        writer.event(2, None, Kind.FAULT, "cut again")
    writer.event(3, None, Kind.HEAL, "all")
    last = StoryWriter(["a", "b", "c"], keep=count)
    story = writer.story("s")
    for one in story.events:
        last.event(one.at, one.node, one.kind, one.text, one.view, operation=one.operation)
    assert newest(story, count) == last.story("s")
