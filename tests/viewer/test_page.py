"""A story as a page: one file, loading nothing, in which text stays text."""

from __future__ import annotations

import json
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
from attrs import evolve

from raftkv.testing import viewer
from raftkv.testing.story import Kind, Story, StoryWriter
from raftkv.testing.viewer import as_html, write_html
from raftkv.testing.viewer.page import EVENTS_MAX
from tests.source import ROOT
from tests.viewer.stories import HOSTILE, large, small


class Elements(HTMLParser):
    """The elements of a page, and what stands in its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and data.strip():
            self.scripts.append(data)


def names(page: str) -> list[str]:
    return [tag for tag, _ in Elements(page).tags]


def hostile() -> Story:
    """A story that says markup wherever it can say anything."""
    writer = StoryWriter([HOSTILE], unit=HOSTILE)
    writer.event(1, HOSTILE, Kind.SEND, HOSTILE, peer=HOSTILE, client=HOSTILE)
    for event in small().events:
        if event.view is not None:
            bad = evolve(event.view, vote=HOSTILE, leader=HOSTILE, config=HOSTILE, note=HOSTILE)
            writer.event(2, HOSTILE, Kind.NOTE, HOSTILE, bad)
    writer.event(3, None, Kind.FAULT, HOSTILE)
    writer.event(3, None, Kind.CALL, HOSTILE, client=HOSTILE)
    writer.violation(4, HOSTILE, HOSTILE, HOSTILE)
    return writer.story(HOSTILE, replay=HOSTILE)


def test_a_page_loads_nothing() -> None:
    page = as_html(large())
    for tag, attributes in Elements(page).tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base"}
        assert not {"src", "href", "action", "style"} & set(attributes)
    assert "@import" not in page
    # An SVG's namespace is a name, not an address.
    addresses = re.findall(r"\w+://[^\s\"']+|url\((?!#)", page)
    assert addresses == ["http://www.w3.org/2000/svg"]


def test_text_in_a_story_never_becomes_markup() -> None:
    page = as_html(hostile())
    assert names(page) == names(as_html(small()))
    data, _ = Elements(page).scripts
    told = json.loads(data)
    assert told["title"] == told["nodes"][0] == told["events"][0][4] == HOSTILE
    assert told["violated"] == [HOSTILE, f"{HOSTILE}", len(told["events"])]


def test_a_story_cannot_name_a_place_in_the_page_to_be_filled() -> None:
    page = as_html(small("{{script}}", "{{data}}"))
    assert Elements(page).scripts[1] == Elements(as_html(small())).scripts[1]
    assert "<title>{{script}}</title>" in page


def test_what_no_encoding_holds_does_not_keep_a_page_from_being_written(tmp_path: Path) -> None:
    write_html(small("\udcff", "\udcff"), tmp_path / "new" / "page.html")
    assert "\\udcff" in (tmp_path / "new" / "page.html").read_text(encoding="utf-8")


def test_the_script_of_the_page_makes_no_markup_and_calls_nobody() -> None:
    (script,) = Elements(as_html(small())).scripts[1:]
    for name in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
    ):
        assert name not in script
    for name in ("fetch(", "XMLHttpRequest", "WebSocket", "import(", "localStorage", "cookie"):
        assert name not in script


def test_what_repeats_is_written_once() -> None:
    assert len(as_html(large())) < 200_000


def test_a_page_has_the_last_events_of_a_story_that_is_too_long_for_one() -> None:
    story = large(EVENTS_MAX + 300)
    told = json.loads(Elements(as_html(story)).scripts[0])
    assert len(told["events"]) == EVENTS_MAX
    assert told["events"][-1][0] == story.events[-1].number
    assert len(told["before"]) == 5
    assert -1 not in told["before"]


def test_the_same_story_gives_the_same_bytes() -> None:
    assert as_html(large()) == as_html(large())


def test_an_empty_story_is_a_page_too() -> None:
    assert "<title>nothing</title>" in as_html(StoryWriter().story("nothing"))


def test_the_files_of_the_page_are_in_the_wheel(tmp_path: Path) -> None:
    builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    (wheel,) = builder.build(directory=str(tmp_path), versions=["standard"])
    inside = set(zipfile.ZipFile(wheel).namelist())
    folder = Path(viewer.__file__).parent
    ours = {f"raftkv/testing/viewer/{one.name}" for one in folder.iterdir() if one.is_file()}
    assert {name.rsplit(".")[-1] for name in ours} == {"py", "html", "css", "js"}
    assert ours <= inside
