"""Which disk each member had when it was last seen, and in which boot.

**A data directory from the past.** A member that comes back with an old copy of its directory has
forgotten votes and entries that others count on, and its own witness went back in time with it. So
the others remember for each member its disk, the count and the random token of its newest boot, and
how far its log is known to have reached. A member *regressed* if it comes with a lower boot, an
equal boot with another token (two copies of one directory were opened equally often), or a new boot
whose log ends before an entry that was committed and that this disk acknowledged: such an entry
never leaves a log but by being lost.

Who regressed is told so, says from then on that it is recovering, and is let in like that: its disk
is the one that is known, and what it forgot is never counted on (:mod:`raftkv.node.recovery`).
Another disk is refused altogether: nothing tells what its member promised.

What is known spreads three ways: each member sees the hellos of those that it is connected with;
the leader has every boot written into the log; and members that connect tell each other all they
know. The highest boot ever seen stays known when an older copy was let in to recover, so that a
directory from in between does not pass for its future.

What remains: a copy taken while boot k ran, and put back before another boot began, comes up as
boot k+1, just as the original would have. Only the log's end tells the two apart, and only a member
that led, and counted an acknowledgement of boot k, knows how far that log reached. So a copy of a
running directory (a file system snapshot, an image of the whole machine) must never be put back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from struct import Struct
from struct import error as StructError
from typing import Final

from attrs import evolve, frozen

from raftkv.errors import StorageFormatError, WireError
from raftkv.node.notes import Booted
from raftkv.storage.base import Batch, Identity, Space, Store
from raftkv.transport.base import Code, Hello, Refusal

# Keys of the log begin with a group id of four zero bytes, the identity's is a word: no collision.
_KEY: Final = b"peer/"
# format, disk uuid, boot, boot token, highest boot, acknowledged index, what the log says of it
_ROW: Final = Struct("<B16sQ16sQQB")
_FORMAT: Final = 1
_BOOT_LOGGED: Final = 1  # and so the disk
_DISK_LOGGED: Final = 2  # but an earlier boot of it
_TOLD: Final = Struct("<Q16sQ16sQ")  # member, disk uuid, boot, boot token, highest boot
_HEARSAY_MAX: Final = 4096  # members of whom others may tell: a table must fit into a frame
_ADD_ANEW: Final = "remove the member, then add it anew with an empty directory"


@frozen(slots=True)
class Seen:
    """What a member showed of its disk.

    ``boot`` and ``token`` are those it was last let in with, ``highest`` is the highest boot that
    anybody saw of it. ``acknowledged`` is committed and known to be on it. ``is_logged``: the log
    says it to all; ``is_disk_logged``: it says at least that this is the member's disk.
    """

    disk_uuid: bytes
    boot: int
    token: bytes
    highest: int
    acknowledged: int = 0
    is_logged: bool = False
    is_disk_logged: bool = False


class Disks:
    """The table. Loop thread only."""

    def __init__(self, store: Store, identity: Identity) -> None:
        self._own = identity
        self._seen: dict[int, Seen] = {}
        self._unsaved: set[int] = set()
        self._must_sync = False
        self.is_regressed = False
        """Whether others know of a boot of ours that we do not: our own disk is an old copy."""
        for key, row in store.scan(Space.META, _KEY, _KEY + b"\xff" * 9):
            if row[:1] != bytes((_FORMAT,)) or len(row) != _ROW.size:
                raise StorageFormatError(
                    f"a record of a member's disk is of format {row[:1].hex()}, this version reads"
                    f" {_FORMAT}: upgrade raftkv here"
                )
            _, uuid, boot, token, highest, acknowledged, logged = _ROW.unpack(row)
            self._seen[int.from_bytes(key[len(_KEY) :], "big")] = Seen(
                uuid, boot, token, highest, acknowledged, logged == _BOOT_LOGGED, logged != 0
            )
        self._durable = {one: (its.boot, its.token) for one, its in self._seen.items()}
        self._note(identity.member_id, identity.disk_uuid, identity.boot, identity.boot_token)

    @property
    def count(self) -> int:
        """How many members' disks are known, our own included."""
        return len(self._seen)

    def knows(self, member: int) -> bool:
        """Whether the member was ever seen with a data directory."""
        return member in self._seen

    def is_disk_logged(self, member: int) -> bool:
        """Whether the log says which disk is the member's."""
        seen = self._seen.get(member)
        return seen is not None and seen.is_disk_logged

    # --- who may come in ------------------------------------------------------------------------

    def refusal(self, hello: Hello) -> Refusal | None:
        """Why a member with this disk may not come in; None if it may.

        A member whose disk is another one, or went back in time, has forgotten what it promised:
        its vote and its acknowledgements would break the cluster.
        """
        seen = self._seen.get(hello.member_id)
        if seen is None:
            return None
        if seen.disk_uuid != hello.disk_uuid:
            return Refusal(Code.IDENTITY, f"its data directory is not the one it had: {_ADD_ANEW}")
        past = None if hello.recovering else _went_back(seen, hello)
        if past is None:
            return None
        return Refusal(
            Code.REGRESSED,
            f"its data directory went back in time ({past}), as a restored backup does: it may come"
            " in to recover, without a vote",
        )

    def met(self, hello: Hello) -> None:
        """A member was let in."""
        self._note(hello.member_id, hello.disk_uuid, hello.boot, hello.boot_token)

    def acknowledged(self, member: int, index: int) -> None:
        """The entry at ``index`` is committed, and the member has said that its disk holds it."""
        seen = self._seen.get(member)
        if seen is not None and index > seen.acknowledged:
            self._put(member, evolve(seen, acknowledged=index), must_sync=False)

    # --- what others know -----------------------------------------------------------------------

    def is_outdated(self, hello: Hello) -> bool:
        """Whether a member that was let in with this hello turned out to be an old copy."""
        seen = self._seen.get(hello.member_id)
        return seen is not None and (seen.boot, seen.token) != (hello.boot, hello.boot_token)

    def unlogged(self) -> Iterator[Booted]:
        """Boots that the log does not tell of yet, for the leader to write there.

        Not of old copies that were let in to recover: the highest boot must stay known.
        """
        for member, seen in sorted(self._seen.items()):
            if not seen.is_logged and seen.boot == seen.highest:
                yield Booted(member, seen.disk_uuid, seen.boot, seen.token)

    def logged(self, booted: Booted) -> None:
        """The log tells of a boot; call :meth:`save` with the batch in which that is applied.

        Where two directories were opened for one new member, and some have met the one and some the
        other, the one that the log tells of first is the member's, for all alike.
        """
        member = booted.member
        seen = self._seen.get(member)
        if seen is not None and seen.disk_uuid != booted.disk_uuid:
            if seen.is_disk_logged or member == self._own.member_id:
                return
            seen = None
            del self._seen[member]
        if seen is not None and (seen.boot, seen.token) == (booted.boot, booted.token):
            self._put(member, evolve(seen, is_logged=True), must_sync=False)
        else:
            self._learn(member, booted.disk_uuid, booted.boot, booted.token, booted.boot)
        now = self._seen[member]
        if not now.is_disk_logged:
            self._put(member, evolve(now, is_disk_logged=True), must_sync=False)

    def told(self) -> bytes:
        """All that is known, for another member."""
        return b"".join(
            _TOLD.pack(member, seen.disk_uuid, seen.boot, seen.token, seen.highest)
            for member, seen in sorted(self._seen.items())
        )

    def hear(self, told: bytes) -> None:
        """What another member knows. Raises WireError if it is not that.

        Of strangers only so much: whom we meet, and whom the log tells of, is remembered anyway.
        """
        try:
            rows = list(_TOLD.iter_unpack(told))
        except StructError as error:
            raise WireError(f"a table of disks of {len(told)} bytes") from error
        for row in rows:
            if row[0] in self._seen or len(self._seen) < _HEARSAY_MAX:
                self._learn(*row)

    def _learn(self, member: int, uuid: bytes, boot: int, token: bytes, highest: int) -> None:
        """Only what is newer than all that is known here can be learned from others."""
        seen = self._seen.get(member)
        if seen is not None and seen.disk_uuid != uuid:
            return
        own = self._own
        if member == own.member_id:
            another = boot == own.boot and token != own.boot_token
            self.is_regressed = self.is_regressed or highest > own.boot or another
            return
        if seen is None:
            self._put(member, Seen(uuid, boot, token, highest), must_sync=False)
        elif boot > seen.highest:
            learned = evolve(
                seen, boot=boot, token=token, highest=max(highest, boot), is_logged=False
            )
            self._put(member, learned, must_sync=False)
        elif highest > seen.highest:
            self._put(member, evolve(seen, highest=highest), must_sync=False)

    # --- remembering ----------------------------------------------------------------------------

    def _note(self, member: int, uuid: bytes, boot: int, token: bytes) -> None:
        seen = self._seen.get(member)
        if seen is None:
            self._put(member, Seen(uuid, boot, token, boot), must_sync=True)
        elif (seen.boot, seen.token) != (boot, token):
            highest = max(seen.highest, boot)
            newest = evolve(seen, boot=boot, token=token, highest=highest, is_logged=False)
            self._put(member, newest, must_sync=True)
        elif self._durable.get(member) != (boot, token):
            # It was heard of before it came, and so far nobody waited for that to be durable.
            self._put(member, seen, must_sync=True)

    def _put(self, member: int, seen: Seen, *, must_sync: bool) -> None:
        self._seen[member] = seen
        self._unsaved.add(member)
        self._must_sync = self._must_sync or must_sync

    def save(self, batch: Batch) -> Mapping[int, tuple[int, bytes]]:
        """Remember in the store what has changed.

        Give the result to :meth:`saved` when the batch is durable.
        """
        for member in sorted(self._unsaved):
            seen = self._seen[member]
            row = _ROW.pack(
                _FORMAT,
                seen.disk_uuid,
                seen.boot,
                seen.token,
                seen.highest,
                seen.acknowledged,
                _BOOT_LOGGED if seen.is_logged else _DISK_LOGGED if seen.is_disk_logged else 0,
            )
            batch.put(Space.META, _KEY + member.to_bytes(8, "big"), row)
        self._unsaved.clear()
        self._must_sync = False
        return {member: (seen.boot, seen.token) for member, seen in self._seen.items()}

    def saved(self, what: Mapping[int, tuple[int, bytes]]) -> None:
        """What a call of :meth:`save` answered is durable."""
        self._durable.update(what)

    def is_durable(self, hello: Hello) -> bool:
        """Whether this boot of the member cannot be forgotten here any more."""
        return self._durable.get(hello.member_id) == (hello.boot, hello.boot_token)

    @property
    def has_unsaved(self) -> bool:
        """Whether :meth:`save` has anything to do."""
        return bool(self._unsaved)

    @property
    def must_sync(self) -> bool:
        """Whether it has to be durable soon: a boot that is forgotten cannot be refused."""
        return self._must_sync


def _went_back(seen: Seen, hello: Hello) -> str | None:
    """What shows that a disk is an old copy of itself; None if nothing does."""
    if (hello.boot, hello.boot_token) == (seen.boot, seen.token):
        return None
    if hello.boot < seen.highest:
        return f"start {hello.boot} after {seen.highest}"
    if hello.boot == seen.highest:
        return f"another start {hello.boot} than the one before"
    if hello.last_index < seen.acknowledged:
        return (
            f"start {hello.boot} has a log up to entry {hello.last_index}, start {seen.boot}"
            f" acknowledged entry {seen.acknowledged}"
        )
    return None
