"""The world of an interaction trace: nodes, messages in flight, and the cycle that drains a node.

It translates and prints. What a node does is decided by the core alone: nothing here looks at a
term, a role or a quorum.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from attrs import evolve

from raftkv.core import (
    APPEND_THREAD,
    APPLY_THREAD,
    Answer,
    Applied,
    ApplyChange,
    Config,
    Entry,
    EntryKind,
    Input,
    InstallSnapshot,
    Message,
    Persisted,
    Ready,
    Receive,
    Refused,
    Snapshot,
    SnapshotTaken,
    StorageAppend,
    StorageApply,
    StorageApplyResponse,
    decode_change,
    has_ready,
    ready,
    refuses,
    start,
    step,
    take_answers,
)
from tests.core import trace_notation as notation
from tests.core.trace_file import TraceFormatError
from tests.core.trace_storage import EMPTY_SNAPSHOT, StableStorage

PROPOSAL_DROPPED = "raft proposal dropped"


class Output:
    """What the current command has printed so far; ``quiet`` swallows it."""

    def __init__(self) -> None:
        self.quiet = False
        self._parts: list[str] = []

    def write(self, text: str) -> None:
        """Print text as it is."""
        if not self.quiet:
            self._parts.append(text)

    def line(self, text: str) -> None:
        """Print text and end the line."""
        self.write(text + "\n")

    def take(self) -> str:
        """Everything printed, which is then forgotten."""
        text = "".join(self._parts)
        self._parts = []
        return text

    @contextmanager
    def indented(self, head: str) -> Generator[None]:
        """Print ``head``, then what the block prints, each line indented by two blanks."""
        self.line(head)
        outer, self._parts = self._parts, []
        try:
            yield
        finally:
            inner = self.take()
            self._parts = outer
            for line in inner.removesuffix("\n").split("\n") if inner else ():
                self.line(f"  {line}")


class Node:
    """One node: its core, its storage, its history of snapshots, and the work of its threads."""

    def __init__(self, config: Config, beginning: Snapshot | None) -> None:
        self.config = config
        self.storage = StableStorage()
        if beginning is not None:
            self.storage.install(beginning)
        self.history = [beginning or EMPTY_SNAPSHOT]
        self.state = start(config, snapshot=beginning)
        self.append_work: list[StorageAppend] = []
        self.apply_work: list[StorageApply] = []

    @property
    def id(self) -> int:
        """Id of the node."""
        return self.config.id

    @property
    def has_ready(self) -> bool:
        """Whether there is anything to drain."""
        return has_ready(self.state)

    def step(self, event: Input) -> tuple[Answer, ...]:
        """Put an input into the core; the answers to proposals it gave at once."""
        self.state, answers = take_answers(step(self.state, event))
        return answers

    def refuses_to(self, event: Input) -> bool:
        """Put an input into the core; whether it refused a proposal."""
        return any(isinstance(answer, Refused) for answer in self.step(event))

    def take_ready(self) -> tuple[Ready, tuple[Message, ...]]:
        """Take a Ready, and every message in it in the order of the notation."""
        self.state, taken = ready(self.state)
        if not self.config.async_storage_writes:
            return taken, (*taken.messages, *taken.messages_after_persist)
        messages: list[Message] = [*taken.messages]
        if taken.hard_state or taken.entries or taken.snapshot or taken.responses:
            messages.append(
                StorageAppend(
                    self.id,
                    APPEND_THREAD,
                    taken.hard_state,
                    taken.entries,
                    taken.snapshot,
                    taken.responses,
                )
            )
        if taken.committed:
            done = StorageApplyResponse(APPLY_THREAD, self.id, taken.committed)
            messages.append(StorageApply(self.id, APPLY_THREAD, taken.committed, (done,)))
        return taken, tuple(messages)

    def apply(self, entries: tuple[Entry, ...]) -> None:
        """Apply committed entries in order; each makes one more snapshot that could be sent."""
        for entry in entries:
            newest = self.history[-1]
            update, membership = entry.data, newest.membership
            if entry.kind is not EntryKind.NORMAL:
                change = decode_change(entry.data)
                self.step(ApplyChange(change))
                update, membership = change.context, self.state.membership
            self.history.append(
                Snapshot(entry.index, entry.term, entry.chain, membership, newest.data + update)
            )
            self.step(SnapshotTaken(self.history[-1]))


class Environment:
    """All nodes of a file, and the messages between them."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.in_flight: list[Message] = []
        self.output = Output()

    def node(self, number: int) -> Node:
        """The node with this id."""
        if not 1 <= number <= len(self.nodes):
            raise TraceFormatError(f"there is no node {number}")
        return self.nodes[number - 1]

    # --- Ready --------------------------------------------------------------------------------

    def handle_ready(self, node: Node) -> None:
        """Drain one Ready: print it, then do what it asks for."""
        taken, messages = node.take_ready()
        shown = notation.ReadyParts(
            taken.must_sync,
            taken.soft_state,
            taken.hard_state,
            taken.reads,
            taken.entries,
            taken.snapshot,
            taken.committed,
            messages,
        )
        self.output.write(notation.ready(shown))
        if node.config.async_storage_writes:
            self._hand_out(node, messages)
            return
        node.storage.store(taken.hard_state, taken.entries, taken.snapshot)
        node.apply(taken.committed)
        self.in_flight += messages
        node.step(Persisted(taken.number))
        if taken.committed:
            node.step(Applied(taken.committed[-1].index))

    def _hand_out(self, node: Node, messages: tuple[Message, ...]) -> None:
        for message in messages:
            match message:
                case StorageAppend():
                    node.append_work.append(message)
                case StorageApply():
                    node.apply_work.append(message)
                case _:
                    self.in_flight.append(message)

    def process_append(self, node: Node) -> None:
        """Do the oldest work of the append thread."""
        if not node.append_work:
            self.output.write("no append work to perform")
            return
        work = node.append_work.pop(0)
        self._show_work(work)
        node.storage.store(work.hard_state, work.entries, work.snapshot)
        self._respond(work.responses)

    def process_apply(self, node: Node) -> None:
        """Do the oldest work of the apply thread."""
        if not node.apply_work:
            self.output.write("no apply work to perform")
            return
        work = node.apply_work.pop(0)
        self._show_work(work)
        node.apply(work.entries)
        self._respond(work.responses)

    def _show_work(self, work: StorageAppend | StorageApply) -> None:
        self.output.line("Processing:")
        self.output.line(notation.message(evolve(work, responses=())))

    def _respond(self, responses: tuple[Message, ...]) -> None:
        self.output.line("Responses:")
        for response in responses:
            self.output.line(notation.message(response))
        self.in_flight += responses

    # --- messages -----------------------------------------------------------------------------

    def has_messages_to(self, node: Node) -> bool:
        """Whether something is in flight to the node."""
        return any(message.to == node.id for message in self.in_flight)

    def deliver(self, recipient: int, kind: str | None = None) -> int:
        """Print and step the messages to the recipient, perhaps of one kind; how many they were."""
        taken = self._take(lambda wire: wire.to == recipient and kind in (None, wire.name))
        for message in taken:
            node = self.node(recipient)
            self.output.line(notation.message(message))
            self._receive(node, message)
        return len(taken)

    def drop(self, recipient: int, kind: str | None = None) -> int:
        """Print and forget messages to the recipient, but never those that stay within a node."""
        taken = self._take(
            lambda wire: (
                wire.to == recipient
                and kind in (None, wire.name)
                and wire.sender not in (recipient, APPEND_THREAD, APPLY_THREAD)
            )
        )
        for message in taken:
            self.output.line(f"dropped: {notation.message(message)}")
        return len(taken)

    def _take(self, chosen: Callable[[notation.Wire], bool]) -> list[Message]:
        taken: list[Message] = []
        kept: list[Message] = []
        for message in self.in_flight:
            (taken if chosen(notation.wire_of(message)) else kept).append(message)
        self.in_flight = kept
        return taken

    def _receive(self, node: Node, message: Message) -> None:
        error = refuses(node.state, message)
        if error is not None:
            self.output.line(error.value)
        elif node.refuses_to(Receive(message)):
            self.output.line(PROPOSAL_DROPPED)

    def send_snapshot(self, node: Node, to: int) -> None:
        """Send the node's newest snapshot without its core knowing."""
        message = InstallSnapshot(node.id, to, node.state.term, node.history[-1])
        self.in_flight.append(message)
        self.output.write(notation.message(message))

    # --- until nothing is left to do ----------------------------------------------------------

    def stabilize(self, nodes: Sequence[Node]) -> None:
        """Rounds of draining, delivering and storage work until a round did nothing."""
        while self._round(nodes):
            pass

    def _round(self, nodes: Sequence[Node]) -> bool:
        worked = False
        for node in nodes:
            if node.has_ready:
                worked = True
                with self.output.indented(f"> {node.id} handling Ready"):
                    self.handle_ready(node)
        for node in nodes:
            if self.has_messages_to(node):
                worked = True
                with self.output.indented(f"> {node.id} receiving messages"):
                    self.deliver(node.id)
        for node in nodes:
            if node.append_work:
                worked = True
                with self.output.indented(f"> {node.id} processing append thread"):
                    while node.append_work:
                        self.process_append(node)
        for node in nodes:
            if node.apply_work:
                worked = True
                with self.output.indented(f"> {node.id} processing apply thread"):
                    while node.apply_work:
                        self.process_apply(node)
        return worked
