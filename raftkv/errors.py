"""Every exception a user of raftkv can meet.

All derive from :class:`Error`. The question that matters after a failed write is *may it have
happened?*, and the class answers it in ``may_have_happened``: ``False`` surely not, ``True``
perhaps. Only :class:`OutcomeUnknownError` answers ``True``; everything else was refused before it
could count. No exception of a library underneath (rocksdict, anyio, ssl) escapes: adapters map
them to these.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ClosedError",
    "CompactedError",
    "ConfigError",
    "DeadlineError",
    "Error",
    "ForkedError",
    "FutureRevisionError",
    "IdentityError",
    "InvalidArgumentError",
    "InvariantError",
    "KeyNotFoundError",
    "LeaseExistsError",
    "LeaseNotFoundError",
    "MachineError",
    "MembershipError",
    "NoLeaderError",
    "NoSpaceError",
    "NodeStoppedError",
    "NotLeaderError",
    "OutcomeUnknownError",
    "ProposalDroppedError",
    "RemovedError",
    "RequestTooLargeError",
    "SessionNotFoundError",
    "StorageCorruptError",
    "StorageError",
    "StorageFailedError",
    "StorageFormatError",
    "StorageFullError",
    "StorageLockedError",
    "StorageStallError",
    "TooManyRequestsError",
    "TransportError",
    "UnavailableError",
    "UsageError",
    "WireError",
    "WrongThreadError",
]


class Error(Exception):
    """Base of all raftkv errors; the message says what is wrong and what to do."""

    may_have_happened: ClassVar[bool] = False


# --- the caller's mistake -------------------------------------------------------------------


class ConfigError(Error, ValueError):
    """A setting is wrong or contradicts another; raised before anything is written."""


class InvalidArgumentError(Error, ValueError):
    """A key, value, limit or other argument is not acceptable; nothing was proposed."""


class RequestTooLargeError(InvalidArgumentError):
    """The request, or what it would touch, is beyond a limit (etcd: ``request is too large``)."""


class UsageError(Error, RuntimeError):
    """The object is used in a way it does not support."""


class ClosedError(UsageError):
    """The node, client or store was closed before the call; open a new one."""


class WrongThreadError(UsageError):
    """Called from another thread or event loop than the one that opened it."""


class ForkedError(UsageError):
    """Used in a process forked after opening; open a node of its own there (or spawn)."""


# --- the cluster cannot, now: surely not done -------------------------------------------------


class UnavailableError(Error):
    """The cluster could not take the request; it did not happen, and may be retried."""


class NotLeaderError(UnavailableError):
    """The member asked is not the leader and may not forward; ``leader`` names who is, if known."""

    def __init__(self, message: str, leader: int = 0) -> None:
        super().__init__(message)
        self.leader = leader


class NoLeaderError(UnavailableError):
    """No leader is known: an election is under way or there is no quorum."""


class DeadlineError(UnavailableError, TimeoutError):
    """The deadline passed before the request left this member; nothing happened."""


class ProposalDroppedError(UnavailableError):
    """Raft refused the proposal (a transfer is under way, or the leader left the membership)."""


class TooManyRequestsError(UnavailableError):
    """A queue is at its bound (etcd: ``too many requests``); back off and retry."""


class MembershipError(Error):
    """A membership change, or joining, was refused; nothing happened. ``reason`` says why.

    ``pending``: another change is under way. ``unhealthy``: too few of the voters that would remain
    answer. ``behind``: the learner is not in sync. ``not-a-learner``: only learners become voters.
    ``taken``: another member has the name or address. ``removed``: the id was a member before.
    ``invalid``: no voter would remain, or there is no such member. ``unknown``, ``known``: who
    wants to join was not added, or was seen before with another data directory.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


# --- perhaps done -----------------------------------------------------------------------------


class OutcomeUnknownError(Error):
    """The write was proposed but its outcome was not seen: it may or may not happen.

    ``request`` is (origin member id, boot, sequence) of the command.
    """

    may_have_happened: ClassVar[bool] = True

    def __init__(self, message: str, request: tuple[int, int, int] = (0, 0, 0)) -> None:
        super().__init__(message)
        self.request = request


# --- the data model ---------------------------------------------------------------------------


class CompactedError(Error):
    """The revision asked for was compacted; ``revision`` is the oldest that can be read."""

    def __init__(self, message: str, revision: int = 0) -> None:
        super().__init__(message)
        self.revision = revision


class KeyNotFoundError(InvalidArgumentError):
    """The operation needs a key that does not exist (etcd: ``key not found``)."""


class LeaseNotFoundError(Error):
    """No such lease: never granted, revoked or expired (etcd: ``requested lease not found``)."""


class LeaseExistsError(Error):
    """A lease with this id exists already (etcd: ``lease already exists``)."""


class NoSpaceError(Error):
    """The store is at its quota (etcd: ``mvcc: database space exceeded``); nothing was written.

    Reads, deletes and compaction go on: free space, then disarm the alarm.
    """


class SessionNotFoundError(Error):
    """The client session has ended: what it wrote last is not known to be done, or not."""


class FutureRevisionError(Error):
    """The revision asked for does not exist yet; ``revision`` is the current one."""

    def __init__(self, message: str, revision: int = 0) -> None:
        super().__init__(message)
        self.revision = revision


# --- the node stopped -------------------------------------------------------------------------


class NodeStoppedError(Error):
    """The node stopped for good, ``__cause__`` says why; reopen it once that is repaired."""


class RemovedError(NodeStoppedError):
    """The member was removed from the cluster; its id never returns. Add it anew to have it back.

    Raised out of the context of an open node, and when its directory is opened again.
    """


class InvariantError(Error):
    """A safety rule is broken (a bug, or damaged memory); the node stops before acting on it."""


class MachineError(Error):
    """The state machine raised in ``apply`` or ``restore``; every member stops alike."""


# --- storage ----------------------------------------------------------------------------------


class StorageError(Error):
    """Base of what the disk and the data directory can answer."""


class StorageCorruptError(StorageError):
    """Stored data fails its checks; the message names what, where, and what to do."""


class StorageFailedError(StorageError):
    """A write or sync failed; the store is poisoned, reads included, until reopened."""


class StorageFullError(StorageFailedError):
    """The disk is full; the store is poisoned. Free space, then reopen."""


class StorageStallError(StorageError):
    """RocksDB would stall; nothing was written, the same batch may be tried again."""


class StorageLockedError(StorageError):
    """Another process, or another node of this one, has the data directory open."""


class StorageFormatError(StorageError):
    """The data directory was written in a format this version does not read."""


class IdentityError(StorageError):
    """The data directory belongs to another cluster or member than the one configured."""


# --- transport --------------------------------------------------------------------------------


class TransportError(Error):
    """Listening or connecting failed and retrying will not cure it (port in use, bad TLS)."""


class WireError(TransportError):
    """Bytes from a peer break the protocol; the connection is closed."""
