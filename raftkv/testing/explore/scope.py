"""What is explored: who takes part, and how often each kind of thing may happen."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from attrs import field, frozen

from raftkv.core import Config, EntryKind, Membership, MembershipChange, Snapshot, chain_of
from raftkv.errors import ConfigError
from raftkv.testing.options import Settings

FIRST_TERM: Final = 1
FIRST_INDEX: Final = 1
MEMBERS_MAX: Final = 7
PAPER: Final[Settings] = {
    "election_ticks": 3,
    "campaign_when_stored": True,
    "snapshots_for_members": True,
}
"""Raft as in the paper, with what asynchronous writes and new members need to be safe."""

_NEEDS_TIME: Final = ("check_quorum", "measured_lease", "snapshot_timeout_ticks", "heirs_in_order")


class Budget(IntEnum):
    """Kinds of happenings that a scope allows so many times."""

    ELECTION = 0  # an election timeout, anywhere
    PROPOSAL = 1  # at a leader
    DROP = 2  # the oldest message of a link is lost
    CRASH = 3  # and restart
    DUPLICATE = 4  # the oldest message of a link arrives, and will once more
    BEAT = 5  # a leader sends heartbeats
    IMAGE = 6  # a member takes an image and compacts its log
    CHANGE = 7  # the next membership change is proposed to a leader


@frozen(kw_only=True)
class Scope:
    """A world, and how far it may go. Raises ConfigError for what cannot be explored soundly.

    A member is only made to do something new (time out, propose, beat) while each of its links
    holds less than ``link_max`` messages; answers always fit. Links keep the order of messages.
    """

    name: str
    about: str
    voters: int = 3
    joiners: int = 0
    """Members with empty disks whom nobody knows yet; their ids follow those of the voters."""
    elections: int = 0
    proposals: int = 0
    drops: int = 0
    crashes: int = 0
    duplicates: int = 0
    beats: int = 0
    images: int = 0
    changes: tuple[MembershipChange, ...] = ()
    """Proposed in this order, to whoever leads; each at most once."""
    link_max: int = 1
    slow_disks: bool = True
    """Writes take time, and several may be under way; else each is durable at once."""
    settings: Settings = field(factory=lambda: dict(PAPER))
    alike: tuple[tuple[int, ...], ...] = ((1, 2, 3),)
    """Groups of members that nothing tells apart but their names."""
    depth_max: int | None = None
    """Deeds from where it begins; None: as many as there can be."""

    def __attrs_post_init__(self) -> None:
        """Refuse what the abstraction of time, or symmetry, would falsify."""
        timed = [name for name in _NEEDS_TIME if self.settings.get(name)]
        if timed:
            raise ConfigError(f"{timed} need clocks, and exploration has none: switch them off")
        named = {change.node for one in self.changes for change in one.changes}
        if any(named.intersection(group) for group in self.alike):
            raise ConfigError("a member that a change names is not like the others")
        if not 1 <= self.voters <= self.members <= MEMBERS_MAX:
            raise ConfigError(f"between 1 and {MEMBERS_MAX} members, not {self.members}")

    @property
    def members(self) -> int:
        """How many members there are, joiners included."""
        return self.voters + self.joiners

    @property
    def budgets(self) -> tuple[int, ...]:
        """What may still happen at the beginning, by kind."""
        return (
            self.elections,
            self.proposals,
            self.drops,
            self.crashes,
            self.duplicates,
            self.beats,
            self.images,
            len(self.changes),
        )

    @property
    def first(self) -> Snapshot:
        """The image that the voters start from."""
        chain = chain_of(0, FIRST_TERM, FIRST_INDEX, EntryKind.NORMAL, b"")
        membership = Membership(tuple(range(1, self.voters + 1)))
        return Snapshot(FIRST_INDEX, FIRST_TERM, chain, membership)

    def config(self, node: int) -> Config:
        """The settings of one member."""
        return Config(id=node, **self.settings)  # pyright: ignore[reportArgumentType] - each fits
