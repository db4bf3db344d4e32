"""A story as text: one line per event, aligned, and made for ``grep``.

A line shows the whole cluster in a few characters, one place for each node: a capital is the node
that the event happened at, a small letter another one that is no follower, ``.`` a follower, ``x``
one that is down, ``=`` one that is paused, ``?`` one of which nothing is known yet. Then follow
what the event's node is after it, and the event. Positions that never change between two stories:

    number, at, places, node, role, term, vote, leader, log, commit, applied, snapshot, members,
    appends in flight, kind, what
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from raftkv.core import Role
from raftkv.testing.story import Event, Kind, NodeView, Story
from raftkv.testing.viewer.standing import Standing

_LETTERS: Final = {
    Role.FOLLOWER: "F",
    Role.PRE_CANDIDATE: "P",
    Role.CANDIDATE: "C",
    Role.LEADER: "L",
}
_ARROWS: Final = {Kind.SEND: "->", Kind.DELIVER: "<-", Kind.LOST: "-x"}
_HEADS: Final = (
    "#", "at", "nodes", "node", "r", "term", "vote", "lead", "log", "commit", "applied", "snap",
    "members", "fly", "kind", "",
)  # fmt: skip
_NUMBERS: Final = frozenset({"#", "at"})  # flush right
_NO_VIEW: Final = ("",) * 10


def as_text(story: Story) -> str:
    """The title, a line per event under a line of heads, what was violated, and how to replay."""
    rows = [_HEADS, *_rows(story)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [story.title, *(_aligned(row, widths) for row in rows)]
    if story.violated is not None:
        told = story.violated
        lines.append(f"violated: {told.invariant} at #{told.event}: {one_line(told.broken)}")
    if story.replay:
        lines.append(f"replay with: {story.replay}")
    return "\n".join(lines) + "\n"


def at_text(at: float, unit: str) -> str:
    """A moment of a story: seconds with their milliseconds, all else as it is."""
    return f"{at:.3f}" if unit == "s" else f"{at:g}"


def one_line(text: str) -> str:
    """Text without line breaks and other characters that move a cursor."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        text.rjust(width) if head in _NUMBERS else text.ljust(width)
        for head, text, width in zip(_HEADS, row, widths, strict=True)
    ]
    return " ".join(cells).rstrip()


def _rows(story: Story) -> Iterator[tuple[str, ...]]:
    standing = Standing(story)
    for event in story.events:
        view = standing.take(event)
        number = f"{event.number}" + ("!" if event.kind is Kind.VIOLATION else "")
        node = event.node or event.client or "--"
        places = _places(standing, story.nodes, event.node)
        head = (number, at_text(event.at, story.unit), places, node)
        yield (*head, *_told(view), event.kind.name, _what(event))


def _told(view: NodeView | None) -> tuple[str, ...]:
    if view is None:
        return _NO_VIEW
    stable = "" if view.stable is None or view.stable >= view.last else f"~{view.stable}"
    return (
        _LETTERS[view.role],
        f"t{view.term}",
        f"v{view.vote or '-'}",
        f"l{view.leader or '-'}",
        f"[{view.first}..{view.last}]{stable}",
        f"c{view.commit}",
        f"a{view.applied}",
        f"s{view.snapshot}",
        one_line(view.config),
        f"f{view.in_flight}",
    )


def _what(event: Event) -> str:
    parts: list[str] = []
    if event.peer is not None:
        parts.append(f"{_ARROWS.get(event.kind, '--')} {event.peer}")
    if event.client is not None and event.node is not None:
        parts.append(event.client)
    parts.append(one_line(event.text))
    if event.message is not None and event.message != event.number:
        parts.append(f"(sent #{event.message})")
    if event.operation is not None and event.operation != event.number:
        parts.append(f"(of #{event.operation})")
    if event.view is not None and event.view.note:
        parts.append(f"[{one_line(event.view.note)}]")
    return " ".join(parts)


def _places(standing: Standing, nodes: Sequence[str], acting: str | None) -> str:
    """A character for each node."""
    return "".join(_place(standing, node, node == acting) for node in nodes)


def _place(standing: Standing, node: str, is_acting: bool) -> str:
    view = standing.views.get(node)
    if view is None:
        return "!" if is_acting else "?"
    if not view.is_up:
        return "X" if is_acting else "x"
    letter = _LETTERS[view.role]
    if is_acting:
        return letter
    if node in standing.paused:
        return "="
    return "." if view.role is Role.FOLLOWER else letter.lower()
