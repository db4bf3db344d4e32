"""A path told again in the simulator's own world: a second judge, and a story for people.

The simulator works its cores by other code, which knows nothing of normal forms and names, and it
holds every invariant it has against each step. So what is found by exploring is confirmed, or the
exploration is wrong.
"""

from __future__ import annotations

from collections import deque

from attrs import evolve, frozen

from raftkv.core import Compact, Message, SnapshotTaken, Tick
from raftkv.testing.disk import Write
from raftkv.testing.explore.driver import has_answers
from raftkv.testing.explore.scope import Scope
from raftkv.testing.explore.search import Broken
from raftkv.testing.explore.space import Act, Deed
from raftkv.testing.finding import Finding
from raftkv.testing.invariants import ViolationError
from raftkv.testing.member import Member
from raftkv.testing.options import Options
from raftkv.testing.story import Kind, Story, StoryWriter
from raftkv.testing.trace import describe_message
from raftkv.testing.world import World


class Retold(World):
    """The simulator's world, led along a path."""

    def __init__(self, scope: Scope, story: StoryWriter | None = None) -> None:
        self.scope = scope
        self.deeds = 0
        """How many were done: the time of this world."""
        self.story = story or StoryWriter()
        self.links: dict[tuple[int, int], deque[tuple[Message, int]]] = {}
        self.batches: dict[int, deque[int]] = {}
        """How many writes each one of the exploration's is here: those nobody waits for join."""
        options = Options(voters=scope.voters, settings=scope.settings, payload_bytes=0)
        super().__init__(options)
        for _ in range(scope.joiners):
            self.spawn()
        for member in self.members.values():
            self._relate(member, Kind.START, "starts")

    # --- hooks ------------------------------------------------------------------------------

    def on_message(self, message: Message) -> None:
        """A message leaves its sender."""
        if message.to not in self.members:
            return
        text = describe_message(message)
        state = self.members[message.sender].state
        number = self.story.event(
            self.deeds, f"n{message.sender}", Kind.SEND, text, state, peer=f"n{message.to}"
        )
        self.links.setdefault((message.sender, message.to), deque()).append((message, number))

    def on_write(self, member: Member, write: Write) -> None:
        """A batch was queued: it joins the one before it if nobody waits for it."""
        batches = self.batches.setdefault(member.id, deque())
        if write.entries or write.snapshot or has_answers(write.responses) or _votes(member, write):
            batches.append(1)
            if not self.scope.slow_disks:
                self._finish(member)
        elif batches:
            batches[-1] += 1
        else:
            self.finish_writes(member, 1)

    def on_pages(self, member: Member) -> None:
        """Committed entries are applied at once."""
        self.apply(member, len(member.pages))

    def take_image(self, member: Member) -> None:
        """Somebody must be sent an image: of now."""
        self.feed(member, SnapshotTaken(member.machine.image()))

    # --- what happens -----------------------------------------------------------------------

    def do(self, deed: Deed) -> None:
        """One deed, and everything that follows from it."""
        self.deeds += 1
        member = self.members[deed.node]
        applied = member.state.applied
        match deed.act:
            case Act.DELIVER | Act.DROP | Act.DUPLICATE:
                self._message(member, deed)
            case Act.WRITE:
                self._relate(member, Kind.SYNC, "the oldest write is durable")
                self._finish(member)
            case Act.CRASH:
                self._crash(member, deed.number)
            case Act.IMAGE:
                self._compact(member)
            case _:
                self._input(member, deed)
        self.work(member)
        if member.state.applied > applied:
            self._relate(member, Kind.APPLY, f"applied up to {member.state.applied}")

    def _input(self, member: Member, deed: Deed) -> None:
        match deed.act:
            case Act.TIMEOUT:
                elapsed = member.state.timeout_ticks - 1
                member.state = evolve(member.state, election_elapsed=elapsed)
                self.feed(member, Tick())
                text = "election timeout"
            case Act.BEAT:
                member.state = evolve(member.state, election_elapsed=0)
                self.feed(member, Tick())
                text = "heartbeat timeout"
            case Act.PROPOSE:
                self.propose(member, (b"%d" % deed.number,))
                text = f"proposal {deed.number}"
            case _:
                change = self.scope.changes[-deed.number]
                self.propose_change(member, change, single=False)
                steps = " ".join(f"{one.kind.name}:{one.node}" for one in change.changes)
                text = f"proposal of a change: {steps}"
        self._relate(member, Kind.INPUT, text)

    def _message(self, member: Member, deed: Deed) -> None:
        link = self.links[deed.peer, deed.node]
        message, number = link[0]
        if deed.act is not Act.DUPLICATE:
            link.popleft()
        lost = deed.act is Act.DROP
        if not lost:
            self.deliver(message)
        node, peer = (deed.peer, deed.node) if lost else (deed.node, deed.peer)
        self.story.event(
            self.deeds,
            f"n{node}",
            Kind.LOST if lost else Kind.DELIVER,
            describe_message(message),
            None if lost else member.state,
            peer=f"n{peer}",
            message=number,
        )

    def _finish(self, member: Member) -> None:
        self.finish_writes(member, self.batches[member.id].popleft())

    def _crash(self, member: Member, kept: int) -> None:
        batches = self.batches.setdefault(member.id, deque())
        writes = sum(list(batches)[:kept])
        self.crash(member, writes)
        batches.clear()
        self._relate(member, Kind.CRASH, f"crash: {kept} writes under way were durable")
        self.restart(member)
        self._relate(member, Kind.START, "restart")

    def _compact(self, member: Member) -> None:
        self._relate(member, Kind.INPUT, "an image is taken")
        image = member.machine.image()
        self.feed(member, SnapshotTaken(image))
        self.feed(member, Compact(image.index))
        if member.state.log.base_index == image.index:
            member.disk.image = image
            member.disk.compact(image.index)
            member.last_image = image.index

    def _relate(self, member: Member, kind: Kind, text: str) -> None:
        self.story.event(self.deeds, f"n{member.id}", kind, text, member.state)


def _votes(member: Member, write: Write) -> bool:
    """Whether term or vote are other ones than were asked to be stored before."""
    hard = write.hard_state
    if hard is None:
        return False
    before = [one.hard_state for one in member.disk.queue if one is not write and one.hard_state]
    last = before[-1] if before else member.disk.hard_state
    return (hard.term, hard.vote) != (last.term, last.vote)


@frozen
class Retelling:
    """What the simulator says of a path."""

    story: Story
    finding: Finding | None
    """None: the simulator has nothing against it."""
    world: Retold


def retell(scope: Scope, broken: Broken, *, title: str = "", replay: str = "") -> Retelling:
    """Lead the simulator's world along the path to a violation, until it finds one itself.

    It may not: it asks less of leaders that others have left behind. The story then ends with what
    the exploration found.
    """
    nodes = [f"n{node}" for node in range(1, scope.members + 1)]
    writer = StoryWriter(nodes, unit="deeds", keep=10_000)
    world = Retold(scope, writer)
    finding = None
    for place, deed in enumerate(broken.path, 1):
        try:
            world.do(deed)
        except Exception as error:  # whatever the core raises is a finding
            finding = as_finding(error, place)
            writer.violation(world.deeds, f"n{deed.node}", finding.invariant, finding.broken)
            break
    else:
        node = f"n{broken.path[-1].node}" if broken.path else None
        writer.violation(world.deeds, node, broken.invariant, broken.broken)
    return Retelling(writer.story(title or scope.name, replay=replay), finding, world)


def as_finding(error: Exception, step: int) -> Finding:
    """An error as what it says about the core."""
    if isinstance(error, ViolationError):
        return Finding(error.invariant, error.broken, step)
    return Finding(type(error).__name__, str(error), step)
