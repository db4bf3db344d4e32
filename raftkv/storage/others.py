"""Whether anybody can give back what a member lost: its store knows better than who opens it.

``cluster=`` stays as it was on the first day: a cluster that began with one member may have three
by now, and one that began with three may have one. So a damaged store is asked for its newest
committed membership, as far as it can be read.

- Another voter is in it: there is somebody. A learner alone will not do, it cannot lead.
- There were others, and all were removed: there is nobody, whatever the user says. To recover from
  nobody would never end.
- There never were others: what would tell of them may be just what is lost, so the user is
  believed; as where the store tells nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from raftkv.core.membership import apply_change, decode_change, normalised
from raftkv.core.progress import new_progress
from raftkv.core.types import Entry, EntryKind, Membership
from raftkv.errors import MembershipError, StorageCorruptError
from raftkv.storage.base import AppliedMark, Reader
from raftkv.storage.reading import LogReader


def has_others(me: int, known: Membership, *, said: bool) -> bool:
    """Whether there are voters beside ``me``; ``said``: what the user says of that."""
    voters = {*known.voters, *known.outgoing}
    if voters - {me}:
        return True
    return said and not (voters and known.removed)


def newest_membership(applied: AppliedMark, entries: Iterable[Entry], commit: int) -> Membership:
    """The membership after the committed entries, which may be far ahead of a machine's image."""
    membership = normalised(applied.membership)
    for entry in entries:
        if entry.kind is EntryKind.NORMAL or not applied.index < entry.index <= commit:
            continue
        progress = tuple(
            new_progress(node, match=0, next_index=1, active=False) for node in membership.members()
        )
        try:
            change = decode_change(entry.data)
            membership, _ = apply_change(membership, progress, change, entry.index)
        except MembershipError:
            break  # what follows belongs to members that are not known here
    return membership


def readable_membership(store: Reader | None) -> Membership:
    """The newest membership that a damaged store still tells; an empty one if it does not."""
    if store is None:
        return Membership()
    read = LogReader(store)
    try:
        applied, commit = read.applied(), read.hard_state().commit
        entries, _ = read.intact_entries(read.snapshot())
    except StorageCorruptError:
        return Membership()
    return newest_membership(applied, entries, commit)
