"""The bytes of an entry: the commands that one member coalesced, each with its identity.

A command is identified by (origin, boot, sequence): the member that took it from its application,
the count of that member's starts, and a number that grows within one start. Commands of one entry
come from one member and are numbered consecutively, so the identity stands once, in the header::

    format u8 | origin u64 | boot u64 | first sequence u64 | count u32 | count lengths u32 | bytes

An entry without bytes is a new leader's own and carries no command.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct, pack, unpack_from
from struct import error as StructError
from typing import Final

from attrs import frozen

from raftkv.core import EntryKind, ForwardProposal, decode_change
from raftkv.errors import InvariantError, MembershipError, WireError
from raftkv.machine import Command
from raftkv.node.notes import is_note

_FORMAT: Final = 1
_HEADER: Final = Struct("<BQQQI")


@frozen(slots=True)
class Origin:
    """Whose commands an entry carries: ``count`` of them, from sequence ``first`` on."""

    member: int
    boot: int
    first: int
    count: int


NO_ORIGIN: Final = Origin(0, 0, 0, 0)


def encode_commands(member: int, boot: int, first: int, commands: Sequence[bytes]) -> bytes:
    """The payload of an entry with these commands, numbered from ``first``."""
    count = len(commands)
    return b"".join(
        (
            _HEADER.pack(_FORMAT, member, boot, first, count),
            pack(f"<{count}I", *map(len, commands)),
            *commands,
        )
    )


def origin_of(data: bytes) -> Origin:
    """Whose commands the payload carries. Raises InvariantError for bytes of another version."""
    if not data:
        return NO_ORIGIN
    try:
        form, member, boot, first, count = _HEADER.unpack_from(data)
    except StructError as error:
        raise InvariantError(f"an entry of {len(data)} bytes is not ours: {error}") from error
    if form != _FORMAT:
        raise InvariantError(
            f"an entry has command format {form}, this version knows {_FORMAT}:"
            " upgrade raftkv on this member"
        )
    return Origin(member, boot, first, count)


def check_forwarded(message: ForwardProposal) -> None:
    """Raise WireError unless every payload is one that an honest member passes on.

    Once committed, a payload that cannot be read would stop every member at every start: it has to
    be kept out of the log.
    """
    for payload in message.payloads:
        if payload.kind is EntryKind.NORMAL:
            if is_note(payload.data):
                raise WireError(
                    f"a proposal from member {message.sender} is a note, which only leaders write"
                )
            _check_commands(payload.data, message.sender)
            continue
        try:
            decode_change(payload.data)
        except MembershipError as error:
            raise WireError(f"a proposal from member {message.sender}: {error}") from error


def _check_commands(data: bytes, member: int) -> None:
    try:
        origin = origin_of(data)
    except InvariantError as error:
        raise WireError(f"a proposal from member {member}: {error}") from error
    if origin.member != member or not origin.count:
        raise WireError(
            f"a proposal from member {member} has {origin.count} commands of {origin.member}"
        )
    size = _HEADER.size + 4 * origin.count
    if size <= len(data):
        size += sum(unpack_from(f"<{origin.count}I", data, _HEADER.size))
    if size != len(data):
        raise WireError(f"a proposal from member {member} has {len(data)} bytes, not {size}")


def decode_commands(index: int, data: bytes, origin: Origin) -> list[Command]:
    """The commands in the payload of the entry at ``index``. Raises InvariantError if it is cut."""
    count = origin.count
    if not count:
        return []
    start = _HEADER.size + 4 * count
    if len(data) < start:
        raise InvariantError(f"entry {index} announces {count} commands in {len(data)} bytes")
    commands: list[Command] = []
    append = commands.append
    for length in unpack_from(f"<{count}I", data, _HEADER.size):
        stop = start + length
        append(Command(index, data[start:stop]))
        start = stop
    if start != len(data):
        raise InvariantError(f"entry {index} has {len(data)} bytes, its commands {start}")
    return commands
