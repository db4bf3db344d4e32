"""A story as one page: markup, style, script and data in a single file that loads nothing.

The page's own files lie beside this module and are put into it when it is written. All that a story
says reaches the page as data, in JSON without ``<``, ``>`` and ``&``, and is shown as text, never
as markup; a policy in the page lets no other script run, and nothing be fetched.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Final

from raftkv.testing.story import Cell, Event, NodeView, Story
from raftkv.testing.viewer.standing import newest
from raftkv.testing.viewer.text import at_text

EVENTS_MAX: Final = 2000
"""Of a page: one of 500 opens at once, one of 2000 within a second or two."""

_SCRIPTS: Final = ("model.js", "timeline.js", "page.js")
_STYLE: Final = "page.css"
_PAGE: Final = "page.html"


def write_html(story: Story, path: Path) -> None:
    """Write the page of a story, and the directories above it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_html(story), encoding="utf-8", errors="backslashreplace")


def as_html(story: Story) -> str:
    """The page of a story: of its last :data:`EVENTS_MAX` events, if it has more."""
    story = newest(story, EVENTS_MAX)
    style, script = _file(_STYLE), "".join(map(_file, _SCRIPTS))
    fields = {
        "title": escape(story.title),
        "policy": (
            "default-src 'none'; base-uri 'none'; form-action 'none';"
            f" style-src {_hash(style)}; script-src {_hash(script)}"
        ),
        "style": style,
        "data": _data(story),
        "script": script,
    }
    # In one pass: what a field says is not searched for fields again.
    first, *rest = _file(_PAGE).split("{{")
    page = [first]
    for part in rest:
        name, _, text = part.partition("}}")
        page += (fields[name], text)
    return "".join(page)


@cache
def _file(name: str) -> str:
    return files(__package__ or "").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _data(story: Story) -> str:
    """JSON that cannot end the element it stands in."""
    table = _Table(story)
    told = {
        "title": story.title,
        "unit": story.unit,
        "replay": story.replay,
        "nodes": story.nodes,
        "clients": story.clients,
        "events": [table.event(one) for one in story.events],
        "before": [table.view(story.before.get(node)) for node in story.nodes],
        "paused": [story.nodes.index(node) for node in story.paused if node in story.nodes],
        "faults": [table.event(one) for one in story.faults],
        "violated": None
        if story.violated is None
        else [story.violated.invariant, story.violated.broken, story.violated.event],
        "views": table.views,
        "cells": table.cells,
    }
    text = json.dumps(told, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for one in "<>&":
        text = text.replace(one, f"\\u{ord(one):04x}")
    return text


class _Table:
    """Views and log entries repeat from event to event: each is told once, and then by number."""

    def __init__(self, story: Story) -> None:
        self.views: list[list[object]] = []
        self.cells: list[tuple[int, int, str]] = []
        self._unit = story.unit
        self._nodes: Mapping[str, int] = {name: at for at, name in enumerate(story.nodes)}
        self._clients: Mapping[str, int] = {name: at for at, name in enumerate(story.clients)}
        self._known_views: dict[NodeView, int] = {}
        self._known_cells: dict[Cell, int] = {}

    def event(self, one: Event) -> list[object]:
        """As a row; the order is that of ``model.js``."""
        return [
            one.number,
            at_text(one.at, self._unit),
            -1 if one.node is None else self._nodes[one.node],
            one.kind.value,
            one.text,
            self.view(one.view),
            one.peer or "",
            one.message or 0,
            -1 if one.client is None else self._clients[one.client],
            one.operation or 0,
        ]

    def view(self, view: NodeView | None) -> int:
        """Its number; -1: none."""
        if view is None:
            return -1
        number = self._known_views.setdefault(view, len(self.views))
        if number == len(self.views):
            self.views.append(
                [
                    view.role.value,
                    view.term,
                    view.vote,
                    view.leader,
                    view.first,
                    view.last,
                    view.commit,
                    view.applied,
                    view.snapshot,
                    view.config,
                    view.in_flight,
                    view.is_up,
                    view.note,
                    -1 if view.stable is None else view.stable,
                    [self._cell(one) for one in view.entries],
                ]
            )
        return number

    def _cell(self, cell: Cell) -> int:
        number = self._known_cells.setdefault(cell, len(self.cells))
        if number == len(self.cells):
            self.cells.append((cell.index, cell.term, cell.hash))
        return number
