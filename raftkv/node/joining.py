"""How somebody who was added learns who it is: it asks members, before it writes anything.

The question names the asker, the answer tells the cluster's id, the asker's id and all members, or
why it may not join. Both are small CBOR maps, carried by the transport's question and answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from attrs import frozen

from raftkv.encoding import dumps, loads
from raftkv.errors import (
    ConfigError,
    MembershipError,
    TransportError,
    UnavailableError,
    WireError,
)
from raftkv.node.roster import (
    NAME_CHARACTERS_MAX,
    Member,
    Roster,
    decode_roster,
    encode_roster,
)
from raftkv.runtime.base import Clock

_PATIENCE_NS: Final = 1_000_000_000
_PAUSE_NS: Final = 50_000_000
_REASONS: Final = {
    "unknown": (
        "has no member named {name!r}: add it first, on a running member, with node.members.add()"
    ),
    "known": (
        "knows {name!r} with a data directory that it had before: an empty one cannot take its"
        " place, so remove that member and add it anew"
    ),
}


@frozen(slots=True)
class Invitation:
    """Who we are, and in which cluster."""

    cluster_id: int
    me: Member
    roster: Roster


def encode_question(name: str, *, is_new: bool) -> bytes:
    """What somebody asks whose directory does not tell; ``is_new``: it is empty."""
    return dumps({"join": name, "new": is_new})


def answer_question(
    question: bytes, cluster_id: int, roster: Roster, has_disk: Callable[[int], bool]
) -> bytes:
    """What a member answers. ``has_disk`` tells whether a member was ever seen with a directory."""
    try:
        value = loads(question)
        asked = value if type(value) is dict else {}
    except WireError:
        asked = {}
    name, is_new = asked.get("join"), asked.get("new") is not False
    member = roster.member(name) if type(name) is str else None
    refused = "" if member is not None else "unknown"
    if member is not None and is_new and has_disk(member.id):
        refused = "known"
    return dumps(
        {
            "cluster": cluster_id,
            "member": 0 if member is None else member.id,
            "refused": refused,
            "roster": b"" if refused else encode_roster(roster),
        }
    )


async def ask_to_join(
    ask: Callable[[str, bytes], Awaitable[bytes]],
    addresses: Sequence[str],
    name: str,
    clock: Clock,
    *,
    is_new: bool,
) -> Invitation:
    """Ask one member after the other until one knows us.

    A member may have missed that we were added, so we ask again for a second. Raises
    MembershipError if those who answer do not let us join, UnavailableError if nobody answers,
    ConfigError for a name that no member has.
    """
    if not name.isprintable() or len(name) > NAME_CHARACTERS_MAX:
        raise ConfigError(f"name={name!r}: 1 to {NAME_CHARACTERS_MAX} printable characters, please")
    question = encode_question(name, is_new=is_new)
    give_up_ns = clock.monotonic_ns() + _PATIENCE_NS
    refusal: MembershipError | None = None
    silent: dict[str, str] = {}
    while True:
        refusal = None
        for address in addresses:
            try:
                found = read_answer(await ask(address, question), name, address)
            except TransportError as error:
                silent[address] = str(error)
                continue
            if isinstance(found, Invitation):
                return found
            refusal = found
            if found.reason == "known":
                raise found
        # By the clock: who does not answer takes seconds each time.
        if refusal is None or clock.monotonic_ns() >= give_up_ns:
            break
        await clock.sleep_until(clock.monotonic_ns() + _PAUSE_NS)
    if refusal is not None:
        raise refusal
    raise UnavailableError(
        "none of the addresses that were given answers, so nothing was written: "
        + "; ".join(silent.values())
    )


def read_answer(answer: bytes, name: str, address: str) -> Invitation | MembershipError:
    """What the member at ``address`` answers us. Raises WireError."""
    value = loads(answer)
    if type(value) is not dict:
        raise WireError(f"{address} gives an answer that is none")
    cluster, member, refused = value.get("cluster"), value.get("member"), value.get("refused")
    if type(refused) is str and refused:
        sentence = _REASONS.get(refused, "does not let {name!r} join").format(name=name)
        return MembershipError(f"the member at {address} {sentence}", refused)
    roster = value.get("roster")
    if type(cluster) is not int or type(member) is not int or type(roster) is not bytes:
        raise WireError(f"{address} gives an answer that is none")
    if not 0 <= cluster < 2**64:
        raise WireError(f"{address} answers for cluster {cluster}, which cannot be")
    found = decode_roster(roster)
    me = found.member(member)
    if me is None or me.name != name:
        raise WireError(f"{address} gives an answer without ourselves")
    return Invitation(cluster, me, found)
