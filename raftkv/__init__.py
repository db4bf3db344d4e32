"""raftkv: a replicated, durable, strongly consistent key-value store inside your Python process.

Open a node with :func:`open_node`, or three at once for a first look with :func:`open_cluster`; use
``node.kv``, or give a state machine of your own and use ``node.propose``. From threads, without
await: :mod:`raftkv.blocking`. Conditions and operations of transactions are made by
:mod:`raftkv.when` and :mod:`raftkv.op`.

The house, by room; imports go from the top of this list down, never up::

    errors      every exception, and whether the write may have happened
    core        the consensus as two pure functions; usable alone, its docstring is its manual
    encoding    bytes that disk and wire share
    machine     port: what is replicated
    runtime     port and system: clock, chance, threads
    storage     port, memory and RocksDB: log, hard state, rows, in one batch
    transport   port, memory and TCP: frames between members
    node        the hands: persist, send, apply, reply, in the order the core asks
    kv          an etcd-like database as one machine, and its client
    recipes     locks, elections, queues and the like, on that client's public names alone
    open, cluster, blocking    put the parts together
    testing     a simulator and checkers for you to use; nothing imports it

Types for your annotations, settings and errors are names of this package. Elsewhere stand what the
bare core is made of (:mod:`raftkv.core`), recipes (:mod:`raftkv.recipes`), what threads hold
(:mod:`raftkv.blocking`), the values of the store's own language (:mod:`raftkv.kv`), and the ports
for adapters of your own (:mod:`raftkv.storage`, :mod:`raftkv.transport`, :mod:`raftkv.runtime`).
"""

from __future__ import annotations

from raftkv import blocking, core, recipes
from raftkv.cluster import Cluster, open_cluster
from raftkv.errors import (
    ClosedError,
    CompactedError,
    ConfigError,
    DeadlineError,
    Error,
    ForkedError,
    FutureRevisionError,
    IdentityError,
    InvalidArgumentError,
    InvariantError,
    KeyNotFoundError,
    LeaseExistsError,
    LeaseNotFoundError,
    MachineError,
    MembershipError,
    NodeStoppedError,
    NoLeaderError,
    NoSpaceError,
    NotLeaderError,
    OutcomeUnknownError,
    ProposalDroppedError,
    RemovedError,
    RequestTooLargeError,
    SessionNotFoundError,
    StorageCorruptError,
    StorageError,
    StorageFailedError,
    StorageFormatError,
    StorageFullError,
    StorageLockedError,
    StorageStallError,
    TooManyRequestsError,
    TransportError,
    UnavailableError,
    UsageError,
    WireError,
    WrongThreadError,
)
from raftkv.handle import Node
from raftkv.kv import KvResult
from raftkv.kv.alarms import KvAlarm
from raftkv.kv.client import op, when
from raftkv.kv.client.edge import LeaseHolder
from raftkv.kv.client.leases import Lease, LeaseStatus
from raftkv.kv.client.upkeep import KvStatus
from raftkv.kv.client.watching import Watch
from raftkv.kv.model import (
    Change,
    CompactResult,
    DeleteResult,
    EventKind,
    KeyEvent,
    KeyValue,
    KvHash,
    LeaseResult,
    OperationResult,
    PutResult,
    RangeResult,
    TxnResult,
)
from raftkv.kv.requests import AlarmKind, Compare, Operation, SortOrder, SortTarget
from raftkv.kv.settings import KvSettings
from raftkv.machine import Command, DurableStateMachine, Early, Row, StateMachine
from raftkv.node.members import Members
from raftkv.node.roster import Member
from raftkv.node.settings import Settings
from raftkv.node.status import (
    Alarm,
    DiskStatus,
    Event,
    Events,
    EventsLost,
    LeaderChanged,
    LoopStatus,
    MembershipChanged,
    MemberStatus,
    PeerStatus,
    RecoveryChanged,
    RecoveryStatus,
    RoleChanged,
    Status,
)
from raftkv.open import open_node
from raftkv.recipes import Held, Item, Leadership
from raftkv.recipes.store import Kv
from raftkv.storage.base import Batch, Reader, Space, Store
from raftkv.transport.tcp_tls import Tls

__version__ = "0.1.0"

__all__ = [
    "Alarm",
    "AlarmKind",
    "Batch",
    "Change",
    "ClosedError",
    "Cluster",
    "Command",
    "CompactResult",
    "CompactedError",
    "Compare",
    "ConfigError",
    "DeadlineError",
    "DeleteResult",
    "DiskStatus",
    "DurableStateMachine",
    "Early",
    "Error",
    "Event",
    "EventKind",
    "Events",
    "EventsLost",
    "ForkedError",
    "FutureRevisionError",
    "Held",
    "IdentityError",
    "InvalidArgumentError",
    "InvariantError",
    "Item",
    "KeyEvent",
    "KeyNotFoundError",
    "KeyValue",
    "Kv",
    "KvAlarm",
    "KvHash",
    "KvResult",
    "KvSettings",
    "KvStatus",
    "LeaderChanged",
    "Leadership",
    "Lease",
    "LeaseExistsError",
    "LeaseHolder",
    "LeaseNotFoundError",
    "LeaseResult",
    "LeaseStatus",
    "LoopStatus",
    "MachineError",
    "Member",
    "MemberStatus",
    "Members",
    "MembershipChanged",
    "MembershipError",
    "NoLeaderError",
    "NoSpaceError",
    "Node",
    "NodeStoppedError",
    "NotLeaderError",
    "Operation",
    "OperationResult",
    "OutcomeUnknownError",
    "PeerStatus",
    "ProposalDroppedError",
    "PutResult",
    "RangeResult",
    "Reader",
    "RecoveryChanged",
    "RecoveryStatus",
    "RemovedError",
    "RequestTooLargeError",
    "RoleChanged",
    "Row",
    "SessionNotFoundError",
    "Settings",
    "SortOrder",
    "SortTarget",
    "Space",
    "StateMachine",
    "Status",
    "StorageCorruptError",
    "StorageError",
    "StorageFailedError",
    "StorageFormatError",
    "StorageFullError",
    "StorageLockedError",
    "StorageStallError",
    "Store",
    "Tls",
    "TooManyRequestsError",
    "TransportError",
    "TxnResult",
    "UnavailableError",
    "UsageError",
    "Watch",
    "WireError",
    "WrongThreadError",
    "__version__",
    "blocking",
    "core",
    "op",
    "open_cluster",
    "open_node",
    "recipes",
    "when",
]
