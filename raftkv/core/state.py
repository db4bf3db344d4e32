"""State: everything one member knows, as a frozen value; Draft: the same while one step changes it."""

from __future__ import annotations

from attrs import frozen

from raftkv.core.config import Config
from raftkv.core.log import Log
from raftkv.core.messages import Message, PeerMessage
from raftkv.core.progress import Peer, Progress
from raftkv.core.ready import Answer, ChainBroken, ReadState, SoftState
from raftkv.core.types import HardState, Membership, Role, Snapshot


@frozen(slots=True)
class ReadRequest:
    """Somebody's wish to read. ``origin`` 0: this member's own."""

    origin: int
    context: bytes
    lease: bool = False


@frozen(slots=True)
class ReadQueue:
    """Safe reads on their way to a quorum (thesis 6.4).

    ``position`` counts the reads queued since this member became leader; ``queue`` holds
    (position, request, commit index then); ``acks`` the newest position each member confirmed.
    """

    position: int = 0
    queue: tuple[tuple[int, ReadRequest, int], ...] = ()
    acks: tuple[tuple[int, int], ...] = ()


@frozen(slots=True)
class Page:
    """Committed entries handed out together and not yet reported applied."""

    last_index: int
    encoded_bytes: int
    payload_bytes: int


@frozen(slots=True)
class Write:
    """What this member tells itself once the write of a numbered Ready is durable."""

    number: int
    own: tuple[Message, ...]


@frozen(slots=False)
class Outbox:
    """What was queued by steps since the last Ready."""

    messages: tuple[PeerMessage, ...] = ()
    messages_after_append: tuple[PeerMessage, ...] = ()
    reads: tuple[ReadState, ...] = ()
    answers: tuple[Answer, ...] = ()
    dropped_reads: tuple[bytes, ...] = ()
    alarms: tuple[ChainBroken, ...] = ()
    snapshot_wanted: bool = False


EMPTY_OUTBOX = Outbox()
NO_READS = ReadQueue()


# A dict class, not slots: measured on CPython 3.11 with 34 fields, 1.2 against 2.2 us to construct.
@frozen(slots=False)
class State:
    """One member's whole mind, the random generator's state included.

    Comparable and hashable in time independent of the log's length. Old values stay usable for ever.
    """

    config: Config
    # hard state
    term: int
    vote: int
    commit: int
    # soft state
    role: Role
    leader: int
    # the log
    log: Log
    unstable: int
    """First index not known to be durable."""
    handed: int
    """First index not yet handed out for storing."""
    incoming: Snapshot | None
    """A received snapshot that is not yet durable."""
    incoming_handed: bool
    snapshot: Snapshot | None
    """The newest image the embedder can send."""
    # applying
    applied: int
    applying: int
    """Last index handed out for applying."""
    pages: tuple[Page, ...]
    apply_paused: bool
    # who takes part
    membership: Membership
    progress: tuple[Progress, ...]
    votes: tuple[tuple[int, bool], ...]
    # time and chance
    election_elapsed: int
    heartbeat_elapsed: int
    timeout_ticks: int
    rng: int
    # leading
    transferee: int
    pending_change: int
    """Index of the newest membership change this leader knows of; none other until it is applied."""
    uncommitted_bytes: int
    waiting_reads: tuple[ReadRequest, ...]
    """Reads that wait for the first commit of the term."""
    reads: ReadQueue
    lead_ticks: int
    """Ticks since this member became leader."""
    lease_given_up: bool
    hold_ticks: int
    """Ticks after a restart during which no vote is given, lest a lease promised before is broken."""
    # the outside
    outbox: Outbox
    told_soft: SoftState
    told_hard: HardState
    number: int
    writes: tuple[Write, ...]

    @property
    def id(self) -> int:
        """Id of this member."""
        return self.config.id

    @property
    def hard_state(self) -> HardState:
        """What must survive a crash beside the log."""
        return HardState(self.term, self.vote, self.commit)

    @property
    def soft_state(self) -> SoftState:
        """Who leads and what this member is."""
        return SoftState(self.leader, self.role)

    @property
    def is_promotable(self) -> bool:
        """Whether this member may campaign: a voter, and no received snapshot is unstored."""
        return self.incoming is None and self.membership.is_voter(self.config.id)

    @property
    def peers_led(self) -> tuple[Progress, ...]:
        """What is known of everybody, ourselves included, while this member leads; else nothing."""
        return self.progress if self.role is Role.LEADER else ()

    def peer(self, node: int) -> Progress | None:
        """The progress of a member, ourselves included; None if it is not tracked."""
        for progress in self.progress:
            if progress.id == node:
                return progress
        return None


class Draft:
    """State while one step changes it. Unpacked once, frozen once, never leaves the step.

    What a step queues goes into lists of its own and is joined to the old outbox at the end. Peers are
    thawed one by one, on first use.
    """

    __slots__ = (
        "alarms",
        "answers",
        "applied",
        "apply_paused",
        "applying",
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
        "lease_given_up",
        "log",
        "membership",
        "messages",
        "messages_after_append",
        "number",
        "outbox",
        "pages",
        "peers",
        "pending_change",
        "progress",
        "read_states",
        "reads",
        "rng",
        "role",
        "snapshot",
        "snapshot_wanted",
        "term",
        "timeout_ticks",
        "told_hard",
        "told_soft",
        "transferee",
        "uncommitted_bytes",
        "unstable",
        "vote",
        "votes",
        "waiting_reads",
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
        self.applied = state.applied
        self.applying = state.applying
        self.pages = state.pages
        self.apply_paused = state.apply_paused
        self.membership = state.membership
        self.progress = state.progress
        self.votes = state.votes
        self.election_elapsed = state.election_elapsed
        self.heartbeat_elapsed = state.heartbeat_elapsed
        self.timeout_ticks = state.timeout_ticks
        self.rng = state.rng
        self.transferee = state.transferee
        self.pending_change = state.pending_change
        self.uncommitted_bytes = state.uncommitted_bytes
        self.waiting_reads = state.waiting_reads
        self.reads = state.reads
        self.lead_ticks = state.lead_ticks
        self.lease_given_up = state.lease_given_up
        self.hold_ticks = state.hold_ticks
        self.outbox = state.outbox
        self.told_soft = state.told_soft
        self.told_hard = state.told_hard
        self.number = state.number
        self.writes = state.writes
        self.peers: dict[int, Peer] = {}
        self.messages: list[PeerMessage] = []
        self.messages_after_append: list[PeerMessage] = []
        self.read_states: list[ReadState] = []
        self.answers: list[Answer] = []
        self.dropped_reads: list[bytes] = []
        self.alarms: list[ChainBroken] = []
        self.snapshot_wanted = False

    def peer(self, node: int) -> Peer | None:
        """The peer, to be changed; None if it is not tracked."""
        peer = self.peers.get(node)
        if peer is None:
            for progress in self.progress:
                if progress.id == node:
                    peer = self.peers[node] = Peer(progress)
                    break
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
                peers[one.id].freeze() if one.id in peers else one for one in self.progress
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
            self.applied,
            self.applying,
            self.pages,
            self.apply_paused,
            self.membership,
            self.frozen_progress() if self.peers else self.progress,
            self.votes,
            self.election_elapsed,
            self.heartbeat_elapsed,
            self.timeout_ticks,
            self.rng,
            self.transferee,
            self.pending_change,
            self.uncommitted_bytes,
            self.waiting_reads,
            self.reads,
            self.lead_ticks,
            self.lease_given_up,
            self.hold_ticks,
            self._joined_outbox(),
            self.told_soft,
            self.told_hard,
            self.number,
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
