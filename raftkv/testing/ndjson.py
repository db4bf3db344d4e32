"""A story as one JSON object per line, for programs: which node went into which state, and why.

Enough to check a run against a specification of the protocol (a trace check with TLA+): every line
has the node's whole visible state after the event, and messages are numbered, so that each DELIVER
names its SEND.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from attrs import asdict

from raftkv.core import Role
from raftkv.testing.story import Event, NodeView, Story


def as_ndjson(story: Story) -> Iterator[str]:
    """A line that tells what story it is, then one for each event."""
    head = {
        "title": story.title,
        "nodes": story.nodes,
        "unit": story.unit,
        "violated": asdict(story.violated) if story.violated else None,
        "before": {name: _state(view) for name, view in story.before.items()},
    }
    yield json.dumps(head)
    for event in story.events:
        yield json.dumps(_line(event))


def _line(event: Event) -> dict[str, object]:
    told: dict[str, object] = {
        "number": event.number,
        "at": event.at,
        "node": event.node,
        "kind": event.kind.name,
        "text": event.text,
        "peer": event.peer,
        "message": event.message,
        "client": event.client,
        "operation": event.operation,
        "state": None if event.view is None else _state(event.view),
    }
    return {name: value for name, value in told.items() if value is not None}


def _state(view: NodeView) -> dict[str, object]:
    return asdict(view, value_serializer=_plain)


def _plain(_instance: object, _field: object, value: object) -> object:
    return value.name if isinstance(value, Role) else value
