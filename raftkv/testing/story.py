"""A run as a story that people read: events in order, and what every node was at each of them.

Whoever runs a simulated cluster records into a :class:`StoryWriter`: a tuple for each event, with
the objects as they are (a core's ``State``, an input, a message). They are put into words only when
somebody asks for the :class:`Story`, that is, when something broke. :mod:`raftkv.testing.viewer`
turns a story into one line per event, or into a page.

>>> writer = StoryWriter(("n1", "n2"), unit="ticks")
>>> sent = writer.event(1, "n1", Kind.SEND, "RequestVote t1", peer="n2")
>>> writer.event(4, "n2", Kind.DELIVER, "RequestVote t1", peer="n1", message=sent)
2
>>> fault = writer.event(5, None, Kind.FAULT, "partition n1 | n2")
>>> writer.event(9, None, Kind.HEAL, "partition n1 | n2", operation=fault)
4
>>> put = writer.event(9, None, Kind.CALL, "put a=1", client="c1")
>>> writer.violation(9, "n1", "I10", "n1 and n2 both lead term 1")
>>> story = writer.story("seed 7", replay="python -m raftkv.testing replay seed-7.json")
>>> [event.kind.name for event in story.events]
['SEND', 'DELIVER', 'FAULT', 'HEAL', 'CALL', 'VIOLATION']
>>> story.violated.event
6
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from enum import Enum
from functools import partial
from typing import Final, cast

from attrs import evolve, frozen

from raftkv.core import Input, Message, Receive, Role, State, Tick
from raftkv.errors import WireError
from raftkv.testing.trace import describe, describe_message
from raftkv.transport.codec import decode_messages

KEEP: Final = 500
"""Events that a writer keeps unless told otherwise: what a person reads."""
CELLS: Final = 24
"""Entries of its log, the newest, that a view tells one by one."""


class Kind(Enum):
    """What an event is; who shows it decides how by this alone."""

    START = "start"
    STOP = "stop"
    CRASH = "crash"
    PAUSE = "pause"
    RESUME = "resume"
    SEND = "send"
    DELIVER = "deliver"
    LOST = "lost"
    WRITE = "write"
    SYNC = "sync"
    APPLY = "apply"
    INPUT = "input"
    FAULT = "fault"
    HEAL = "heal"
    CALL = "call"
    RETURN = "return"
    NOTE = "note"
    VIOLATION = "violation"


@frozen(slots=True)
class Cell:
    """One entry of a log: where it stands, and what tells it from another entry there."""

    index: int
    term: int
    hash: str = ""
    """Of the entry and all before it, in a few hexadecimal digits; empty if nobody knows it."""


@frozen(slots=True)
class NodeView:
    """What one node is at a moment, as far as a reader wants to know."""

    role: Role
    term: int
    vote: str
    """Whom it voted for in this term; empty: nobody."""
    leader: str
    """Who leads this term as far as it knows; empty: nobody."""
    first: int
    """First index of the log; one more than ``last`` while it is empty."""
    last: int
    commit: int
    applied: int
    snapshot: int
    """Index of the newest image of the machine; 0: none."""
    config: str
    """Who takes part: {voters}, &{outgoing}, +{learners}."""
    in_flight: int
    """Appends that it sent as leader and that nobody has answered."""
    is_up: bool = True
    note: str = ""
    """What else a reader must know, in a word or two: recovering, quarantined."""
    stable: int | None = None
    """Last index known to be on this node's disk; None: not told."""
    entries: tuple[Cell, ...] = ()
    """The newest entries of the log, at most :data:`CELLS`, oldest first."""


@frozen(slots=True)
class Event:
    """One thing that happened. The view is its node's *after* it; None: as it was before."""

    number: int
    """Counts from 1 over the whole run, those no longer kept included."""
    at: float
    node: str | None
    """Where it happened; None: in the world around (a partition), or at a client."""
    kind: Kind
    text: str
    view: NodeView | None = None
    peer: str | None = None
    """The other end of a message; a LOST one is told of at its sender, as a SEND."""
    message: int | None = None
    """The same on a SEND and on each DELIVER or LOST of it: the number of the SEND."""
    client: str | None = None
    operation: int | None = None
    """The same on a CALL and its RETURN, and on a FAULT and its HEAL: the number of the first.

    A HEAL without one ends all faults that are open.
    """


@frozen(slots=True)
class Violated:
    """What must not happen, and did."""

    invariant: str
    broken: str
    event: int
    """Number of the event at which it was seen."""


@frozen(slots=True)
class Story:
    """The kept part of a run, ready to be shown."""

    title: str
    nodes: tuple[str, ...]
    clients: tuple[str, ...]
    unit: str
    """Of ``Event.at``: "s" is shown with its milliseconds, all else as whole numbers."""
    events: tuple[Event, ...]
    violated: Violated | None = None
    replay: str = ""
    """The command that runs it again."""
    before: Mapping[str, NodeView] = {}
    """What the nodes were before the first kept event, where anybody knows."""
    paused: tuple[str, ...] = ()
    """Who stood still before the first kept event."""
    faults: tuple[Event, ...] = ()
    """Faults from before the first kept event that were open at it."""


Row = tuple[
    int, float, str | None, Kind, object, object, str | None, int | None, str | None, int | None
]
"""An event as it is recorded: the fields of :class:`Event`, not yet in words."""


Names = Callable[[int], str]
"""What a member is called, by its id."""


def node_view(state: object, name_of: Names = "n{}".format) -> NodeView | None:
    """A view of a core's State; a NodeView, or None, is passed through."""
    if state is None or isinstance(state, NodeView):
        return state
    if not isinstance(state, State):
        raise TypeError(f"neither a State nor a NodeView: {type(state).__name__}")
    log = state.log
    recovering = state.recovering
    return NodeView(
        role=state.role,
        term=state.term,
        vote=name_of(state.vote) if state.vote else "",
        leader=name_of(state.leader) if state.leader else "",
        first=log.first_index,
        last=log.last_index,
        commit=state.commit,
        applied=state.applied,
        snapshot=state.snapshot.index if state.snapshot else 0,
        config=_config(state, name_of),
        in_flight=sum(len(one.inflight) for one in state.peers_led),
        note="" if recovering is None else f"recovering {recovering.value}",
        stable=min(state.unstable - 1, log.last_index),
        entries=tuple(
            Cell(entry.index, entry.term, f"{entry.chain:016x}"[:6])
            for entry in log.slice(
                max(log.first_index, log.last_index - CELLS + 1), log.last_index + 1
            )
        ),
    )


def _config(state: State, name_of: Names) -> str:
    one = state.membership
    groups = [
        ("", one.voters),
        ("&", one.outgoing),
        ("+", (*one.learners, *one.learners_next)),
    ]
    return "".join(f"{mark}{{{','.join(map(name_of, ids))}}}" for mark, ids in groups if ids)


def is_idle(before: State, given: object, after: State) -> bool:
    """Whether a step was a tick that only counted: nothing that a reader could see."""
    return (
        type(given) is Tick
        and after.role is before.role
        and after.term == before.term
        and after.log is before.log
        and after.messages is before.messages
        and after.leader == before.leader
    )


def in_words(what: object) -> str:
    """Inputs and messages of the core, and frames of messages, in a few words; else ``str``."""
    if isinstance(what, bytes):
        return _frame_in_words(what)
    if isinstance(what, Receive):
        return describe_message(what.message)
    if isinstance(what, Message):
        return describe_message(what)
    return describe(what) if isinstance(what, Input) else str(what)


def _frame_in_words(frame: bytes) -> str:
    try:
        messages = decode_messages(frame)
    except WireError:
        return f"frame of {len(frame)} bytes"
    return ", ".join(map(describe_message, messages))


class StoryWriter:
    """Records events as they happen; keeps the newest ``keep``, and what was true before them.

    Recording one is a tuple and a call; what is handed over must not change afterwards (values of
    the core do not). At most ``2 * keep`` events are held.

    ``describe`` puts into words what is no text, ``look`` makes a view of a state; by itself the
    writer knows inputs, messages, frames of messages and States, and calls the members by the names
    of the nodes at which their states were recorded.
    """

    def __init__(
        self,
        nodes: Iterable[str] = (),
        *,
        unit: str = "s",
        keep: int = KEEP,
        describe: Callable[[object], str] = in_words,
        look: Callable[[object], NodeView | None] | None = None,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep {keep}: a story needs at least one event")
        self._nodes = dict.fromkeys(nodes)
        self._unit = unit
        self._keep = keep
        self._describe = describe
        self._look = look
        self._count = 0
        self._older: list[Row] = []
        self._newer: list[Row] = []
        # What is known from before ``_older``: the node's last state, and its last START, STOP...
        self._states: dict[str, object] = {}
        self._lives: dict[str, Kind] = {}
        self._faults: dict[int, Row] = {}
        self._violated: Violated | None = None

    @property
    def count(self) -> int:
        """How many events there were: the number of the newest."""
        return self._count

    @property
    def is_violated(self) -> bool:
        """Whether a violation was recorded."""
        return self._violated is not None

    def event(
        self,
        at: float,
        node: str | None,
        kind: Kind,
        what: object,
        state: object = None,
        *,
        peer: str | None = None,
        message: int | None = None,
        client: str | None = None,
        operation: int | None = None,
    ) -> int:
        """Record one; its number, which a SEND, CALL or FAULT is referred to by later.

        ``what`` is put into words, and ``state`` made a view, only if the story is asked for.
        """
        self._count = number = self._count + 1
        newer = self._newer
        newer.append((number, at, node, kind, what, state, peer, message, client, operation))
        if len(newer) >= self._keep:
            self._forget(self._older)
            self._older, self._newer = newer, []
        return number

    def violation(self, at: float, node: str | None, invariant: str, broken: str) -> None:
        """Record what must not happen, and that it is what this story is about."""
        number = self.event(at, node, Kind.VIOLATION, f"{invariant}: {broken}")
        self._violated = Violated(invariant, broken, number)

    def story(self, title: str, *, replay: str = "", violated: Violated | None = None) -> Story:
        """All of it in words. The writer may go on afterwards."""
        kept = [*self._older, *self._newer]
        names = _Names(kept, self._states)
        look = self._look or partial(node_view, name_of=names)
        kept = _merged(kept)
        states, lives, faults = dict(self._states), dict(self._lives), dict(self._faults)
        cut = max(len(kept) - self._keep, 0)
        _fold(kept[:cut], states, lives, faults)
        told = partial(self._told, names=names, look=look)
        events = tuple(map(told, kept[cut:]))
        before: dict[str, NodeView] = {}
        for node, state in states.items():
            view = look(state)
            if view is not None:
                is_up = lives.get(node) not in (Kind.STOP, Kind.CRASH)
                before[node] = evolve(view, is_up=view.is_up and is_up)
        seen = {one.node for one in events} | before.keys() | lives.keys()
        return Story(
            title=title,
            nodes=(*self._nodes, *_in_order(seen - self._nodes.keys())),
            clients=_in_order({one.client for one in events}),
            unit=self._unit,
            events=events,
            violated=violated or self._violated,
            replay=replay,
            before=before,
            paused=_in_order({node for node, kind in lives.items() if kind is Kind.PAUSE}),
            faults=tuple(map(told, faults.values())),
        )

    def _forget(self, rows: Iterable[Row]) -> None:
        _fold(rows, self._states, self._lives, self._faults)

    def _told(self, row: Row, names: _Names, look: Callable[[object], NodeView | None]) -> Event:
        number, at, node, kind, what, state, peer, message, client, operation = row
        if kind is Kind.SEND and message is None:
            message = number
        elif kind in (Kind.CALL, Kind.FAULT) and operation is None:
            operation = number
        text = names.in_text(what if isinstance(what, str) else self._describe(what))
        return Event(number, at, node, kind, text, look(state), peer, message, client, operation)


_ATTACHED: Final = "raftkv_story"


def attach_story(error: BaseException, story: Story) -> None:
    """Let an exception carry the story of how it came about."""
    setattr(error, _ATTACHED, story)


def story_of(error: BaseException) -> Story | None:
    """The story of how an exception came about, if it carries one; of a group, the first."""
    found = getattr(error, _ATTACHED, None)
    if isinstance(found, Story):
        return found
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return next(filter(None, map(story_of, group.exceptions)), None)
    return None


def _in_order(names: Set[str | None]) -> tuple[str, ...]:
    # c2 stands before c10.
    return tuple(sorted((one for one in names if one is not None), key=lambda one: (len(one), one)))


def _merged(rows: Sequence[Row]) -> list[Row]:
    """Without the steps of a core that took what a DELIVER just before them told of already."""
    merged: list[Row] = []
    for row in rows:
        last = merged[-1] if merged else None
        is_told = (
            isinstance(row[4], Receive)
            and last is not None
            and last[3] is Kind.DELIVER
            and last[2] == row[2]
        )
        if last is not None and is_told:
            merged[-1] = (*last[:5], row[5], *last[6:])
        else:
            merged.append(row)
    return merged


class _Names:
    """Names of members by their ids, as far as events with a node and its State tell them."""

    def __init__(self, rows: Iterable[Row], states: Mapping[str, object]) -> None:
        seen = [*states.items(), *((row[2], row[5]) for row in rows)]
        self._names = {
            state.id: node for node, state in seen if isinstance(state, State) and node is not None
        }

    def __call__(self, member: int) -> str:
        """A name; of a stranger, its id, cut short where it is one of the long drawn ones."""
        text = str(member)
        return self._names.get(member) or (f"n{text}" if len(text) < 7 else f"n…{text[-4:]}")

    def in_text(self, text: str) -> str:
        """Text in which ids that were drawn, and so are long, are replaced by names."""
        return _LONG_ID.sub(lambda found: self(int(found[0])), text)


_LONG_ID: Final = re.compile(r"\b[0-9]{15,20}\b")  # that is how long drawn ids are

_LIVES: Final = (Kind.START, Kind.STOP, Kind.CRASH, Kind.PAUSE, Kind.RESUME)


def _fold(
    rows: Iterable[Row],
    states: dict[str, object],
    lives: dict[str, Kind],
    faults: dict[int, Row],
) -> None:
    """Keep of events that are let go what must be known to show those after them."""
    for row in rows:
        number, _, node, kind, _, state, _, _, _, operation = row
        if node is not None:
            if state is not None:
                states[node] = state
            if kind in _LIVES:
                lives[node] = kind
        if kind is Kind.FAULT:
            faults[number if operation is None else operation] = row
        elif kind is Kind.HEAL:
            if operation is None:
                faults.clear()
            else:
                faults.pop(operation, None)


__all__ = [
    "CELLS",
    "KEEP",
    "Cell",
    "Event",
    "Kind",
    "Names",
    "NodeView",
    "Story",
    "StoryWriter",
    "Violated",
    "attach_story",
    "in_words",
    "is_idle",
    "node_view",
    "story_of",
]
