"""The words of the Raft paper as frozen values: ids, terms, entries, memberships, snapshots."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Final, NewType

from attrs import frozen

NodeId = NewType("NodeId", int)
Term = NewType("Term", int)
Index = NewType("Index", int)

NO_NODE: Final = NodeId(0)
# Two ids are reserved for the storage threads of asynchronous writes (RAFT_SEMANTICS section 1).
APPEND_THREAD: Final = NodeId(2**64 - 1)
APPLY_THREAD: Final = NodeId(2**64 - 2)
NO_LIMIT: Final = 2**63 - 1

# What one entry costs beside its payload, on the wire and on disk: term, index, chain (8 bytes
# each), kind (1), length (4), checksum (4). Size limits count it, so that empty entries are not
# free.
ENTRY_OVERHEAD_BYTES: Final = 33


class Role(Enum):
    """What a member is in its current term."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Recovering(Enum):
    """What a member that is not whole lost of its promises (raftkv.core.recovering)."""

    LOG = "log"  # entries that it acknowledged; its term and vote are known
    ALL = "all"  # that, and perhaps terms it was in and votes it gave


@frozen(slots=True)
class Promise:
    """Where a log ended when it was last acknowledged: a log through this point has all of it."""

    index: int
    chain: int


class EntryKind(IntEnum):
    """What an entry's payload means. The numbers are stored and sent: they never change."""

    NORMAL = 0
    CHANGE_SINGLE = 1  # one membership change, never joint (etcd's ConfChange)
    CHANGE = 2  # a list of changes, perhaps through a joint configuration (ConfChangeV2)


@frozen(slots=True)
class Entry:
    """One place in the log; ``chain`` ties it to everything before it (raftkv.core.log)."""

    term: int
    index: int
    kind: EntryKind
    data: bytes
    chain: int

    @property
    def size_bytes(self) -> int:
        """Encoded size: what limits on messages and pages count."""
        return ENTRY_OVERHEAD_BYTES + len(self.data)


@frozen(slots=True)
class Payload:
    """An entry to be: what a proposal carries before the leader gives it a place."""

    kind: EntryKind
    data: bytes


@frozen(slots=True)
class HardState:
    """What must survive a crash beside the log. All zero on a new disk."""

    term: int = 0
    vote: int = 0
    commit: int = 0


@frozen(slots=True)
class Membership:
    """Who counts and who only receives, as stored in snapshots (etcd's ConfState).

    ``outgoing`` is non-empty only while a joint change is under way; then both majorities count.
    ``removed`` holds the ids that were members and never are again; None: nobody remembers, and an
    id may return, as in etcd's traces. A cluster remembers if its first membership says ``()``.
    """

    voters: tuple[int, ...] = ()
    outgoing: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False
    removed: tuple[int, ...] | None = None

    @property
    def is_joint(self) -> bool:
        """Whether two majorities count."""
        return bool(self.outgoing)

    def is_voter(self, node: int) -> bool:
        """Whether ``node`` counts in either majority."""
        return node in self.voters or node in self.outgoing

    def members(self) -> tuple[int, ...]:
        """Everybody who is sent entries, ascending."""
        return tuple(sorted({*self.voters, *self.outgoing, *self.learners, *self.learners_next}))


@frozen(slots=True)
class Snapshot:
    """An image of the machine at a log position; ``data`` is opaque to the core.

    An embedder of the bare core may put the image itself into ``data``; raftkv's node leaves it
    empty and streams the image beside the message. ``chain`` is the chain value of the entry at
    ``index``.
    """

    index: int
    term: int
    chain: int = 0
    membership: Membership = Membership()
    data: bytes = b""


class ChangeKind(IntEnum):
    """One step of a membership change. The numbers are stored and sent: they never change."""

    VOTER = 0
    REMOVE = 1
    UPDATE = 2  # touches nothing in the membership; for the embedder's own records
    LEARNER = 3


class Transition(IntEnum):
    """How a change passes: directly where safe, or through a joint configuration."""

    AUTO = 0  # joint only if more than one change; then left automatically
    IMPLICIT = 1  # joint, left automatically
    EXPLICIT = 2  # joint, left by a proposed empty change


@frozen(slots=True)
class Change:
    """Make ``node`` a voter or learner, remove it, or update its record."""

    kind: ChangeKind
    node: int


@frozen(slots=True)
class MembershipChange:
    """What is proposed: steps, the way through them, ``context`` for the embedder."""

    changes: tuple[Change, ...] = ()
    transition: Transition = Transition.AUTO
    context: bytes = b""
