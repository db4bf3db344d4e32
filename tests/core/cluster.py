"""A few members in memory, moved by hand: what the paper tests share.

:class:`Cluster` does what an embedder does, in the plainest way: it works off every Ready at once,
in order, and keeps messages on a list until a test delivers or drops them. Disks and machines are
instant unless a test makes them slow. Nothing is random; nothing happens that a test did not ask
for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from attrs import evolve, frozen

from raftkv.core import (
    Answer,
    AppendEntries,
    AppendResponse,
    Applied,
    ApplyChange,
    Campaign,
    Change,
    ChangeKind,
    Compact,
    Config,
    Entry,
    EntryKind,
    HardState,
    HeartbeatResponse,
    Input,
    Log,
    Membership,
    MembershipChange,
    Message,
    Payload,
    PeerMessage,
    Persisted,
    PreVoteResponse,
    Propose,
    ProposeChange,
    ReadState,
    Ready,
    Receive,
    Role,
    Snapshot,
    SnapshotTaken,
    State,
    Tick,
    Transition,
    VoteResponse,
    decode_change,
    has_ready,
    ready,
    start,
    step,
)

ONE = Config(id=1)


# --- values -----------------------------------------------------------------------------------


def normal(data: bytes) -> Payload:
    """A command."""
    return Payload(EntryKind.NORMAL, data)


def log_of(*terms: int, after: tuple[int, int, int] = (0, 0, 0)) -> tuple[Entry, ...]:
    """Entries of these terms; same position and term, same command, as Log Matching has it."""
    log = Log.starting_at(*after)
    for term in terms:
        data = b"%d@%d" % (term, log.last_index + 1)
        log, _ = log.propose(term, (normal(data),))
    return tuple(log.entries())


def terms_of(state: State) -> list[int]:
    """The terms of the log's entries, as the figures of the paper show them."""
    return [entry.term for entry in state.log.entries()]


def change(*changes: Change, via: Transition = Transition.AUTO) -> ProposeChange:
    """A proposal of a membership change."""
    return ProposeChange(MembershipChange(changes, via))


def voter(node: int) -> Change:
    """Make ``node`` a voter."""
    return Change(ChangeKind.VOTER, node)


def learner(node: int) -> Change:
    """Make ``node`` a learner."""
    return Change(ChangeKind.LEARNER, node)


def removed(node: int) -> Change:
    """Remove ``node``."""
    return Change(ChangeKind.REMOVE, node)


LEAVE = change()
"""Leave the joint configuration."""


def snapshot_at(
    index: int, term: int, *, voters: tuple[int, ...] = (1, 2, 3), learners: tuple[int, ...] = ()
) -> Snapshot:
    """An image of the machine, of a log as ``log_of`` makes it."""
    chain = log_of(*[term] * index)[-1].chain if index else 0
    return Snapshot(index, term, chain, Membership(voters, (), learners), b"image")


# --- one member -------------------------------------------------------------------------------


def member(
    config: Config = ONE,
    terms: Iterable[int] = (),
    *,
    voters: tuple[int, ...] = (1, 2, 3),
    learners: tuple[int, ...] = (),
    term: int = 0,
    vote: int = 0,
    commit: int = 0,
    applied: int = 0,
) -> State:
    """A follower whose disk gave back a log of these terms and this hard state."""
    entries = log_of(*terms)
    term = max([term, *[entry.term for entry in entries]])
    return start(
        config,
        voters=voters,
        learners=learners,
        hard_state=HardState(term, vote, commit),
        entries=entries,
        applied=applied,
    )


def run(state: State, *inputs: Input | Message) -> State:
    """Step the inputs; a message is received."""
    for one in inputs:
        event = one if isinstance(one, Input) else Receive(one)
        state = step(state, event)
    return state


def ticked(state: State, ticks: int) -> State:
    """Let time pass."""
    return run(state, *[Tick()] * ticks)


def settled(state: State) -> tuple[State, list[PeerMessage]]:
    """Store and apply all there is; also every message that left, in order."""
    sent: list[PeerMessage] = []
    while has_ready(state):
        state, todo = ready(state)
        sent += [*todo.messages, *todo.messages_after_persist]
        state = step(state, Persisted(todo.number))
        for entry in todo.committed:
            state = applied_entry(state, entry)
        if todo.committed:
            state = step(state, Applied(todo.committed[-1].index))
    return state, sent


def applied_entry(state: State, entry: Entry) -> State:
    """Let a membership change take effect; anything else is the machine's."""
    if entry.kind is EntryKind.NORMAL:
        return state
    return step(state, ApplyChange(decode_change(entry.data)))


def sent_by(state: State, *inputs: Input | Message) -> list[PeerMessage]:
    """What leaves the member for these inputs, once all is stored; nothing that waited before."""
    state, _ = settled(state)
    return settled(run(state, *inputs))[1]


def elected(state: State) -> State:
    """The member after it won an election, its empty entry stored, all appends left unanswered."""
    state, _ = settled(step(state, Campaign()))
    others = [one for one in state.membership.members() if one != state.id]
    if state.role is Role.PRE_CANDIDATE:
        state = run(state, *[PreVoteResponse(o, state.id, state.term + 1, False) for o in others])
        state, _ = settled(state)
    if state.role is Role.CANDIDATE:
        state = run(state, *[VoteResponse(o, state.id, state.term, False) for o in others])
    assert state.role is Role.LEADER
    return settled(state)[0]


def acked(state: State, peer: int, index: int | None = None) -> AppendResponse:
    """``peer`` accepts up to ``index``: all of the leader's log unless told otherwise."""
    last = state.log.last_index if index is None else index
    return AppendResponse(peer, state.id, state.term, last)


def followed(state: State, *peers: int) -> State:
    """The leader after these peers acknowledged all of its log."""
    return settled(run(state, *[acked(state, peer) for peer in peers]))[0]


def append(
    state: State, leader: int, entries: tuple[Entry, ...], *, term: int = 0, commit: int = 0
) -> AppendEntries:
    """What ``leader`` sends to ``state`` to bring these entries."""
    prev = entries[0].index - 1
    prev_term = state.log.term_at(prev) if state.log.has_term(prev) else 0
    at = term or max(state.term, entries[-1].term)
    return AppendEntries(leader, state.id, at, prev, prev_term, commit, entries)


def beat(state: State, peer: int, position: int = 0, sent_tick: int = 0) -> HeartbeatResponse:
    """``peer`` answers a heartbeat of ``state``."""
    return HeartbeatResponse(peer, state.id, state.term, position, sent_tick)


# --- several ----------------------------------------------------------------------------------


@frozen
class Disk:
    """What survives a crash."""

    hard_state: HardState
    entries: tuple[Entry, ...] = ()
    snapshot: Snapshot | None = None

    def after(self, todo: Ready) -> Disk:
        """The disk with the write of a Ready on it."""
        entries, snapshot = self.entries, self.snapshot
        if todo.snapshot is not None:
            entries, snapshot = (), todo.snapshot
        if todo.entries:
            first = todo.entries[0].index
            entries = (*[one for one in entries if one.index < first], *todo.entries)
        return Disk(todo.hard_state or self.hard_state, entries, snapshot)


class Cluster:
    """Members 1 .. n of one cluster, and more that were started to join it."""

    def __init__(
        self,
        voters: int = 3,
        *,
        learners: tuple[int, ...] = (),
        config: Config = ONE,
        logs: dict[int, tuple[int, ...]] | None = None,
        term: int = 0,
    ) -> None:
        self.config = config
        self.voters = tuple(range(1, voters + 1))
        self.learners = learners
        self.states: dict[int, State] = {}
        self.disks: dict[int, Disk] = {}
        self.network: list[PeerMessage] = []
        self.slow_disks: set[int] = set()
        self.slow_machines: set[int] = set()
        self.writes: dict[int, list[Ready]] = {}
        self.unapplied: dict[int, list[Entry]] = {}
        self.applied: dict[int, list[Entry]] = {}
        self.reads: dict[int, list[ReadState]] = {}
        self.answers: dict[int, list[Answer]] = {}
        self.lost: Callable[[PeerMessage], bool] = lambda _: False
        for node in (*self.voters, *learners):
            terms = (logs or {}).get(node, ())
            self.disks[node] = Disk(HardState(max(term, *terms, 0)), log_of(*terms))
            self.restart(node)

    # - moving -

    def step(self, node: int, *inputs: Input | Message) -> None:
        """Step the inputs at one member and work off what they ask for."""
        self.states[node] = run(self.states[node], *inputs)
        self.work(node)

    def work(self, node: int) -> None:
        """Work off every Ready; slow parts are noted for later."""
        while has_ready(self.states[node]):
            self.states[node], todo = ready(self.states[node])
            self.network += todo.messages
            self.reads[node] += todo.reads
            self.answers[node] += todo.answers
            if todo.snapshot_wanted:
                self.states[node] = step(self.states[node], SnapshotTaken(self._image(node)))
            self.writes[node].append(todo)
            if node not in self.slow_disks:
                self._persist(node)
            self.unapplied[node] += todo.committed
            if node not in self.slow_machines:
                self._apply(node)

    def persist(self, node: int) -> None:
        """A slow disk finishes everything that waits for it."""
        self._persist(node)
        self.work(node)

    def apply(self, node: int) -> None:
        """A slow machine applies everything that waits for it."""
        self._apply(node)
        self.work(node)

    def _persist(self, node: int) -> None:
        writes, self.writes[node] = self.writes[node], []
        for todo in writes:
            self.disks[node] = self.disks[node].after(todo)
            self.network += todo.messages_after_persist
        if writes:
            self.states[node] = step(self.states[node], Persisted(writes[-1].number))

    def _apply(self, node: int) -> None:
        entries, self.unapplied[node] = self.unapplied[node], []
        for entry in entries:
            self.states[node] = applied_entry(self.states[node], entry)
            self.applied[node].append(entry)
        if entries:
            self.states[node] = step(self.states[node], Applied(entries[-1].index))

    def deliver(self) -> None:
        """Deliver messages, and those that they cause, until none is under way."""
        while self.network:
            message = self.network.pop(0)
            if message.to in self.states and not self.lost(message):
                self.step(message.to, message)

    def hold(self) -> list[PeerMessage]:
        """Take everything under way off the network, to drop it or to ``put`` it back."""
        held, self.network = self.network, []
        return held

    def put(self, *messages: PeerMessage) -> None:
        """Put messages on the network, again or for the first time."""
        self.network += messages

    def tick(self, ticks: int = 1, *nodes: int) -> None:
        """Let time pass at these members, or at all, delivering after each tick."""
        for _ in range(ticks):
            for node in nodes or tuple(self.states):
                self.step(node, Tick())
            self.deliver()

    def cut(self, *nodes: int) -> None:
        """Lose everything between these members and the others, until ``heal``."""
        self.lost = lambda message: (message.sender in nodes) != (message.to in nodes)

    def heal(self) -> None:
        """Lose nothing any more."""
        self.lost = lambda _: False

    def crash(self, node: int) -> None:
        """The member loses what is not on its disk, and is gone."""
        del self.states[node]

    def restart(self, node: int) -> None:
        """The member comes back with its disk and an empty machine."""
        disk = self.disks[node]
        self.states[node] = start(
            evolve(self.config, id=node),
            voters=self.voters,
            learners=self.learners,
            hard_state=disk.hard_state,
            snapshot=disk.snapshot,
            entries=disk.entries,
        )
        self.writes[node], self.unapplied[node], self.applied[node] = [], [], []
        self.reads[node], self.answers[node] = [], []
        self.work(node)

    def join(self, node: int) -> None:
        """Start an empty member that waits to be added.

        It must be sent a snapshot, since the log alone does not tell it the first members.
        """
        self.disks[node] = Disk(HardState())
        self.voters, old = (), self.voters
        learners, self.learners = self.learners, ()
        self.restart(node)
        self.voters, self.learners = old, learners

    # - short for what tests do all the time -

    def elect(self, node: int) -> None:
        """Make ``node`` leader and let it settle."""
        self.step(node, Campaign())
        self.deliver()
        assert self.states[node].role is Role.LEADER

    def propose(self, node: int, *commands: bytes) -> None:
        """Propose commands as one batch and let it settle."""
        self.step(node, Propose(tuple(normal(one) for one in commands)))
        self.deliver()

    def image(self, node: int) -> Snapshot:
        """The member takes an image of its machine and forgets the log below it."""
        snapshot = self._image(node)
        self.step(node, SnapshotTaken(snapshot), Compact(snapshot.index))
        return snapshot

    def _image(self, node: int) -> Snapshot:
        state = self.states[node]
        at = state.applied
        chain = state.log.chain_at(at)
        return Snapshot(at, state.log.term_at(at), chain, state.membership, b"image")

    def leaders(self) -> list[int]:
        """Who believes to lead."""
        return [node for node, state in self.states.items() if state.role is Role.LEADER]

    def logs(self) -> dict[int, list[int]]:
        """The terms of everybody's log."""
        return {node: terms_of(state) for node, state in self.states.items()}

    def commands(self, node: int) -> list[bytes]:
        """The commands that a member's machine has applied."""
        return [one.data for one in self.applied[node] if one.data and not one.kind]
