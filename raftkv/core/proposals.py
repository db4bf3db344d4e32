"""Proposals: taken by the leader, passed on by a follower, or refused with a reason."""

from __future__ import annotations

from raftkv.core.draft import Draft
from raftkv.core.ensure import ensure
from raftkv.core.leader import append_payloads, is_leaving
from raftkv.core.membership import apply_change, decode_change
from raftkv.core.messages import ForwardProposal, ProposalRefused
from raftkv.core.ready import Accepted, Refusal, Refused
from raftkv.core.sending import broadcast_append
from raftkv.core.strict import unsafe_change
from raftkv.core.types import EntryKind, MembershipChange, Payload, Role
from raftkv.errors import MembershipError

_EMPTY = Payload(EntryKind.NORMAL, b"")


def on_propose(draft: Draft, payloads: tuple[Payload, ...], request: int, origin: int = 0) -> None:
    """A proposal of our own (``origin`` 0) or one that was forwarded."""
    ensure(bool(payloads), "a proposal without payloads")
    match draft.role:
        case Role.LEADER:
            refusal = _take(draft, payloads, request, origin)
        case Role.FOLLOWER:
            refusal = _forward(draft, payloads, request, origin)
        case _:
            refusal = Refusal.NO_LEADER
    if refusal is not None:
        _refuse(draft, request, refusal, origin)


def _refuse(draft: Draft, request: int, reason: Refusal, origin: int) -> None:
    own = draft.config.id
    if origin not in (0, own):
        draft.aside.answers.append(Refused(request, reason, origin))
        if draft.config.answer_forwarded:
            draft.messages.append(ProposalRefused(own, origin, request, int(reason)))
    else:
        draft.aside.answers.append(Refused(request, reason))


def _forward(
    draft: Draft, payloads: tuple[Payload, ...], request: int, origin: int
) -> Refusal | None:
    if not draft.leader:
        return Refusal.NO_LEADER
    if draft.config.disable_forwarding:
        return Refusal.FORWARDING_DISABLED
    sender = origin or draft.config.id
    draft.messages.append(ForwardProposal(sender, draft.leader, payloads, request))
    return None


def _take(draft: Draft, payloads: tuple[Payload, ...], request: int, origin: int) -> Refusal | None:
    own = draft.config.id
    if not draft.tracks(own) or is_leaving(draft):
        return Refusal.NOT_A_MEMBER
    if draft.lead_now.transferee:
        return Refusal.TRANSFERRING
    pending = draft.lead_now.pending_change
    first = draft.log.last_index + 1
    if any(payload.kind is not EntryKind.NORMAL for payload in payloads):
        checked = _check_changes(draft, payloads, first)
        if isinstance(checked, Refusal):
            return checked
        payloads, pending = checked
    if _is_too_much(draft, payloads):
        return Refusal.TOO_MUCH_UNCOMMITTED
    if pending != draft.lead_now.pending_change:
        draft.lead.pending_change = pending
    append_payloads(draft, payloads)
    broadcast_append(draft)
    if request and origin in (0, own):
        draft.aside.answers.append(Accepted(request, draft.term, first, draft.log.last_index))
    return None


def _is_too_much(draft: Draft, payloads: tuple[Payload, ...]) -> bool:
    """Whether the log would hold too much unapplied payload; a first oversized proposal passes."""
    size = sum([len(payload.data) for payload in payloads])
    now = draft.lead_now.uncommitted_bytes
    return now > 0 and size > 0 and now + size > draft.config.uncommitted_bytes_max


def _check_changes(
    draft: Draft, payloads: tuple[Payload, ...], first: int
) -> tuple[tuple[Payload, ...], int] | Refusal:
    """The payloads to append and the new pending index; what may not be becomes an empty entry."""
    config = draft.config
    pending = draft.lead_now.pending_change
    kept: list[Payload] = []
    for index, payload in enumerate(payloads, first):
        if payload.kind is EntryKind.NORMAL:
            kept.append(payload)
            continue
        failed = None
        if not config.disable_change_validation:
            failed = _failed_check(draft, payload.data, pending)
        if failed is None:
            kept.append(payload)
            pending = index
        elif config.refuse_invalid_changes:
            return failed
        else:
            kept.append(_EMPTY)
    return tuple(kept), pending


def _failed_check(draft: Draft, data: bytes, pending: int) -> Refusal | None:
    try:
        change = decode_change(data)
    except MembershipError:
        return Refusal.CHANGE_INVALID
    if pending > draft.apply.applied:
        return Refusal.CHANGE_PENDING
    if draft.membership.is_joint and change.changes:
        return Refusal.CHANGE_WHILE_JOINT
    if not draft.membership.is_joint and not change.changes:
        return Refusal.NOT_JOINT
    return _cannot_be(draft, change) if draft.config.refuse_invalid_changes else None


def _cannot_be(draft: Draft, change: MembershipChange) -> Refusal | None:
    """Why it could not be applied now, and so then: no other change can come in between."""
    try:
        after, _ = apply_change(draft.membership, draft.progress, change, draft.log.last_index)
    except MembershipError as error:
        return Refusal.REMOVED_FOR_GOOD if error.reason == "removed" else Refusal.CHANGE_INVALID
    return unsafe_change(draft, change, after) if draft.config.promotion_lag_max else None


def propose_auto_leave(draft: Draft) -> None:
    """Leave a joint configuration that asks for it once it is applied; retried if refused."""
    if (
        draft.membership.auto_leave
        and draft.role is Role.LEADER
        and draft.apply.applied >= draft.lead_now.pending_change
    ):
        _take(draft, (Payload(EntryKind.CHANGE, b""),), 0, 0)


def on_refused_elsewhere(draft: Draft, message: ProposalRefused) -> None:
    """The leader did not take what we forwarded."""
    try:
        reason = Refusal(message.reason)
    except ValueError:  # a newer member's reason
        reason = Refusal.NO_LEADER
    draft.aside.answers.append(Refused(message.request, reason))


def on_forwarded(draft: Draft, message: ForwardProposal) -> None:
    """Another member's proposal reached us."""
    if message.payloads:
        on_propose(draft, message.payloads, message.request, message.sender)
