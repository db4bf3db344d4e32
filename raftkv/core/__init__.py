"""The consensus core: Raft as two pure functions over frozen values.

    step(state, input) -> State           one input: a tick, a message, a proposal, a finished write
    ready(state)       -> (State, Ready)  everything that now has to be done, as data

State contains everything one member knows, its random generator included. It is hashable,
comparable and never changes: keep old ones, branch them, replay them, put a million of them in a
set. The same state and input give the same result on every machine, for ever. Nothing here reads
a clock, draws chance, touches a disk or socket, or logs: time is the input :class:`Tick`, and
what would be logged is the difference of two States.

**The contract.** Feed every event in the world to ``step`` as one input. Whenever
``has_ready(state)``, take ``ready(state)`` and work it off in the order that :class:`Ready`
describes: send ``messages`` at once; store hard state, snapshot and entries in one atomic batch
and make it durable; then send ``messages_after_persist`` and step ``Persisted(number)``; apply
``committed`` in order and step ``Applied(index)``. Several Readies may be under way at the disk
at once: their writes are numbered, and one ``Persisted`` covers all numbers before it. Nothing
that depends on a write may leave before it. A committed membership change is stepped as
``ApplyChange`` in its place among the applied entries.

``step`` raises :class:`~raftkv.errors.InvariantError` where going on could lose data, and never for
what a peer can send: stop the member then, it is safe as long as it is silent. ``Config`` has the
settings; ``safest(config)`` turns on what an embedder wants beyond the paper.

**Three members by hand.** They start knowing each other; nobody leads.

>>> from raftkv.core import *
>>> members = {n: start(Config(id=n), voters=(1, 2, 3)) for n in (1, 2, 3)}
>>> members[1] = step(members[1], Campaign())

The candidate asks for votes at once, and counts its own only when its new term and vote are stored:

>>> members[1], todo = ready(members[1])
>>> todo.hard_state, todo.must_sync
(HardState(term=1, vote=1, commit=0), True)
>>> [(type(m).__name__, m.to) for m in todo.messages]
[('RequestVote', 2), ('RequestVote', 3)]
>>> members[1].role.value, members[1].votes
('candidate', ())
>>> members[1] = step(members[1], Persisted(todo.number))
>>> members[1].votes
((1, True),)

Member 2 grants its vote, and says so only after storing it. Member 3 stays out of it.

>>> members[2] = step(members[2], Receive(todo.messages[0]))
>>> members[2], todo = ready(members[2])
>>> todo.hard_state, todo.messages
(HardState(term=1, vote=1, commit=0), ())
>>> [(type(m).__name__, m.to, m.rejected) for m in todo.messages_after_persist]
[('VoteResponse', 1, False)]
>>> members[1] = step(members[1], Receive(todo.messages_after_persist[0]))
>>> members[1].role.value, members[1].leader
('leader', 1)

The leader takes a proposal behind the empty entry that opens its term. Both leave for the followers
before they are on its own disk: replication and writing go on in parallel.

>>> payload = Payload(EntryKind.NORMAL, b"colour=green")
>>> members[1] = step(members[1], Propose((payload,), request=7))
>>> members[1], todo = ready(members[1])
>>> todo.answers
(Accepted(request=7, term=1, first=2, last=2),)
>>> [(m.to, [e.data for e in m.entries]) for m in todo.messages]
[(2, [b'']), (3, [b''])]
>>> [e.data for e in todo.entries]
[b'', b'colour=green']

A follower is probed with one append first; its answer opens the stream, which brings the rest.

>>> def answers(member, message):
...     members[member] = step(members[member], Receive(message))
...     members[member], work = ready(members[member])
...     members[member] = step(members[member], Persisted(work.number))
...     return work
>>> reply = answers(2, todo.messages[0]).messages_after_persist[0]
>>> (reply.index, reply.rejected)
(1, False)
>>> more = answers(1, reply)
>>> [[e.data for e in m.entries] for m in more.messages if m.to == 2]
[[b'colour=green']]
>>> reply = answers(2, more.messages[0]).messages_after_persist[0]

The leader's own disk has answered meanwhile (``answers`` reported all writes up to its number),
so two of three have stored it. The leader commits, applies, and tells the others by its next
message:

>>> members[1].commit
1
>>> members[1] = step(members[1], Receive(reply))
>>> members[1].commit
2
>>> members[1], todo = ready(members[1])
>>> [(e.index, e.data) for e in todo.committed]
[(1, b''), (2, b'colour=green')]
>>> members[1] = step(members[1], Applied(2))
>>> members[1].applied, has_ready(members[1])
(2, False)

An old State is as good as new: branch it, and the future is another one.

>>> alone = members[3]
>>> step(alone, Campaign()).term, alone.term
(1, 0)

**Where to find what.** ``types``, ``messages``, ``inputs``, ``ready``, ``config``: the words.
``state`` and ``draft``: the whole, frozen and while a step changes it. ``log``, ``progress``,
``quorum``, ``membership``, ``prng``: parts that stand alone. ``step``: term rules and dispatch,
then ``follower``, ``candidate``, ``leader``, ``proposals``, ``reads``, ``reconfigure``,
``durability``, ``recovering``; ``transitions`` alone changes roles, ``sending`` alone fills the
outbox, ``drain`` empties it.
"""

from __future__ import annotations

from raftkv.core.config import SAFEST, Config, ReadMode, safest
from raftkv.core.digest import digest
from raftkv.core.drain import has_ready, ready, take_answers
from raftkv.core.guard import Guard
from raftkv.core.inputs import (
    Applied,
    ApplyChange,
    Campaign,
    Compact,
    ForgetLeader,
    Input,
    Persisted,
    Propose,
    ProposeChange,
    Read,
    Receive,
    Regressed,
    Repaired,
    SnapshotStatus,
    SnapshotTaken,
    Tick,
    TransferLeader,
    Unreachable,
)
from raftkv.core.log import Log, chain_of
from raftkv.core.membership import decode_change, encode_change
from raftkv.core.messages import (
    AppendEntries,
    AppendResponse,
    AskTerm,
    ForwardProposal,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    LocalMessage,
    Message,
    PeerMessage,
    PreVote,
    PreVoteResponse,
    ProposalRefused,
    ReadIndexRequest,
    ReadIndexResponse,
    RequestVote,
    StorageAppend,
    StorageAppendResponse,
    StorageApply,
    StorageApplyResponse,
    TellTerm,
    TimeoutNow,
    TransferLeadership,
    VoteResponse,
)
from raftkv.core.progress import Progress, ProgressState
from raftkv.core.ready import (
    Accepted,
    Alarm,
    Answer,
    ChainBroken,
    MalformedAppend,
    ReadState,
    Ready,
    RecoveringChanged,
    Refusal,
    Refused,
    SoftState,
)
from raftkv.core.start import start
from raftkv.core.state import Recovery, State
from raftkv.core.step import ReceiveError, refuses, step
from raftkv.core.types import (
    APPEND_THREAD,
    APPLY_THREAD,
    NO_LIMIT,
    Change,
    ChangeKind,
    Entry,
    EntryKind,
    HardState,
    Membership,
    MembershipChange,
    Payload,
    Promise,
    Recovering,
    Role,
    Snapshot,
    Transition,
)

__all__ = [
    "APPEND_THREAD",
    "APPLY_THREAD",
    "NO_LIMIT",
    "SAFEST",
    "Accepted",
    "Alarm",
    "Answer",
    "AppendEntries",
    "AppendResponse",
    "Applied",
    "ApplyChange",
    "AskTerm",
    "Campaign",
    "ChainBroken",
    "Change",
    "ChangeKind",
    "Compact",
    "Config",
    "Entry",
    "EntryKind",
    "ForgetLeader",
    "ForwardProposal",
    "Guard",
    "HardState",
    "Heartbeat",
    "HeartbeatResponse",
    "Input",
    "InstallSnapshot",
    "LocalMessage",
    "Log",
    "MalformedAppend",
    "Membership",
    "MembershipChange",
    "Message",
    "Payload",
    "PeerMessage",
    "Persisted",
    "PreVote",
    "PreVoteResponse",
    "Progress",
    "ProgressState",
    "Promise",
    "ProposalRefused",
    "Propose",
    "ProposeChange",
    "Read",
    "ReadIndexRequest",
    "ReadIndexResponse",
    "ReadMode",
    "ReadState",
    "Ready",
    "Receive",
    "ReceiveError",
    "Recovering",
    "RecoveringChanged",
    "Recovery",
    "Refusal",
    "Refused",
    "Regressed",
    "Repaired",
    "RequestVote",
    "Role",
    "Snapshot",
    "SnapshotStatus",
    "SnapshotTaken",
    "SoftState",
    "State",
    "StorageAppend",
    "StorageAppendResponse",
    "StorageApply",
    "StorageApplyResponse",
    "TellTerm",
    "Tick",
    "TimeoutNow",
    "TransferLeader",
    "TransferLeadership",
    "Transition",
    "Unreachable",
    "VoteResponse",
    "chain_of",
    "decode_change",
    "digest",
    "encode_change",
    "has_ready",
    "ready",
    "refuses",
    "safest",
    "start",
    "step",
    "take_answers",
]
