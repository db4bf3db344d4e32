"""The settings of the core, validated once."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from attrs import evolve, field, frozen

from raftkv.core.types import APPLY_THREAD, NO_LIMIT
from raftkv.errors import ConfigError


class ReadMode(Enum):
    """How reads are made linearizable."""

    SAFE = "safe"  # a quorum round for each batch of reads (thesis 6.4)
    LEASE = "lease"  # the leader's clock (thesis 6.4.1); needs ``check_quorum``


@frozen(slots=True, kw_only=True)
class Config:
    """Settings of one member's core. Ticks are logical time; sizes are bytes.

    The first group is Raft's and its extensions'; the second, off by default, is where raftkv does
    better than the model it is compared with. ``Config.safest`` turns all of the second group on.
    Raises :class:`~raftkv.errors.ConfigError` for values that make no cluster.
    """

    id: int
    election_ticks: int = 10
    heartbeat_ticks: int = 1
    pre_vote: bool = False
    check_quorum: bool = False
    read_mode: ReadMode = ReadMode.SAFE
    async_storage_writes: bool = True
    append_bytes_max: int = NO_LIMIT
    """Entries of one append message, encoded; at least one entry is sent."""
    apply_bytes_max: int = 0
    """Entries handed out and not yet reported applied; 0: the same as ``append_bytes_max``."""
    uncommitted_bytes_max: int = NO_LIMIT
    """Payload of entries in the leader's log above the applied ones; then proposals are refused."""
    inflight_max: int = 256
    """Appends under way to one peer; then it is paused."""
    inflight_bytes_max: int = 0
    """Payload of appends under way to one peer; 0: no limit."""
    step_down_on_removal: bool = False
    disable_change_validation: bool = False
    disable_forwarding: bool = False
    seed: int = 0
    """Start of the generator of election timeouts; members should differ (0: the id is used)."""

    single_voter_reads_wait: bool = False
    """A single voter, too, answers reads only after a commit in its term, and only it does."""
    refuse_invalid_changes: bool = False
    """An impossible membership change is refused with its reason, not made an empty entry."""
    applied_bounds_commit: bool = False
    """After restart the commit index is at least the applied one."""
    reprobe_lost: bool = False
    """A follower that is shown to lack what it acknowledged recovers; else it stops."""
    hand_over_first: bool = False
    """A leader that leaves the membership goes once a voter has its whole log, and hands over."""
    transfer_ends_lease: bool = False
    """While leadership is handed over, no read is answered by lease."""
    measured_lease: bool = False
    """The lease counts from the sending of heartbeats a quorum answered, not from the last check.

    It then tolerates clock rates that differ by 20 %. Who answers a heartbeat gives no vote for
    ``election_ticks``, come what may; nor does a restarted member, which forgot what it promised.
    """
    snapshot_timeout_ticks: int = 0
    """A peer in snapshot state for longer is probed again; 0: never."""
    promotion_lag_max: int = 0
    """Only changes that are safe with the members as they are now: the strict check.

    A voter is made only of a learner that answers, streams, and lacks at most so many entries; and
    more than half of the voters to come must have answered within an election timeout. Needs
    ``refuse_invalid_changes``. 0: every valid change is taken."""
    snapshots_for_members: bool = False
    """A peer is sent only a snapshot that knows it for a member; else a newer one is wanted.

    A member that was added after the newest snapshot ignores it, and would be sent it for ever."""
    heirs_in_order: bool = False
    """A follower whose connection to the leader broke campaigns when no promise to it can last.

    One tick after the election timeout the first of the other voters, by id, a heartbeat interval
    later the next: soon, and without split votes. Else each waits up to twice the timeout."""
    recheck_campaign: bool = False
    """A won pre-election, too, ends without campaign beside unapplied membership changes."""
    campaign_when_stored: bool = False
    """A candidate asks for votes once term, own vote and log are stored, not at once.

    With asynchronous writes a crash in between would let it campaign again in the same term: for a
    log that lost its end, with votes granted to the longer one, and lead one term twice."""
    refusals_tell_commit: bool = False
    """Who refuses a vote tells what is committed: a membership change perhaps.

    Else two parts of a cluster could need each other for ever: those who know the change to be
    committed have the longer log but are voters no more; the new voters do not know it."""
    report_dropped_reads: bool = False
    """Reads that will never be answered are listed in Ready, those of a step-down included."""
    answer_forwarded: bool = False
    """The leader tells the origin of a forwarded proposal that it refused it."""
    verify_chain: bool = field(default=True)
    """A follower recomputes the chain of entries it takes."""

    def __attrs_post_init__(self) -> None:
        """Refuse what RAFT_SEMANTICS section 12 refuses."""
        if not 0 < self.id < APPLY_THREAD:
            raise ConfigError(f"id must be between 1 and 2**64 - 3, not {self.id}")
        if self.heartbeat_ticks < 1:
            raise ConfigError(f"heartbeat_ticks must be at least 1, not {self.heartbeat_ticks}")
        if self.election_ticks <= self.heartbeat_ticks:
            raise ConfigError(
                f"election_ticks ({self.election_ticks}) must be above"
                f" heartbeat_ticks ({self.heartbeat_ticks})"
            )
        if self.inflight_max < 1:
            raise ConfigError(f"inflight_max must be at least 1, not {self.inflight_max}")
        if self.inflight_bytes_max and self.inflight_bytes_max < self.append_bytes_max:
            raise ConfigError("inflight_bytes_max must not be below append_bytes_max")
        if self.read_mode is ReadMode.LEASE and not self.check_quorum:
            raise ConfigError("lease reads need check_quorum")
        for name in ("append_bytes_max", "apply_bytes_max", "uncommitted_bytes_max"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative")

    @property
    def page_bytes_max(self) -> int:
        """The apply budget in force."""
        # 0 of both means one entry at a time: a budget of one byte, which every entry exceeds.
        return self.apply_bytes_max or self.append_bytes_max or 1


SAFEST: Mapping[str, bool | int] = {
    "pre_vote": True,
    "check_quorum": True,
    "step_down_on_removal": True,
    "single_voter_reads_wait": True,
    "refuse_invalid_changes": True,
    "applied_bounds_commit": True,
    "reprobe_lost": True,
    "hand_over_first": True,
    "transfer_ends_lease": True,
    "measured_lease": True,
    "snapshot_timeout_ticks": 300,
    "snapshots_for_members": True,
    "heirs_in_order": True,
    "recheck_campaign": True,
    "campaign_when_stored": True,
    "refusals_tell_commit": True,
    "report_dropped_reads": True,
    "answer_forwarded": True,
}
"""What ``raftkv.open_node`` switches on."""


def safest(config: Config) -> Config:
    """The same settings with everything in ``SAFEST`` switched on, as ``raftkv.open_node`` does."""
    return evolve(config, **SAFEST)
