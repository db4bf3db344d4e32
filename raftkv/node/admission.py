"""When a member that was started may take part: vote, acknowledge, campaign.

A disk that went back in time is recognised by those who saw a later boot of it. So a boot takes
part only once enough other voters have it durably in their tables of disks
(:mod:`raftkv.node.disks`), each of which would have refused it if it were an old copy. Until then
the core hears no message of a peer and its time stands still before it would campaign.

*Enough* are more than half of the **other** voters: any two such sets have a member in common, so
whoever let the newest boot take part is asked about an old copy, or one who knows from it. With an
odd number of voters that is one member more than a majority with ourselves. While that one is
missing its absence is waited for during one election timeout, in which a restarted voter gives no
vote anyway; then a majority, ourselves included, is enough: a cluster must get up without the
members that it can do without. What that leaves open takes two faults at once: an old copy is put
back while all who saw the newer boot are away.

The first boot of a directory needs nobody: there is nothing that it could have forgotten.
"""

from __future__ import annotations

from raftkv.core import Membership
from raftkv.storage.base import Identity


class Admission:
    """One boot's way in."""

    def __init__(self, identity: Identity, election_ticks: int) -> None:
        self._me = identity.member_id
        self._seen_by: set[int] = set()
        self._patience_ticks = election_ticks
        # The core may campaign from the election timeout on.
        self._core_ticks = election_ticks - 1
        self.is_open = identity.boot == 1

    def seen_by(self, member: int) -> None:
        """The member has this boot durably in its table."""
        self._seen_by.add(member)

    def pass_time(self, ticks: int, membership: Membership) -> int:
        """So many ticks passed; how many of them the core may hear of."""
        if self.is_open:
            return ticks
        self._patience_ticks -= ticks
        self.look(membership)
        if self.is_open:
            return ticks
        given = min(ticks, self._core_ticks)
        self._core_ticks -= given
        return given

    def look(self, membership: Membership) -> None:
        """Open if enough members have seen this boot."""
        self.is_open = self.is_open or all(
            self._is_enough(voters) for voters in (membership.voters, membership.outgoing) if voters
        )

    def _is_enough(self, voters: tuple[int, ...]) -> bool:
        others = [one for one in voters if one != self._me]
        seen = len(self._seen_by.intersection(others))
        if 2 * seen > len(others) or not others:
            return True
        with_me = seen + len(voters) - len(others)
        return self._patience_ticks <= 0 and 2 * with_me > len(voters)
