"""What the golden files hold: messages by name, and what was put into each directory.

Numbers are chosen so that every field differs from its neighbours: fields that change places show.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import raftkv
from raftkv.core.membership import encode_change
from raftkv.core.messages import (
    AppendEntries,
    AppendResponse,
    AskTerm,
    ForwardProposal,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    PeerMessage,
    PreVote,
    PreVoteResponse,
    ProposalRefused,
    ReadIndexRequest,
    ReadIndexResponse,
    RequestVote,
    TellTerm,
    TimeoutNow,
    TransferLeadership,
    VoteResponse,
)
from raftkv.core.types import (
    Change,
    ChangeKind,
    Entry,
    EntryKind,
    Membership,
    MembershipChange,
    Payload,
    Snapshot,
    Transition,
)
from raftkv.kv.commands import encode
from raftkv.kv.model import Span
from raftkv.kv.requests import DeleteOne, DeleteSpan, Put
from raftkv.node.commands import encode_commands
from raftkv.node.notes import Booted, HashHere, encode_note
from raftkv.node.settings import Settings
from raftkv.open import plan
from raftkv.runtime.system import system_runtime
from raftkv.storage.base import Recovered
from raftkv.storage.directory import open_rocks
from raftkv.storage.member import MemberStorage
from raftkv.transport.base import Code, Hello, Lane, Refusal
from raftkv.transport.memory import MemoryNetwork
from raftkv.transport.wire import (
    Greeting,
    encode_answer,
    encode_frame,
    encode_greeting,
    encode_question,
    encode_refusal,
    encode_welcome,
)

HERE: Final = Path(__file__).parent
FRAMES: Final = HERE / "frames-1.txt"
STORAGE: Final = HERE / "storage-1"
ADDRESS: Final = "127.0.0.1:7400"
CLUSTER: Final = {"n1": ADDRESS}

_MEMBERSHIP: Final = Membership((1, 2, 3), (1, 2), (4,), (5,), True, (6, 7))
_ENTRIES: Final = (
    Entry(21, 31, EntryKind.NORMAL, b"first", 41),
    Entry(22, 32, EntryKind.NORMAL, b"", 42),
)
MESSAGES: Final[dict[str, PeerMessage]] = {
    "append-entries": AppendEntries(1, 2, 23, 24, 20, 19, _ENTRIES),
    "append-response": AppendResponse(1, 2, 3, 4, True, 5, 2, True),
    "heartbeat": Heartbeat(1, 2, 3, 4, 5, 6),
    "heartbeat-response": HeartbeatResponse(1, 2, 3, 5, 6, True),
    "pre-vote": PreVote(1, 2, 3, 4, 5, True),
    "pre-vote-response": PreVoteResponse(1, 2, 3, True, 4, 5),
    "request-vote": RequestVote(1, 2, 3, 4, 5, True),
    "vote-response": VoteResponse(1, 2, 3, False, 4, 5),
    "install-snapshot": InstallSnapshot(1, 2, 3, Snapshot(4, 5, 6, _MEMBERSHIP, b"data")),
    "timeout-now": TimeoutNow(1, 2, 3),
    "transfer-leadership": TransferLeadership(1, 2, 3, 4),
    "forward-proposal": ForwardProposal(1, 2, (Payload(EntryKind.NORMAL, b"put"),), 3),
    "proposal-refused": ProposalRefused(1, 2, 3, 4),
    "read-index-request": ReadIndexRequest(1, 2, b"context", True, True),
    "read-index-response": ReadIndexResponse(1, 2, 3, 4, b"context"),
    "ask-term": AskTerm(1, 2, b"context"),
    "tell-term": TellTerm(1, 2, 3, b"context"),
}

_HELLO: Final = Hello(
    11,
    12,
    b"0123456789abcdef",
    13,
    address="10.0.0.1:7400",
    boot_token=b"fedcba9876543210",
    last_index=14,
    recovering=True,
)
ENCODED: Final[dict[str, bytes]] = {
    "hello": encode_greeting(Greeting(_HELLO, 15, Lane.BULK)),
    "welcome": encode_welcome(1, _HELLO),
    "refusal": encode_refusal(Refusal(Code.VERSION, "we speak other versions")),
    "question": encode_question(b"who are you?"),
    "answer": encode_answer(1, b"a cluster"),
    "frame": encode_frame(0, b"payload"),
    "entry-of-commands": encode_commands(16, 17, 18, [b"one", b"", b"three"]),
    "note-hash-here": encode_note(HashHere()),
    "note-booted": encode_note(Booted(12, b"0123456789abcdef", 13, b"fedcba9876543210")),
    "change": encode_change(
        MembershipChange(
            (Change(ChangeKind.REMOVE, 19), Change(ChangeKind.LEARNER, 20)),
            Transition.IMPLICIT,
            b"context",
        )
    ),
    "kv-put": encode(Put(b"key", b"value", 21, True)),
    "kv-delete-one": encode(DeleteOne(b"key", True)),
    "kv-delete-span": encode(DeleteSpan(Span(b"from", b"to"))),
    "kv-delete-from": encode(DeleteSpan(Span(b"from", None), True)),
}

KEYS: Final = {
    "short": b"value",
    "long": b"0123456789" * 1000,
    "config/mode": b"dark",
    "config/size": b"7",
}
COMMANDS: Final = (b"+1", b"+20", b"-3")
RESULT: Final = 18


class Counter:
    """An in-memory machine, so that a directory holds its image."""

    def __init__(self) -> None:
        self.value = 0

    def apply(self, commands: Sequence[raftkv.Command]) -> Sequence[int]:
        results: list[int] = []
        for command in commands:
            self.value += int(command.data)
            results.append(self.value)
        return results

    def snapshot(self) -> Iterator[bytes]:
        yield str(self.value).encode()

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.value = int(b"".join(chunks))


# So that two commands make a compacted log, and an image.
SETTINGS: Final = Settings(retention_entries=1, entry_commands_max=1)


def open_storage(directory: Path) -> MemberStorage:
    """The directory of the member that all golden directories are of."""
    chosen = plan("n1", CLUSTER, "raftkv")
    return open_rocks(
        directory,
        cluster_id=chosen.cluster_id,
        member_id=chosen.me.id,
        rng=system_runtime().rng,
        ballast_bytes=0,
    )


@asynccontextmanager
async def kv_node(directory: Path) -> AsyncGenerator[raftkv.Node[raftkv.KvResult]]:
    """The member with the key-value store; nobody else is there."""
    async with raftkv.open_node(
        directory,
        name="n1",
        cluster=CLUSTER,
        storage=open_storage(directory),
        transport=MemoryNetwork(system_runtime()).endpoint(ADDRESS),
    ) as node:
        await node.ready()
        yield node


@asynccontextmanager
async def counter_node(directory: Path, machine: Counter) -> AsyncGenerator[raftkv.Node[int]]:
    """The member with a machine in memory."""
    async with raftkv.open_node(
        directory,
        name="n1",
        cluster=CLUSTER,
        machine=machine,
        settings=SETTINGS,
        storage=open_storage(directory),
        transport=MemoryNetwork(system_runtime()).endpoint(ADDRESS),
    ) as node:
        await node.ready()
        yield node


def described(recovered: Recovered) -> dict[str, object]:
    """What a directory gave back, as JSON has it."""
    snapshot, hard, applied = recovered.snapshot, recovered.hard_state, recovered.applied
    return {
        "hard_state": [hard.term, hard.vote, hard.commit],
        "snapshot": [snapshot.index, snapshot.term, snapshot.chain],
        "entries": [
            [entry.term, entry.index, int(entry.kind), entry.chain, entry.data.hex()]
            for entry in recovered.entries
        ],
        "applied": [applied.index, applied.term, applied.chain],
        "members": list(applied.membership.members()),
        "removed": list(applied.membership.removed or ()),
        "damage": None if recovered.damage is None else recovered.damage.what,
    }
