"""The other members: who they are, where, whether they are connected, and which disk they had."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from struct import Struct
from typing import Final

from attrs import frozen

from raftkv.storage.base import Batch, Space, Store
from raftkv.transport.base import Hello

_log = logging.getLogger("raftkv.node")

# Keys of the log begin with a group id of four zero bytes, the identity's is a word: no collision.
_KEY: Final = b"peer/"
_SEEN: Final = Struct("<BQ16s")  # format, boot, disk uuid
_FORMAT: Final = 1


@frozen(slots=True)
class Member:
    """One member of the cluster."""

    id: int
    name: str
    address: str


class Peers:
    """What this member knows about the others. Loop thread only."""

    def __init__(
        self, me: Member, members: tuple[Member, ...], cluster_id: int, store: Store
    ) -> None:
        self.me = me
        self.cluster_id = cluster_id
        self._members = {member.id: member for member in members}
        self._up: set[int] = set()
        self._seen: dict[int, tuple[int, bytes]] = {}
        self._unsaved: set[int] = set()
        for key, record in store.scan(Space.META, _KEY, _KEY + b"\xff" * 9):
            _, boot, disk_uuid = _SEEN.unpack(record)
            self._seen[int.from_bytes(key[len(_KEY) :], "big")] = (boot, disk_uuid)

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
        seen = (hello.boot, hello.disk_uuid)
        if self._seen.get(member) != seen:
            self._seen[member] = seen
            self._unsaved.add(member)

    def down(self, member: int) -> None:
        """Frames to it are being lost."""
        if member in self._up:
            _log.info("member %s (%d) is not connected any more", self.name_of(member), member)
        self._up.discard(member)

    def refusal(self, hello: Hello) -> str | None:
        """Why the one who says hello may not come in; None if it may.

        A member whose disk is another one, or went back in time, has forgotten what it promised:
        its vote and its acknowledgements would break the cluster.
        """
        if hello.cluster_id != self.cluster_id:
            return f"it belongs to cluster {hello.cluster_id:x}, this is {self.cluster_id:x}"
        if hello.member_id not in self._members or hello.member_id == self.me.id:
            return f"member id {hello.member_id} is not of this cluster"
        seen = self._seen.get(hello.member_id)
        if seen is None:
            return None
        boot, disk_uuid = seen
        if disk_uuid != hello.disk_uuid:
            return "its data directory is not the one it had: remove the member, then add it anew"
        if hello.boot < boot:
            return (
                f"its data directory went back in time (start {hello.boot} after {boot}), as a"
                " restored backup does: remove the member, then add it anew"
            )
        return None

    def save(self, batch: Batch) -> None:
        """Remember the newest hellos in the store."""
        for member in sorted(self._unsaved):
            boot, disk_uuid = self._seen[member]
            batch.put(
                Space.META,
                _KEY + member.to_bytes(8, "big"),
                _SEEN.pack(_FORMAT, boot, disk_uuid),
            )
        self._unsaved.clear()

    @property
    def has_unsaved(self) -> bool:
        """Whether :meth:`save` has anything to do."""
        return bool(self._unsaved)
