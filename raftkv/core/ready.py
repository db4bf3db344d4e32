"""What the core asks for, as data, and the order in which it must be done."""

from __future__ import annotations

from enum import IntEnum

from attrs import frozen

from raftkv.core.messages import Message, PeerMessage
from raftkv.core.types import Entry, HardState, Recovering, Role, Snapshot


class Refusal(IntEnum):
    """Why a proposal was not taken. The numbers travel in ProposalRefused: they never change."""

    NO_LEADER = 1  # nobody to forward to, or an election is under way
    FORWARDING_DISABLED = 2
    NOT_A_MEMBER = 3  # the leader was removed and not yet replaced
    TRANSFERRING = 4  # leadership is being handed over
    TOO_MUCH_UNCOMMITTED = 5  # Config.uncommitted_bytes_max
    CHANGE_PENDING = 6  # an earlier membership change is not applied yet
    CHANGE_WHILE_JOINT = 7  # only leaving is possible now
    NOT_JOINT = 8  # leaving a joint configuration that is not there
    CHANGE_INVALID = 9  # no voter would remain, or two voters would change at once
    REMOVED_FOR_GOOD = 10  # the id was a member before: it never is again
    NOT_A_LEARNER = 11  # only learners become voters (Config.promotion_lag_max)
    LEARNER_BEHIND = 12  # it does not have enough of the log yet, or does not answer
    UNHEALTHY = 13  # too few of the voters to come answer
    RECORD_TAKEN = 14  # the embedder's: its records of members do not allow the change


@frozen(slots=True)
class SoftState:
    """Who leads and what this member is; never stored."""

    leader: int
    role: Role


@frozen(slots=True)
class ReadState:
    """The read ``context`` is linearizable once ``index`` is applied."""

    index: int
    context: bytes


@frozen(slots=True)
class Accepted:
    """A local proposal took the places ``first`` .. ``last`` in the leader's log at ``term``.

    It is not committed yet, and another leader may still overwrite it.
    """

    request: int
    term: int
    first: int
    last: int


@frozen(slots=True)
class Refused:
    """A proposal was not taken and never will be; ``sender`` is who forwarded it, or 0."""

    request: int
    reason: Refusal
    sender: int = 0


Answer = Accepted | Refused


@frozen(slots=True)
class ChainBroken:
    """Entry ``index`` from ``peer`` does not continue our log: damage on either side."""

    peer: int
    index: int

    @property
    def what(self) -> str:
        """One sentence for a human."""
        return (
            f"entry {self.index} from member {self.peer} does not continue our log: memory or disk"
            " damage on either side"
        )


@frozen(slots=True)
class MalformedAppend:
    """An append from ``peer`` whose entries make no log; it was dropped.

    ``index`` is where the first that fits nowhere should be.
    """

    peer: int
    index: int

    @property
    def what(self) -> str:
        """One sentence for a human."""
        return (
            f"member {self.peer} sent entries that make no log from index {self.index} on: dropped;"
            " it runs other software, or its memory is damaged"
        )


Alarm = ChainBroken | MalformedAppend


@frozen(slots=True)
class RecoveringChanged:
    """Store durably that this member recovers from a loss, or (None) is whole again."""

    now: Recovering | None


@frozen(slots=False)
class Ready:
    """Everything that now has to be done; empty or ``None`` means nothing of that kind.

    Order of work:

    1. Send ``messages`` at once; they depend on nothing unstored.
    2. Store ``hard_state``, ``recovering``, ``snapshot`` and ``entries`` in one atomic batch
       (entries replace everything stored from their first index on; a snapshot replaces the whole
       log). If ``must_sync``, or if ``messages_after_persist`` or ``responses`` is not empty, make
       it durable.
    3. Then send ``messages_after_persist`` and step ``Persisted(number)``. Batches are stored in
       the order of their numbers; several may be in flight, and one report covers all before it.
    4. Apply ``committed`` in order, step ``ApplyChange`` in its place for each change among them,
       then step ``Applied``. Never before those of the previous Ready. Independent of 2 and 3.
    5. Answer ``reads`` once their index is applied; tell proposers their ``answers``.

    ``responses`` is every message that waits for this write, own ones included, in order: what a
    storage thread of asynchronous writes delivers one by one instead of ``Persisted``.
    """

    number: int
    soft_state: SoftState | None
    hard_state: HardState | None
    entries: tuple[Entry, ...]
    snapshot: Snapshot | None
    must_sync: bool
    messages: tuple[PeerMessage, ...]
    messages_after_persist: tuple[PeerMessage, ...]
    responses: tuple[Message, ...]
    committed: tuple[Entry, ...]
    reads: tuple[ReadState, ...]
    answers: tuple[Answer, ...]
    dropped_reads: tuple[bytes, ...]
    snapshot_wanted: bool
    alarms: tuple[Alarm, ...]
    recovering: RecoveringChanged | None = None
    """What the next ``start`` is to be given, if that changed."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (
            self.soft_state
            or self.hard_state
            or self.entries
            or self.snapshot
            or self.messages
            or self.responses
            or self.committed
            or self.reads
            or self.answers
            or self.dropped_reads
            or self.snapshot_wanted
            or self.alarms
            or self.recovering
        )
