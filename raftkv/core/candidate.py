"""Elections: who may campaign, whom it asks, and how the votes are counted."""

from __future__ import annotations

from raftkv.core.draft import Draft
from raftkv.core.messages import PreVote, PreVoteResponse, RequestVote, VoteResponse
from raftkv.core.quorum import Vote, vote_jointly
from raftkv.core.sending import broadcast_append
from raftkv.core.transitions import (
    become_candidate,
    become_follower,
    become_leader,
    become_pre_candidate,
)
from raftkv.core.types import EntryKind, Role


def campaign(draft: Draft, *, transfer: bool = False) -> None:
    """Start an election unless leading, not promotable, or beside unapplied membership changes.

    Nor while a lease that was promised may last. ``transfer``: leadership was handed to us; no
    pre-vote then, and the requests override leases.
    """
    if draft.role is Role.LEADER:
        return
    if draft.recovery is not None:
        return
    if draft.incoming is not None or not draft.membership.is_voter(draft.config.id):
        return
    if draft.hold_ticks and not transfer:
        return  # our own vote, too, is promised
    if has_unapplied_changes(draft):
        return
    if draft.config.pre_vote and not transfer:
        become_pre_candidate(draft)
        _ask_for_pre_votes(draft)
    else:
        become_candidate(draft)
        _ask_for_votes(draft, transfer=transfer)


def hasten(draft: Draft) -> None:
    """The leader may be gone: await the end of every promise to it, then our turn, and no longer.

    Chance spreads campaigns over a whole election timeout so that votes are not split. Where the
    connection broke at everybody the order of ids does that, too. The timeout itself still counts
    from the leader's last word, so a leader that lives, and reaches us, loses nothing; a tick is
    added because the others' clocks tick at other moments.
    """
    config = draft.config
    rank = sum(voter < config.id for voter in _voters(draft) if voter != draft.leader)
    turn = config.election_ticks + 1 + rank * config.heartbeat_ticks
    draft.timeout_ticks = min(turn, 2 * config.election_ticks - 1)  # as long as chance may take


def has_unapplied_changes(draft: Draft) -> bool:
    """Whether a committed membership change is unapplied: we might count the wrong voters."""
    if draft.apply.applied >= draft.commit:
        return False
    first = max(draft.apply.applied + 1, draft.log.first_index)
    return any(
        entry.kind is not EntryKind.NORMAL for entry in draft.log.slice(first, draft.commit + 1)
    )


def _voters(draft: Draft) -> list[int]:
    return sorted({*draft.membership.voters, *draft.membership.outgoing})


def _ask_for_pre_votes(draft: Draft) -> None:
    own, term, log = draft.config.id, draft.term + 1, draft.log
    for voter in _voters(draft):
        if voter == own:
            draft.messages_after_append.append(PreVoteResponse(own, own, term, False))
        else:
            draft.messages.append(PreVote(own, voter, term, log.last_index, log.last_term))


def _ask_for_votes(draft: Draft, *, transfer: bool) -> None:
    own, term, log = draft.config.id, draft.term, draft.log
    requests = draft.messages_after_append if draft.config.campaign_when_stored else draft.messages
    for voter in _voters(draft):
        if voter == own:
            # Our own vote counts like any other once it is stored, with a single voter too.
            draft.messages_after_append.append(VoteResponse(own, own, term, False))
        else:
            requests.append(RequestVote(own, voter, term, log.last_index, log.last_term, transfer))


def on_vote_response(draft: Draft, message: VoteResponse | PreVoteResponse) -> None:
    """Count an answer to the campaign under way; each voter's first one counts."""
    pre = isinstance(message, PreVoteResponse)
    if draft.role is not Role.LEADER and message.commit > draft.commit:
        _learn_commit(draft, message.commit, message.commit_term)
    if draft.role is not (Role.PRE_CANDIDATE if pre else Role.CANDIDATE):
        return
    votes = dict(draft.votes)
    votes.setdefault(message.sender, not message.rejected)
    draft.votes = tuple(sorted(votes.items()))
    match vote_jointly(draft.membership.voters, draft.membership.outgoing, votes):
        case Vote.WON if not pre:
            become_leader(draft)
            broadcast_append(draft)
        case Vote.WON if draft.config.recheck_campaign and has_unapplied_changes(draft):
            become_follower(draft, draft.term, 0)
        case Vote.WON:
            become_candidate(draft)
            _ask_for_votes(draft, transfer=False)
        case Vote.LOST:
            # A rejection with a higher term has already ended the campaign.
            become_follower(draft, draft.term, 0)
        case _:
            pass  # others have not answered yet


def _learn_commit(draft: Draft, commit: int, commit_term: int) -> None:
    """Who refused us knows ``commit`` to be committed: so it is here, if our log agrees."""
    if not draft.log.matches(commit, commit_term):
        return
    draft.commit = commit
    if draft.role is not Role.FOLLOWER and has_unapplied_changes(draft):
        become_follower(draft, draft.term, 0)  # we may have asked the wrong voters
