"""What every node of a story is at an event, and what is going wrong then."""

from __future__ import annotations

from attrs import evolve

from raftkv.testing.story import Event, Kind, NodeView, Story


class Standing:
    """The nodes' views, who stands still, and the open faults: first as before the story."""

    def __init__(self, story: Story) -> None:
        self.views: dict[str, NodeView] = dict(story.before)
        self.paused = dict.fromkeys(story.paused)
        self.faults: dict[int | None, Event] = {one.operation: one for one in story.faults}

    def take(self, event: Event) -> NodeView | None:
        """Go on to this event; what its node is now."""
        if event.kind is Kind.FAULT:
            self.faults[event.operation] = event
        elif event.kind is Kind.HEAL:
            if event.operation is None:
                self.faults.clear()
            else:
                self.faults.pop(event.operation, None)
        return None if event.node is None else self._take(event.node, event)

    def _take(self, node: str, event: Event) -> NodeView | None:
        if event.kind is Kind.PAUSE:
            self.paused[node] = None
        elif event.kind in (Kind.RESUME, Kind.CRASH, Kind.STOP, Kind.START):
            self.paused.pop(node, None)
        view = event.view or self.views.get(node)
        if view is None:
            return None
        if event.kind in (Kind.CRASH, Kind.STOP):
            view = evolve(view, is_up=False)
        elif event.kind is Kind.START:
            view = evolve(view, is_up=True)
        self.views[node] = view
        return view


def newest(story: Story, count: int) -> Story:
    """The last events of a story, at most ``count``, with what was true before them."""
    cut = len(story.events) - count
    if cut <= 0:
        return story
    before = Standing(story)
    for event in story.events[:cut]:
        before.take(event)
    return evolve(
        story,
        events=story.events[cut:],
        before=before.views,
        paused=tuple(before.paused),
        faults=tuple(before.faults.values()),
    )
