"""What the node tells the core: one frozen class per kind of event in the world.

``step(state, input)`` takes exactly one of these. None of them can fail: what the core cannot take
it answers in the next :class:`~raftkv.core.ready.Ready` (``refused``, ``dropped_reads``) or
ignores, as each class says.
"""

from __future__ import annotations

from attrs import frozen

from raftkv.core.messages import Message
from raftkv.core.types import Entry, MembershipChange, Payload, Snapshot


@frozen(slots=True)
class Tick:
    """One step of logical time passed."""


@frozen(slots=True)
class Campaign:
    """Start an election now (a pre-election with ``pre_vote``).

    Ignored by a leader, by who is no voter, and while a membership change is unapplied, a received
    snapshot is unstored or a measured lease that was promised may last.
    """


@frozen(slots=True)
class Propose:
    """Replicate these payloads as consecutive entries; answered under ``request``, unless 0."""

    payloads: tuple[Payload, ...]
    request: int = 0


@frozen(slots=True)
class ProposeChange:
    """Replicate a membership change; ``single`` uses the old one-change form (never joint)."""

    change: MembershipChange
    single: bool = False
    request: int = 0


@frozen(slots=True)
class Read:
    """At which index is a read begun now linearizable? Answered as a ReadState.

    ``context`` names it, and must not begin with ``recovering``. ``lease``: a leader whose lease
    holds may answer without a quorum round (bounded clock drift needed).
    """

    context: bytes
    lease: bool = False


@frozen(slots=True)
class Receive:
    """A message arrived, from a peer or from one of the member's own storage threads."""

    message: Message


@frozen(slots=True)
class Persisted:
    """All writes of the Readies up to and including ``number`` are durable."""

    number: int


@frozen(slots=True)
class Applied:
    """The machine has applied everything up to ``index``."""

    index: int


@frozen(slots=True)
class ApplyChange:
    """A committed membership change takes effect, in its place in the order of applied entries.

    Look at ``state.membership`` afterwards. A change that cannot be applied is an InvariantError.
    """

    change: MembershipChange


@frozen(slots=True)
class SnapshotTaken:
    """The embedder holds an image at this position and can send it; replaces the one known before.

    Ignored if older than the one known.
    """

    snapshot: Snapshot


@frozen(slots=True)
class Compact:
    """Forget entries up to and including ``index``; ignored unless stored and applied."""

    index: int


@frozen(slots=True)
class Unreachable:
    """Messages to ``peer`` are being lost."""

    peer: int


@frozen(slots=True)
class SnapshotStatus:
    """How sending a snapshot to ``peer`` ended; without it the peer stays in snapshot state."""

    peer: int
    delivered: bool


@frozen(slots=True)
class TransferLeader:
    """Hand leadership to ``target``; forwarded to the leader by a follower."""

    target: int


@frozen(slots=True)
class ForgetLeader:
    """A follower stops believing in its leader, and may then grant pre-votes despite its lease.

    A measured lease is not let go; with lease reads of the plain kind this is ignored.
    """


@frozen(slots=True)
class Regressed:
    """The own disk is an older copy of itself, or lost what only others can know of.

    The member recovers as one that lost everything it promised. No change if it does already.
    """


@frozen(slots=True)
class Repaired:
    """Entries of intact copies, to follow this member's log or replace its end.

    Taken only by a member that recovers its log, and only if the chain values show that the log is
    then exactly what it was when it last was acknowledged (``promised`` of ``start``): the member
    is whole at once, and needs nobody to say so. Ignored otherwise.
    """

    entries: tuple[Entry, ...]


Input = (
    Tick
    | Campaign
    | Propose
    | ProposeChange
    | Read
    | Receive
    | Persisted
    | Applied
    | ApplyChange
    | SnapshotTaken
    | Compact
    | Unreachable
    | SnapshotStatus
    | TransferLeader
    | ForgetLeader
    | Regressed
    | Repaired
)
