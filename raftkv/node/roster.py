"""Members by id, with name and address: replicated with each membership change.

The core knows ids alone. The change that adds a member carries its name and address in its context,
and every member that applies the change keeps them in a *roster*: in its store, in the batch of the
change, and in the snapshots that it sends. A roster is of the newest change applied, even where the
machine's image is older and changes are applied again after a restart: those are known already.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

from attrs import frozen

from raftkv.core import Membership, MembershipChange
from raftkv.encoding import Plain, PlainInput, dumps, loads
from raftkv.errors import WireError

FIRST_INDEX: Final = 1
"""Where the log of a new cluster begins to count: the first members start from a snapshot there.

So whoever joins later finds the beginning missing in every log, and is sent a snapshot: entries
alone would not tell it who the first members were."""

MEMBERS_MAX: Final = 64
NAME_CHARACTERS_MAX: Final = 64
ADDRESS_CHARACTERS_MAX: Final = 300


@frozen(slots=True)
class Member:
    """One member of the cluster: its id, for good, its name, and where it is reached.

    ``promotes``: a learner that is to become a voter as soon as it is in sync; the member
    ``replaces`` (0: nobody) leaves in the same step.
    """

    id: int
    name: str
    address: str
    promotes: bool = False
    replaces: int = 0


@frozen(slots=True)
class Roster:
    """The members, ascending by id, as of the change at ``index``."""

    members: tuple[Member, ...] = ()
    index: int = 0

    def member(self, name_or_id: str | int) -> Member | None:
        """The member of that name or id."""
        for one in self.members:
            if name_or_id in (one.id, one.name):
                return one
        return None

    def changed(self, index: int, records: Iterable[Member], after: Membership) -> Roster:
        """The roster once the change at ``index`` made the membership ``after``."""
        if index <= self.index:
            return self
        known = {one.id: one for one in (*self.members, *records)}
        present = [known[node] for node in after.members() if node in known]
        return Roster(tuple(present), index)

    def is_taken(self, records: Iterable[Member]) -> bool:
        """Whether another member than the one recorded has its name or its address."""
        return any(
            one.id != new.id and (one.name == new.name or one.address == new.address)
            for new in records
            for one in self.members
        )


@frozen(slots=True)
class Told:
    """A roster as another member tells it, and who votes in it; nobody where it did not know."""

    roster: Roster = Roster()
    voters: tuple[int, ...] = ()
    outgoing: tuple[int, ...] = ()


@frozen(slots=True)
class ChangeNote:
    """What a change carries beside ids: who waits for it, and the records that it sets.

    ``origin`` is (member, boot, request) of the member that proposed it, or zeros.
    """

    origin: tuple[int, int, int] = (0, 0, 0)
    records: tuple[Member, ...] = ()


def encode_roster(roster: Roster) -> bytes:
    """A roster in CBOR."""
    return dumps(_roster(roster))


def decode_roster(data: bytes) -> Roster:
    """What ``encode_roster`` made. Raises WireError."""
    value = _map(loads(data))
    return Roster(_members(value.get("members")), _number(value.get("index")))


def encode_told(roster: Roster, membership: Membership | None) -> bytes:
    """A roster for others, and who votes in it if that is known; ``decode_roster`` reads it too."""
    if membership is None:
        return encode_roster(roster)
    votes: dict[str, PlainInput] = {"voters": membership.voters, "outgoing": membership.outgoing}
    return dumps({**_roster(roster), **votes})


def decode_told(data: bytes) -> Told:
    """What ``encode_told`` made. Raises WireError."""
    value = _map(loads(data))
    roster = Roster(_members(value.get("members")), _number(value.get("index")))
    return Told(roster, _ids(value.get("voters", [])), _ids(value.get("outgoing", [])))


def encode_change_note(note: ChangeNote) -> bytes:
    """The context of a change."""
    return dumps({"origin": note.origin, "records": [_plain(one) for one in note.records]})


def decode_change_note(context: bytes) -> ChangeNote:
    """What ``encode_change_note`` made; an empty one of no bytes. Raises WireError."""
    if not context:
        return ChangeNote()
    value = _map(loads(context))
    origin = value.get("origin")
    if type(origin) is not list or len(origin) != 3:
        raise WireError("a change without origin")
    member, boot, request = [_number(part) for part in origin]
    return ChangeNote((member, boot, request), _members(value.get("records")))


def records_of(change: MembershipChange) -> ChangeNote:
    """The note of a committed change. What cannot be read sets nothing, on every member alike."""
    try:
        return decode_change_note(change.context)
    except WireError:
        return ChangeNote()


def _roster(roster: Roster) -> dict[str, PlainInput]:
    return {"index": roster.index, "members": [_plain(one) for one in roster.members]}


def _ids(value: Plain) -> tuple[int, ...]:
    if type(value) is not list or len(value) > MEMBERS_MAX:
        raise WireError("voters are a list")
    return tuple(sorted({_number(one) for one in value}))


def _plain(member: Member) -> PlainInput:
    return (member.id, member.name, member.address, member.promotes, member.replaces)


def _members(value: Plain) -> tuple[Member, ...]:
    if type(value) is not list or len(value) > 2 * MEMBERS_MAX:
        raise WireError("members are a list")
    return tuple(sorted((_member(one) for one in value), key=lambda one: one.id))


def _member(value: Plain) -> Member:
    if type(value) is not list or len(value) != 5:
        raise WireError("a member has five parts")
    node, name, address, promotes, replaces = value
    if type(name) is not str or not 0 < len(name) <= NAME_CHARACTERS_MAX or not name.isprintable():
        raise WireError("a member's name is 1 to 64 printable characters")
    if type(address) is not str or not 0 < len(address) <= ADDRESS_CHARACTERS_MAX:
        raise WireError("a member's address is 1 to 300 characters")
    if type(promotes) is not bool or not address.isprintable():
        raise WireError("a member's address is printable, and it is to be promoted or not")
    return Member(_number(node), name, address, promotes, _number(replaces))


def _map(value: Plain) -> dict[str, Plain]:
    if type(value) is not dict:
        raise WireError("a record of members is a map")
    return cast("dict[str, Plain]", value)


def _number(value: Plain) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise WireError("a number of a member is from 0 to 2**63 - 1")
    return value
