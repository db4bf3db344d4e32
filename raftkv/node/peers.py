"""The other members: who they are, where, whether they are connected, and which disk they had.

**A data directory from the past.** A member that comes back with an old copy of its directory has
forgotten votes and entries that others count on, and its own witness went back in time with it. So
the others remember for each member its disk, the count and the random token of its newest boot, and
how far its log is known to have reached. Refused are another disk, a lower boot, an equal boot with
another token (two copies of one directory were opened equally often), and a new boot whose log ends
before an entry that was committed and that this disk acknowledged: such an entry never leaves a log
but by being lost.

What remains: a copy taken while boot k ran, and put back before another boot began, comes up as
boot k+1, just as the original would have. Only the log's end tells the two apart, and only a member
that led, and counted an acknowledgement of boot k, knows how far that log reached. So a copy of a
running directory (a file system snapshot, an image of the whole machine) must never be put back.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from struct import Struct
from typing import Final

from attrs import evolve, frozen

from raftkv.storage.base import Batch, Space, Store
from raftkv.transport.base import Code, Hello, Refusal

_log = logging.getLogger("raftkv.node")

# Keys of the log begin with a group id of four zero bytes, the identity's is a word: no collision.
_KEY: Final = b"peer/"
_SEEN: Final = Struct("<B16sQ16sQ")  # format, disk uuid, boot, boot token, acknowledged index
_FORMAT: Final = 1
_ADD_ANEW: Final = "remove the member, then add it anew with an empty directory"


@frozen(slots=True)
class Member:
    """One member of the cluster."""

    id: int
    name: str
    address: str


@frozen(slots=True)
class _Seen:
    """What a member showed of its disk. ``acknowledged`` is committed and known to be on it."""

    disk_uuid: bytes
    boot: int
    token: bytes
    acknowledged: int = 0


class Peers:
    """What this member knows about the others. Loop thread only."""

    def __init__(
        self, me: Member, members: tuple[Member, ...], cluster_id: int, store: Store
    ) -> None:
        self.me = me
        self.cluster_id = cluster_id
        self._members = {member.id: member for member in members}
        self._up: set[int] = set()
        self._seen: dict[int, _Seen] = {}
        self._unsaved: set[int] = set()
        self._must_sync = False
        for key, record in store.scan(Space.META, _KEY, _KEY + b"\xff" * 9):
            _, *seen = _SEEN.unpack(record)
            self._seen[int.from_bytes(key[len(_KEY) :], "big")] = _Seen(*seen)

    @property
    def addresses(self) -> Mapping[int, str]:
        """Where the others are."""
        return {one.id: one.address for one in self._members.values() if one.id != self.me.id}

    def name_of(self, member: int) -> str:
        """The name of a member; empty for none."""
        known = self._members.get(member)
        return known.name if known is not None else ""

    def member(self, name_or_id: str | int) -> Member | None:
        """The member of that name or id."""
        if isinstance(name_or_id, int):
            return self._members.get(name_or_id)
        return next((one for one in self._members.values() if one.name == name_or_id), None)

    def address_of(self, member: int) -> str:
        """Where a member is; empty if that is not known."""
        known = self._members.get(member)
        return known.address if known is not None else ""

    def is_up(self, member: int) -> bool:
        """Whether it is connected."""
        return member in self._up

    def up(self, member: int, hello: Hello) -> None:
        """It connected, and was accepted."""
        if member not in self._up:
            _log.info("member %s (%d) is connected", self.name_of(member), member)
        self._up.add(member)
        before = self._seen.get(member)
        known = 0 if before is None else before.acknowledged
        seen = _Seen(hello.disk_uuid, hello.boot, hello.boot_token, known)
        if before != seen:
            self._seen[member] = seen
            self._unsaved.add(member)
            self._must_sync = True

    def acknowledged(self, member: int, index: int) -> None:
        """The entry at ``index`` is committed, and the member has said that its disk holds it."""
        seen = self._seen.get(member)
        if seen is not None and index > seen.acknowledged:
            self._seen[member] = evolve(seen, acknowledged=index)
            self._unsaved.add(member)

    def down(self, member: int) -> None:
        """Frames to it are being lost."""
        if member in self._up:
            _log.info("member %s (%d) is not connected any more", self.name_of(member), member)
        self._up.discard(member)

    def refusal(self, hello: Hello) -> Refusal | None:
        """Why the one who says hello may not come in; None if it may.

        A member whose disk is another one, or went back in time, has forgotten what it promised:
        its vote and its acknowledgements would break the cluster.
        """
        if hello.cluster_id != self.cluster_id:
            return Refusal(
                Code.CLUSTER,
                f"it belongs to cluster {hello.cluster_id:x}, this is {self.cluster_id:x}",
            )
        if hello.member_id not in self._members or hello.member_id == self.me.id:
            return Refusal(Code.IDENTITY, f"member id {hello.member_id} is not of this cluster")
        seen = self._seen.get(hello.member_id)
        if seen is None:
            return None
        if seen.disk_uuid != hello.disk_uuid:
            return Refusal(Code.IDENTITY, f"its data directory is not the one it had: {_ADD_ANEW}")
        past = _went_back(seen, hello)
        if past is not None:
            return Refusal(
                Code.REGRESSED,
                f"its data directory went back in time ({past}), as a restored backup does:"
                f" {_ADD_ANEW}",
            )
        return None

    def save(self, batch: Batch) -> None:
        """Remember in the store what has changed."""
        for member in sorted(self._unsaved):
            seen = self._seen[member]
            record = _SEEN.pack(_FORMAT, seen.disk_uuid, seen.boot, seen.token, seen.acknowledged)
            batch.put(Space.META, _KEY + member.to_bytes(8, "big"), record)
        self._unsaved.clear()
        self._must_sync = False

    @property
    def has_unsaved(self) -> bool:
        """Whether :meth:`save` has anything to do."""
        return bool(self._unsaved)

    @property
    def must_sync(self) -> bool:
        """Whether it has to be durable soon: a boot that is forgotten cannot be refused."""
        return self._must_sync


def _went_back(seen: _Seen, hello: Hello) -> str | None:
    """What shows that a disk is an old copy of itself; None if nothing does."""
    if hello.boot < seen.boot:
        return f"start {hello.boot} after {seen.boot}"
    if hello.boot == seen.boot:
        another = hello.boot_token != seen.token
        return f"another start {hello.boot} than the one before" if another else None
    if hello.last_index < seen.acknowledged:
        return (
            f"start {hello.boot} has a log up to entry {hello.last_index}, start {seen.boot}"
            f" acknowledged entry {seen.acknowledged}"
        )
    return None
