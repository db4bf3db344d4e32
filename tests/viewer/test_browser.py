"""The page of a story in a real browser: it steps, jumps, turns dark, and asks nobody anything."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path
from typing import cast

import pytest

from raftkv.testing.story import Kind, Story, StoryWriter
from raftkv.testing.viewer import write_html
from tests.viewer.browser import PROGRAM, Browser
from tests.viewer.stories import HOSTILE, large, small
from tests.viewer.test_page import hostile

pytestmark = pytest.mark.skipif(
    shutil.which(PROGRAM) is None, reason="needs Chromium (apt-get install chromium)"
)

LARGE = large()
SMALL = small()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Generator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(running: Browser) -> Generator[Browser]:
    """With a window of the usual size, a light mind, and nothing to complain about afterwards."""
    running.prefer("light")
    yield running
    assert running.complaints() == []


def shown(browser: Browser, story: Story, tmp_path: Path) -> str:
    """Open the page of a story; its address."""
    path = tmp_path / "trace.html"
    write_html(story, path)
    browser.open(path)
    return path.as_uri()


def text(browser: Browser, selector: str) -> str:
    return str(browser.ask(f"document.querySelector({selector!r}).innerText"))


def event(browser: Browser) -> int:
    """The number of the event that is shown."""
    return int(text(browser, "#now b").removeprefix("#"))


def row(browser: Browser, node: int) -> list[str]:
    """What the table tells of a node."""
    cells = browser.ask(
        f"[...document.querySelectorAll('#nodes tr')[{node}].querySelectorAll('th, td')]"
        ".map(one => one.innerText)"
    )
    return cast("list[str]", cells)


def test_a_page_opens_at_the_violation_and_loads_nothing_else(
    browser: Browser, tmp_path: Path
) -> None:
    address = shown(browser, LARGE, tmp_path)
    assert browser.requests() == [address]
    assert text(browser, "h1") == LARGE.title
    assert event(browser) == 500
    assert "I16 violated" in text(browser, "#violated")
    assert text(browser, "#now span") == "I16: n5 commits another entry"
    assert text(browser, "#replay") == f"Run it again: {LARGE.replay}"


def test_the_keys_step_through_the_events(browser: Browser, tmp_path: Path) -> None:
    shown(browser, LARGE, tmp_path)
    seen: list[int] = []
    for key in (
        "Home", "ArrowLeft", "ArrowRight", "ArrowRight", "ArrowLeft", "PageDown", "PageUp", "End",
        "ArrowRight",
    ):  # fmt: skip
        browser.press(key)
        seen.append(event(browser))
    assert seen == [1, 1, 2, 3, 2, 12, 2, 500, 500]


def test_every_step_shows_what_the_story_says_forwards_and_backwards(
    browser: Browser, tmp_path: Path
) -> None:
    shown(browser, SMALL, tmp_path)
    there = [
        (*row(browser, 0)[:11], *row(browser, 1)[:11]) for _ in steps(browser, "Home", "ArrowRight")
    ]
    back = [
        (*row(browser, 0)[:11], *row(browser, 1)[:11]) for _ in steps(browser, "End", "ArrowLeft")
    ]
    assert there == back[::-1]
    assert there[5][:10] == ("n1", "leader", "1", "n1", "n1", "1", "1", "0", "0", "0")
    assert there[11][:10] == ("n1", "leader", "1", "n1", "n1", "1", "1", "1", "1", "0")
    assert [one[12] for one in there[12:]] == ["follower", "down", "follower", "follower"]


def steps(browser: Browser, begin: str, key: str) -> Generator[None]:
    """Each event of the small story, from one end to the other."""
    browser.press(begin)
    yield
    for _ in SMALL.events[1:]:
        browser.press(key)
        yield


def test_the_slider_goes_where_it_is_set(browser: Browser, tmp_path: Path) -> None:
    shown(browser, LARGE, tmp_path)
    browser.ask("slider.value = 123; slider.dispatchEvent(new Event('input'))")
    assert event(browser) == 124
    assert text(browser, "#place") == "124 of 500"
    assert str(browser.ask("slider.getAttribute('aria-valuetext')")).startswith("event 124: ")
    browser.ask("slider.focus()")
    browser.press("ArrowLeft")  # one step, although both the slider and the page know the key
    assert (event(browser), browser.ask("Number(slider.value)")) == (123, 122)


def test_a_click_in_the_lanes_or_the_list_goes_there(browser: Browser, tmp_path: Path) -> None:
    shown(browser, LARGE, tmp_path)
    browser.press("Home")
    left, top = cast(
        "list[float]",
        browser.ask(
            "(r => [r.left, r.top])(document.querySelector('#lanes').getBoundingClientRect())"
        ),
    )
    browser.click(left + 22 * 7 + 11, top + 90)
    assert event(browser) == 8
    x, y = cast(
        "list[float]",
        browser.ask(
            "(r => [r.left + 40, r.top + 8])"
            "(document.querySelector('#event-9').getBoundingClientRect())"
        ),
    )
    browser.click(x, y)
    assert event(browser) == 10


def test_n_and_p_go_to_faults_and_v_to_the_violation(browser: Browser, tmp_path: Path) -> None:
    shown(browser, SMALL, tmp_path)
    browser.press("Home")
    seen: list[int] = []
    for key in "nnnnpppv":
        browser.press(key)
        seen.append(event(browser))
    assert seen == [7, 14, 16, 16, 14, 7, 7, 16]
    browser.press("Home")
    browser.ask("document.querySelector('#violated').click()")
    assert event(browser) == 16


def test_a_message_is_an_arrow_and_a_lost_one_is_marked(browser: Browser, tmp_path: Path) -> None:
    shown(browser, SMALL, tmp_path)
    assert browser.ask("document.querySelectorAll('.arrow').length") == 2
    assert browser.ask("document.querySelectorAll('.arrow.lost path').length") == 1
    browser.press("Home")
    lit: list[object] = []
    for _ in SMALL.events:
        lit.append(browser.ask("document.querySelectorAll('.arrow.hot').length"))
        browser.press("ArrowRight")
    assert [number for number, count in enumerate(lit, 1) if count] == [4, 5, 9, 10]


def test_faults_calls_and_roles_are_told_in_words_too(browser: Browser, tmp_path: Path) -> None:
    shown(browser, SMALL, tmp_path)
    told = "[...document.querySelectorAll({!r})].map(one => one.textContent)"
    assert browser.ask(told.format("#lanes .fault text")) == ["isolate n1"]
    assert browser.ask(told.format("#lanes .bar text")) == ["put a=1 → revision 1"]
    assert browser.ask(told.format("#lanes .role")) == [
        "F t0",
        "C t1",
        "L t1",
        "F t0",
        "F t1",
        "down",
        "F t1",
        "F t0",
    ]
    browser.press("Home")
    heads: list[str] = []
    during: list[str] = []
    for _ in range(12):
        heads.append(text(browser, ".head.node"))
        during.append(text(browser, "#now em"))
        browser.press("ArrowRight")
    assert during == [*[""] * 6, *["while: isolate n1"] * 4, "", ""]
    assert [one.removeprefix("n1\n") for one in heads[:6]] == [
        *["follower t0"] * 3, "candidate t1", "candidate t1", "leader t1",
    ]  # fmt: skip


def test_the_calls_of_many_clients_share_lanes_and_say_whose_they_are(
    browser: Browser, tmp_path: Path
) -> None:
    writer = StoryWriter(["n1"])
    for number in range(20):
        put = writer.event(number, "n1", Kind.CALL, "put", client=f"c{number}")
        writer.event(number, None, Kind.RETURN, "done", client=f"c{number}", operation=put)
    writer.event(20, "n1", Kind.CALL, "get", client="c1")
    writer.event(20, "n1", Kind.CALL, "get", client="c2")
    shown(browser, writer.story("many"), tmp_path)
    heads = browser.ask("[...document.querySelectorAll('.head.client')].map(one => one.innerText)")
    assert heads == ["20 clients", ""]
    told = browser.ask("[...document.querySelectorAll('.bar title')].map(one => one.textContent)")
    assert told == [*(f"c{number}: put → done" for number in range(20)), "c1: get", "c2: get"]


def test_entries_that_differ_are_marked_by_letter_and_by_outline(
    browser: Browser, tmp_path: Path
) -> None:
    shown(browser, LARGE, tmp_path)
    marked = "[...document.querySelectorAll({!r})].map(one => one.textContent)"
    assert browser.ask(marked.format("#nodes tr:nth-child(5) .committed.other")) == ["1b", "1b"]
    assert browser.ask(marked.format("#nodes tr:nth-child(5) .unstable")) == ["1b"]
    assert set(cast("list[str]", browser.ask(marked.format("#nodes .disputed")))) == {"1", "1b"}
    browser.press("ArrowLeft")
    browser.press("ArrowLeft")
    assert browser.ask(marked.format("#nodes .other, #nodes .disputed")) == []


def colour(browser: Browser) -> object:
    return browser.ask("getComputedStyle(document.body).backgroundColor")


def test_a_page_is_light_or_dark_as_preferred_and_as_toggled(
    browser: Browser, tmp_path: Path
) -> None:
    shown(browser, SMALL, tmp_path)
    light = colour(browser)
    browser.prefer("dark")
    dark = colour(browser)
    assert light != dark
    browser.until("theme.getAttribute('aria-pressed') === 'true'")
    browser.press("t")
    assert colour(browser) == light
    assert browser.ask("theme.getAttribute('aria-pressed')") == "false"
    browser.prefer("light")
    assert colour(browser) == light
    browser.ask("theme.click()")
    assert colour(browser) == dark


CONTRASTS = """
(() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const one = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    return 0.2126 * one(r) + 0.7152 * one(g) + 0.0722 * one(b);
  };
  const ground = element => {
    for (; element; element = element.parentElement) {
      const colour = rgb(getComputedStyle(element).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const told = [];
  for (const one of document.querySelectorAll('body *:not(svg):not(svg *):not(script)')) {
    const own = [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || !one.offsetWidth) continue;
    const [a, b] = [light(rgb(getComputedStyle(one).color)), light(ground(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) told.push(`${one.className || one.tagName} ${one.textContent} ${ratio}`);
  }
  return told;
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground(browser: Browser, tmp_path: Path, scheme: str) -> None:
    browser.prefer(scheme)
    for story in (SMALL, LARGE):
        shown(browser, story, tmp_path)
        for key in ("Home", "End"):
            browser.press(key)
            assert browser.ask(CONTRASTS) == []


def test_nothing_moves_while_the_story_goes_on(browser: Browser, tmp_path: Path) -> None:
    shown(browser, LARGE, tmp_path)
    places = (
        "JSON.stringify(['#slider', '#timeline', '#now', '#nodes', '#list', 'footer', '#nodes th',"
        " '#nodes td:last-child', '#next'].map(one => {"
        " const r = document.querySelector(one).getBoundingClientRect();"
        " return [one, r.left, r.top, r.width, r.height]; }))"
    )
    browser.press("Home")
    seen = {browser.ask(places)}
    for _ in range(20):
        browser.press("PageDown")
        browser.press("n")
        seen.add(browser.ask(places))
    longest = max(range(500), key=lambda index: len(LARGE.events[index].text))
    browser.ask(f"slider.value = {longest}; slider.dispatchEvent(new Event('input'))")
    assert len(text(browser, "#now")) > 500
    seen.add(browser.ask(places))
    assert len(seen) == 1


def test_the_shown_event_is_in_view_in_the_lanes_and_in_the_list(
    browser: Browser, tmp_path: Path
) -> None:
    shown(browser, LARGE, tmp_path)
    within = (
        "(() => { const inside = (one, box) => one.left >= box.left && one.right <= box.right + 1"
        " && one.top >= box.top && one.bottom <= box.bottom + 1;"
        " const at = name => document.querySelector(name).getBoundingClientRect();"
        " const lanes = at('#timeline');"
        " return [inside(at('.column'), {left: at('#heads').right, right: lanes.right,"
        " top: lanes.top, bottom: lanes.bottom}), inside(at('[aria-selected]'), at('#list'))]; })()"
    )
    for key in ("Home", "PageDown", "End", "PageUp", "Home"):
        browser.press(key)
        assert browser.ask(within) == [True, True]


def test_focus_can_be_seen_on_everything_that_takes_it(browser: Browser, tmp_path: Path) -> None:
    shown(browser, LARGE, tmp_path)
    met: list[object] = []
    for _ in range(12):
        browser.press("Tab")
        name = browser.ask("document.activeElement.id")
        if name in met or not name:
            break
        met.append(name)
        assert browser.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert met == [
        "violated", "theme", "first", "back", "on", "last", "slider", "previous", "next",
        "timeline", "list",
    ]  # fmt: skip
    nameless = browser.ask(
        "[...document.querySelectorAll('button, input, [role], [tabindex]')]"
        ".filter(one => !(one.getAttribute('aria-label') || one.innerText || one.id === 'now'))"
        ".map(one => one.outerHTML)"
    )
    assert nameless == []
    browser.ask("list.focus()")
    assert browser.ask("document.activeElement.getAttribute('aria-activedescendant')") == (
        "event-499"
    )
    browser.press("ArrowUp")
    assert event(browser) == 499


def test_markup_in_a_story_is_shown_and_not_run(browser: Browser, tmp_path: Path) -> None:
    story = hostile()
    address = shown(browser, story, tmp_path)
    for _ in story.events:
        browser.press("ArrowLeft")
    assert browser.ask("window.broken") is None
    assert browser.ask("document.querySelectorAll('script, img').length") == 2
    assert browser.ask("document.querySelector('#now span').textContent") == HOSTILE
    assert browser.requests() == [address]


def test_a_script_that_were_in_a_page_would_not_run_nor_reach_anybody(
    browser: Browser, tmp_path: Path
) -> None:
    address = shown(browser, SMALL, tmp_path)
    browser.ask(
        "(() => { const one = document.createElement('script');"
        " one.textContent = 'window.broken = 1'; document.body.append(one); })()"
    )
    assert browser.ask("window.broken") is None
    told = browser.ask("fetch('file:///etc/hostname').then(() => 'read', () => 'refused')")
    assert told == "refused"
    assert browser.requests() == [address]
    complaints = browser.complaints()
    assert complaints
    assert all("Content Security Policy" in one for one in complaints)
    browser.said.clear()


def test_a_story_in_which_nothing_happened_says_so(browser: Browser, tmp_path: Path) -> None:
    shown(browser, Story("an empty one", (), (), "s", ()), tmp_path)
    assert text(browser, "h1") == "an empty one: nothing happened"
