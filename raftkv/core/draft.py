"""Draft: State while one step changes it."""

from __future__ import annotations

from raftkv.core.messages import PeerMessage
from raftkv.core.progress import Peer, Progress
from raftkv.core.ready import Answer, ChainBroken, ReadState
from raftkv.core.state import EMPTY_OUTBOX, Leading, Outbox, State


class Lead:
    """Leading while it changes. Never leaves the step that thawed it."""

    __slots__ = (
        "lease_given_up",
        "pending_change",
        "reads",
        "transferee",
        "uncommitted_bytes",
        "waiting_reads",
    )

    def __init__(self, leading: Leading) -> None:
        self.transferee = leading.transferee
        self.pending_change = leading.pending_change
        self.uncommitted_bytes = leading.uncommitted_bytes
        self.waiting_reads = leading.waiting_reads
        self.reads = leading.reads
        self.lease_given_up = leading.lease_given_up

    def freeze(self) -> Leading:
        """The value it has become."""
        return Leading(
            self.transferee,
            self.pending_change,
            self.uncommitted_bytes,
            self.waiting_reads,
            self.reads,
            self.lease_given_up,
        )


class Draft:
    """State while one step changes it. Unpacked once, frozen once, never leaves the step.

    What a step queues goes into lists of its own and is joined to the old outbox at the end. Peers
    and the leader's part are thawed on first use.
    """

    __slots__ = (
        "_lead",
        "alarms",
        "answers",
        "apply",
        "commit",
        "config",
        "dropped_reads",
        "election_elapsed",
        "handed",
        "heartbeat_elapsed",
        "hold_ticks",
        "incoming",
        "incoming_handed",
        "lead_ticks",
        "leader",
        "leading",
        "log",
        "membership",
        "messages",
        "messages_after_append",
        "outbox",
        "peers",
        "progress",
        "read_states",
        "rng",
        "role",
        "snapshot",
        "snapshot_wanted",
        "term",
        "timeout_ticks",
        "told",
        "unstable",
        "vote",
        "votes",
        "writes",
    )

    def __init__(self, state: State) -> None:
        self.config = state.config
        self.term = state.term
        self.vote = state.vote
        self.commit = state.commit
        self.role = state.role
        self.leader = state.leader
        self.log = state.log
        self.unstable = state.unstable
        self.handed = state.handed
        self.incoming = state.incoming
        self.incoming_handed = state.incoming_handed
        self.snapshot = state.snapshot
        self.apply = state.apply
        self.membership = state.membership
        self.progress = state.progress
        self.votes = state.votes
        self.election_elapsed = state.election_elapsed
        self.heartbeat_elapsed = state.heartbeat_elapsed
        self.timeout_ticks = state.timeout_ticks
        self.rng = state.rng
        self.lead_ticks = state.lead_ticks
        self.hold_ticks = state.hold_ticks
        self.leading = state.leading
        self.outbox = state.outbox
        self.told = state.told
        self.writes = state.writes
        self._lead: Lead | None = None
        self.peers: dict[int, Peer] = {}
        self.messages: list[PeerMessage] = []
        self.messages_after_append: list[PeerMessage] = []
        self.read_states: list[ReadState] = []
        self.answers: list[Answer] = []
        self.dropped_reads: list[bytes] = []
        self.alarms: list[ChainBroken] = []
        self.snapshot_wanted = False

    @property
    def lead(self) -> Lead:
        """The leader's part, to be changed."""
        if self._lead is None:
            self._lead = Lead(self.leading)
        return self._lead

    @property
    def lead_now(self) -> Lead | Leading:
        """The leader's part, only to be looked at."""
        return self._lead or self.leading

    def stop_leading(self, leading: Leading) -> None:
        """Replace the leader's part as a whole."""
        self._lead = None
        self.leading = leading

    def peer(self, node: int) -> Peer | None:
        """The peer, to be changed; None if it is not tracked."""
        peer = self.peers.get(node)
        if peer is None:
            for progress in self.progress:
                if progress.id == node:
                    peer = self.peers[node] = Peer(progress)
                    break
        return peer

    def thaw(self, progress: Progress) -> Peer:
        """One of the peers in ``progress``, to be changed."""
        peer = self.peers.get(progress.id)
        if peer is None:
            peer = self.peers[progress.id] = Peer(progress)
        return peer

    def tracks(self, node: int) -> bool:
        """Whether there is such a peer."""
        return any(progress.id == node for progress in self.progress)

    def set_progress(self, progress: tuple[Progress, ...]) -> None:
        """Replace all peers."""
        self.progress = progress
        self.peers = {}

    def frozen_progress(self) -> tuple[Progress, ...]:
        """All peers as values, those that changed included."""
        peers = self.peers
        if peers:
            self.progress = tuple(
                [peers[one.id].freeze() if one.id in peers else one for one in self.progress]
            )
            self.peers = {}
        return self.progress

    def freeze(self) -> State:
        """The value the step results in."""
        return State(
            self.config,
            self.term,
            self.vote,
            self.commit,
            self.role,
            self.leader,
            self.log,
            self.unstable,
            self.handed,
            self.incoming,
            self.incoming_handed,
            self.snapshot,
            self.apply,
            self.membership,
            self.frozen_progress() if self.peers else self.progress,
            self.votes,
            self.election_elapsed,
            self.heartbeat_elapsed,
            self.timeout_ticks,
            self.rng,
            self.lead_ticks,
            self.hold_ticks,
            self._lead.freeze() if self._lead else self.leading,
            self._joined_outbox(),
            self.told,
            self.writes,
        )

    def _joined_outbox(self) -> Outbox:
        old = self.outbox
        if not (
            self.messages
            or self.messages_after_append
            or self.read_states
            or self.answers
            or self.dropped_reads
            or self.alarms
            or self.snapshot_wanted
        ):
            return old
        if old is EMPTY_OUTBOX:
            return Outbox(
                tuple(self.messages),
                tuple(self.messages_after_append),
                tuple(self.read_states),
                tuple(self.answers),
                tuple(self.dropped_reads),
                tuple(self.alarms),
                self.snapshot_wanted,
            )
        return Outbox(
            (*old.messages, *self.messages),
            (*old.messages_after_append, *self.messages_after_append),
            (*old.reads, *self.read_states),
            (*old.answers, *self.answers),
            (*old.dropped_reads, *self.dropped_reads),
            (*old.alarms, *self.alarms),
            old.snapshot_wanted or self.snapshot_wanted,
        )
