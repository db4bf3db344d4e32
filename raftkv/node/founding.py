"""What a directory knows of the members, and what the user may say about them.

A new directory of a first member is given the members that ``cluster=`` names, and a beginning of
the log that is the same on all of them (FIRST_INDEX). A new directory of one who joins is given the
members it was told of, and no beginning: it waits for a snapshot. From then on the directory is
right, and what the user says must not contradict it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from raftkv.core import EntryKind, Membership, Snapshot
from raftkv.core.log import chain_of
from raftkv.errors import ConfigError
from raftkv.node.changes import load_roster, removed_error, save_roster, was_removed
from raftkv.node.roster import FIRST_INDEX, Member, Roster, decode_roster, encode_roster
from raftkv.storage.base import Batch, LogStore, Reader, Space

_FOUNDERS_KEY: Final = b"founders"
_FIRST_TERM: Final = 0  # no leader's: a member that has met no term has promised nothing


def found(batch: Batch, log: LogStore, members: tuple[Member, ...]) -> None:
    """Make a new directory that of one of the first members."""
    voters = tuple(sorted(member.id for member in members))
    chain = chain_of(0, _FIRST_TERM, FIRST_INDEX, EntryKind.NORMAL, b"")
    membership = Membership(voters, removed=())
    log.install_snapshot(batch, Snapshot(FIRST_INDEX, _FIRST_TERM, chain, membership))
    know(batch, members, are_founders=True)


def know(batch: Batch, members: tuple[Member, ...], *, are_founders: bool) -> None:
    """Let a directory without members know these, until a snapshot brings those that count."""
    roster = Roster(tuple(sorted(members, key=lambda one: one.id)))
    save_roster(batch, roster)
    if are_founders:
        batch.put(Space.META, _FOUNDERS_KEY, encode_roster(roster))


def check_said(store: Reader, me: Member, said: tuple[Member, ...] | None) -> None:
    """Compare what the user says with what the directory knows; ``said`` None: nothing.

    Raises RemovedError if this member was removed, ConfigError if the user contradicts.
    """
    roster = load_roster(store)
    if was_removed(store):
        raise removed_error(me.name)
    known = None if roster is None else roster.member(me.id)
    if roster is None or known is None:
        return
    if known.name != me.name:
        raise ConfigError(
            f"name={me.name!r}, but the data directory is that of member {known.name!r}: give that"
            " name, or this member a directory of its own"
        )
    if said is None:
        return
    if _where(said) != _where(roster.members) and not are_founders(store, said):
        raise ConfigError(
            f"cluster= contradicts the data directory: {_differences(said, roster.members)}. Give"
            " cluster= as it was when the directory was made, or as the members are now; or join="
            " with addresses of running members, if the directory has missed a change"
        )


def are_founders(store: Reader, members: Iterable[Member]) -> bool:
    """Whether these are the members that the directory began with."""
    record = store.get(Space.META, _FOUNDERS_KEY)
    return record is not None and _where(decode_roster(record).members) == _where(members)


def knows_founders(store: Reader) -> bool:
    """Whether the directory remembers the members that it began with."""
    return store.get(Space.META, _FOUNDERS_KEY) is not None


def _where(members: Iterable[Member]) -> dict[str, str]:
    return {member.name: member.address for member in members}


def _differences(said: Iterable[Member], known: Iterable[Member]) -> str:
    """What differs, as a sentence."""
    ours, theirs = _where(known), _where(said)
    found = [
        f"it knows {name!r} at {ours[name]}, not at {theirs[name]}"
        for name in sorted(ours.keys() & theirs.keys())
        if ours[name] != theirs[name]
    ]
    found += [f"it knows no member {name!r}" for name in sorted(theirs.keys() - ours.keys())]
    found += [f"it knows {name!r} too" for name in sorted(ours.keys() - theirs.keys())]
    return "; ".join(found)
