"""Membership arithmetic: what a change makes of a configuration, and the bytes of a change.

Changes act when applied (RAFT_SEMANTICS section 9). A simple change alters at most one voter,
which keeps majorities overlapping (thesis 4.1); anything more passes through a joint
configuration, in which both majorities count (§6).
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import Final

from raftkv.core.progress import Progress, new_progress
from raftkv.core.types import (
    Change,
    ChangeKind,
    Membership,
    MembershipChange,
    Transition,
)
from raftkv.errors import MembershipError

_HEAD: Final = Struct("<BBI")  # format, transition, number of changes
_CHANGE: Final = Struct("<BQ")
_FORMAT: Final = 1


def encode_change(change: MembershipChange) -> bytes:
    """The payload of a change entry. Leaving a joint configuration with no context is empty."""
    if change == MembershipChange():
        return b""
    parts = [_HEAD.pack(_FORMAT, change.transition, len(change.changes))]
    parts += [_CHANGE.pack(one.kind, one.node) for one in change.changes]
    return b"".join((*parts, change.context))


def decode_change(data: bytes) -> MembershipChange:
    """The change in a payload. Raises MembershipError if the bytes are none."""
    if not data:
        return MembershipChange()
    try:
        form, transition, count = _HEAD.unpack_from(data)
        if form != _FORMAT or count * _CHANGE.size > len(data) - _HEAD.size:
            raise ValueError(f"format {form}, {count} changes in {len(data)} bytes")
        stop = _HEAD.size + count * _CHANGE.size
        changes = tuple(
            Change(ChangeKind(kind), node)
            for kind, node in _CHANGE.iter_unpack(data[_HEAD.size : stop])
        )
        return MembershipChange(changes, Transition(transition), data[stop:])
    except (ValueError, StructError) as error:
        raise MembershipError(f"not a membership change: {error}", "malformed") from error


def enters_joint(change: MembershipChange) -> bool:
    """Whether the change passes through a joint configuration."""
    return change.transition is not Transition.AUTO or len(change.changes) > 1


def leaves_joint(change: MembershipChange) -> bool:
    """Whether the change asks to leave the joint configuration."""
    return not change.changes and change.transition is Transition.AUTO


def normalised(membership: Membership) -> Membership:
    """The same configuration with every list ascending and free of repetition."""
    return Membership(
        tuple(sorted({*membership.voters})),
        tuple(sorted({*membership.outgoing})),
        tuple(sorted({*membership.learners})),
        tuple(sorted({*membership.learners_next})),
        membership.auto_leave,
        None if membership.removed is None else tuple(sorted({*membership.removed})),
    )


def apply_change(
    membership: Membership,
    progress: tuple[Progress, ...],
    change: MembershipChange,
    last_index: int,
) -> tuple[Membership, tuple[Progress, ...]]:
    """The configuration and the peers after the change. Raises MembershipError if it cannot be."""
    if leaves_joint(change):
        return leave_joint(membership, progress)
    if enters_joint(change):
        auto_leave = change.transition is not Transition.EXPLICIT
        return enter_joint(
            membership, progress, change.changes, auto_leave=auto_leave, last_index=last_index
        )
    return simple(membership, progress, change.changes, last_index=last_index)


def simple(
    membership: Membership,
    progress: tuple[Progress, ...],
    changes: tuple[Change, ...],
    *,
    last_index: int,
) -> tuple[Membership, tuple[Progress, ...]]:
    """Apply changes that alter at most one voter, outside a joint configuration."""
    if membership.is_joint:
        raise MembershipError("can't apply simple config change in joint config", "joint")
    draft = _Draft(membership, progress, last_index)
    draft.apply(changes)
    if len({*membership.voters} ^ draft.incoming) > 1:
        raise MembershipError(
            "more than one voter changed without entering joint config", "two-voters"
        )
    return draft.freeze(membership.auto_leave)


def enter_joint(
    membership: Membership,
    progress: tuple[Progress, ...],
    changes: tuple[Change, ...],
    *,
    auto_leave: bool,
    last_index: int,
) -> tuple[Membership, tuple[Progress, ...]]:
    """Keep the present voters as the outgoing half and apply the changes to the incoming one."""
    if membership.is_joint:
        raise MembershipError("config is already joint", "joint")
    if not membership.voters:
        raise MembershipError("can't make a zero-voter config joint", "no-voters")
    draft = _Draft(membership, progress, last_index)
    draft.outgoing = set(draft.incoming)
    draft.apply(changes)
    return draft.freeze(auto_leave)


def leave_joint(
    membership: Membership, progress: tuple[Progress, ...]
) -> tuple[Membership, tuple[Progress, ...]]:
    """Drop the outgoing half; demoted voters become learners, removed ones are forgotten."""
    if not membership.is_joint:
        raise MembershipError("can't leave a non-joint config", "not-joint")
    draft = _Draft(membership, progress, 0)
    draft.learners |= draft.learners_next
    draft.learners_next = set()
    for node in sorted(draft.outgoing - draft.incoming - draft.learners):
        del draft.progress[node]
    draft.outgoing = set()
    return draft.freeze(False)


class _Draft:
    """A configuration while changes are applied to it."""

    __slots__ = (
        "before",
        "incoming",
        "last_index",
        "learners",
        "learners_next",
        "outgoing",
        "progress",
        "removed",
    )

    def __init__(
        self, membership: Membership, progress: tuple[Progress, ...], last_index: int
    ) -> None:
        self.incoming = set(membership.voters)
        self.outgoing = set(membership.outgoing)
        self.learners = set(membership.learners)
        self.learners_next = set(membership.learners_next)
        self.progress = {peer.id: peer for peer in progress}
        self.last_index = last_index
        self.removed = membership.removed
        self.before = {*membership.members()}

    def apply(self, changes: tuple[Change, ...]) -> None:
        for change in changes:
            node = change.node
            if not node:
                continue  # id 0 says "not this one after all"
            match change.kind:
                case ChangeKind.VOTER:
                    self._make_voter(node)
                case ChangeKind.LEARNER:
                    self._make_learner(node)
                case ChangeKind.REMOVE:
                    self._remove(node)
                case _:
                    pass  # an UPDATE is for the embedder's own records
        if not self.incoming:
            raise MembershipError("removed all voters", "no-voters")

    def _make_voter(self, node: int) -> None:
        self._track(node)
        self.learners.discard(node)
        self.learners_next.discard(node)
        self.incoming.add(node)

    def _make_learner(self, node: int) -> None:
        if node in self.learners:
            return
        self._track(node)
        self.incoming.discard(node)
        self.learners_next.discard(node)
        # Who still votes in the outgoing half cannot be a learner before that half is gone.
        (self.learners_next if node in self.outgoing else self.learners).add(node)

    def _remove(self, node: int) -> None:
        self.incoming.discard(node)
        self.learners.discard(node)
        self.learners_next.discard(node)
        if node not in self.outgoing:
            self.progress.pop(node, None)

    def _track(self, node: int) -> None:
        if self.removed is not None and node in self.removed:
            raise MembershipError(f"member {node} was removed and never returns", "removed")
        if node not in self.progress:
            # Active at first, so that a leader's next quorum check does not count it as lost; next
            # is max(last, 1) and not last + 1: the first probe is likely to be rejected with a
            # hint.
            self.progress[node] = new_progress(
                node, match=0, next_index=max(self.last_index, 1), active=True
            )

    def freeze(self, auto_leave: bool) -> tuple[Membership, tuple[Progress, ...]]:
        removed = self.removed
        if removed is not None:
            present = self.incoming | self.outgoing | self.learners | self.learners_next
            removed = tuple(sorted({*removed, *(self.before - present)}))
        membership = Membership(
            tuple(sorted(self.incoming)),
            tuple(sorted(self.outgoing)),
            tuple(sorted(self.learners)),
            tuple(sorted(self.learners_next)),
            auto_leave,
            removed,
        )
        return membership, tuple(self.progress[node] for node in sorted(self.progress))
