"""What a user of a machine wants to read of a story: what clients and members did, not messages."""

from __future__ import annotations

from typing import Final

from raftkv.testing.story import Event, Kind, Story
from raftkv.testing.viewer.text import at_text, one_line

_LINES_MAX: Final = 24
_TOLD: Final = frozenset(
    {
        Kind.START,
        Kind.STOP,
        Kind.CRASH,
        Kind.PAUSE,
        Kind.RESUME,
        Kind.FAULT,
        Kind.HEAL,
        Kind.CALL,
        Kind.RETURN,
        Kind.NOTE,
        Kind.VIOLATION,
    }
)


def shown(story: Story) -> str:
    """The newest events, a line each: when, who, what."""
    events = [event for event in story.events if event.kind in _TOLD]
    names = [_who(event) for event in events]
    width = max(map(len, names), default=0)
    lines = [
        f"{at_text(event.at, story.unit):>8} {name:<{width}}  {_what(event)}"
        for event, name in zip(events, names, strict=True)
    ]
    left_out = len(lines) - _LINES_MAX
    if left_out > 0:
        lines = [f"{left_out} events before", *lines[-_LINES_MAX:]]
    return "\n".join(["What happened:", *lines])


def _who(event: Event) -> str:
    return event.node or event.client or "all"


def _what(event: Event) -> str:
    text = one_line(event.text)
    return f"asks for {text}" if event.kind is Kind.CALL else text
