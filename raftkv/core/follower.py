"""A follower: takes entries, heartbeats and snapshots, and votes."""

from __future__ import annotations

from raftkv.core.draft import Draft
from raftkv.core.ensure import ensure
from raftkv.core.log import Log, chain_of
from raftkv.core.membership import normalised
from raftkv.core.messages import (
    AppendEntries,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    PreVote,
    PreVoteResponse,
    RequestVote,
    VoteResponse,
)
from raftkv.core.progress import new_progress
from raftkv.core.ready import ChainBroken, MalformedAppend
from raftkv.core.recovering import regress
from raftkv.core.sending import send_append_response
from raftkv.core.transitions import become_follower
from raftkv.core.types import Entry, Role, Snapshot
from raftkv.errors import InvariantError


def on_append_entries(draft: Draft, message: AppendEntries) -> None:
    """Compare, take what is new, answer once it is stored (§5.3)."""
    draft.election_elapsed = 0
    draft.leader = message.sender
    log = draft.log
    prev = message.prev_index
    if message.entries and not _makes_a_log(draft, message):
        return
    if prev < draft.commit:  # an old append: nothing to compare, all of that is committed
        send_append_response(draft, message.sender, draft.commit)
        return
    at_end = prev == log.last_index and message.prev_term == log.last_term  # nearly always
    if not at_end and not log.matches(prev, message.prev_term):
        hint, hint_term = log.last_at_most(min(prev, log.last_index), message.prev_term)
        send_append_response(
            draft, message.sender, prev, rejected=True, hint=hint, hint_term=hint_term
        )
        return
    entries = message.entries
    last_new = prev
    if entries:
        last_new = entries[-1].index
        if not _take_entries(draft, message):
            return
    if message.commit > draft.commit:
        # Not beyond what this append vouches for: entries after it may be another leader's.
        draft.commit = max(draft.commit, min(message.commit, last_new))
    send_append_response(draft, message.sender, last_new)


def _makes_a_log(draft: Draft, message: AppendEntries) -> bool:
    """Whether the entries follow each other; if not, the append is dropped with an alarm.

    No leader sends such a thing, but what a peer sends must not stop us.
    """
    index, term = message.prev_index, message.prev_term
    for entry in message.entries:
        index += 1
        if entry.index != index or not term <= entry.term <= message.term:
            draft.aside.alarms.append(MalformedAppend(message.sender, index))
            return False
        term = entry.term
    return True


def _take_entries(draft: Draft, message: AppendEntries) -> bool:
    """Skip what is there already, replace from the first difference on; False if damaged."""
    log = draft.log
    entries = message.entries
    if message.prev_index != log.last_index:
        entries = _after_common_part(log, entries)
        if not entries:
            return True
    first = entries[0].index
    if draft.config.verify_chain and not _continues(draft, message.sender, entries):
        return False
    if first <= log.last_index:
        ensure(first > draft.commit, "I8: a committed entry would be rewritten")
        log = log.truncate(first)
        # What was handed out for storing from here on is void, and comes again.
        draft.unstable = min(draft.unstable, first)
        draft.handed = min(draft.handed, first)
    draft.log = log.append(entries)
    return True


def _after_common_part(log: Log, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    for position, entry in enumerate(entries):
        if not log.matches(entry.index, entry.term):
            return entries[position:]
    return ()


def _continues(draft: Draft, sender: int, entries: tuple[Entry, ...]) -> bool:
    """Whether each entry's chain follows from our log; if not, the append is dropped with an alarm.

    Equal (index, term) and different chains mean damage on either side: acknowledging would spread
    it, and stopping would let one damaged leader stop everybody.
    """
    chain = draft.log.chain_at(entries[0].index - 1)
    for entry in entries:
        chain = chain_of(chain, entry.term, entry.index, entry.kind, entry.data)
        if chain != entry.chain:
            draft.aside.alarms.append(ChainBroken(sender, entry.index))
            return False
    return True


def on_heartbeat(draft: Draft, message: Heartbeat) -> None:
    """The leader lives; commit as far as it knows our log to match.

    Not while recovering: what it knows may be from before the loss, and an old copy can hold other
    entries there. Appends tell the commit index, too, and compare first.
    """
    draft.election_elapsed = 0
    draft.leader = message.sender
    if message.commit > draft.log.last_index:
        if not draft.config.reprobe_lost and draft.recovery is None:
            raise InvariantError(
                f"the leader knows entry {message.commit} to be here, but the log ends at"
                f" {draft.log.last_index}: was it truncated or lost?",
            )
        if draft.recovery is None:
            # Only we ourselves can have told the leader that we have it, in this very term.
            regress(draft)
        hint, hint_term = draft.log.last_index, draft.log.last_term
        send_append_response(
            draft, message.sender, message.commit, rejected=True, hint=hint, hint_term=hint_term
        )
    elif draft.recovery is None:
        draft.commit = max(draft.commit, message.commit)
    if draft.config.measured_lease:
        # The answer is a promise, kept even if the leader is forgotten or a higher term heard of.
        draft.hold_ticks = draft.config.election_ticks
    draft.messages.append(
        HeartbeatResponse(
            draft.config.id,
            message.sender,
            draft.term,
            message.read_position,
            message.sent_tick,
            draft.recovery is not None,
        )
    )


def on_install_snapshot(draft: Draft, message: InstallSnapshot) -> None:
    """Replace the log by a snapshot that is ahead of it (§7)."""
    draft.election_elapsed = 0
    draft.leader = message.sender
    if _install(draft, message.snapshot):
        send_append_response(draft, message.sender, draft.log.last_index)
    else:
        send_append_response(draft, message.sender, draft.commit)


def _install(draft: Draft, snapshot: Snapshot) -> bool:
    if snapshot.index <= draft.commit:
        return False
    members = snapshot.membership
    own = draft.config.id
    if not (members.is_voter(own) or own in members.learners):
        return False  # nobody to count us: it is not for us, or we were removed
    if draft.log.matches(snapshot.index, snapshot.term):
        draft.commit = snapshot.index  # all of it is here already
        return False
    draft.log = Log.starting_at(snapshot.index, snapshot.term, snapshot.chain)
    draft.commit = snapshot.index
    draft.unstable = draft.handed = snapshot.index + 1
    draft.incoming = snapshot
    draft.incoming_handed = False
    draft.membership = normalised(members)
    draft.set_progress(
        tuple(
            new_progress(
                peer,
                match=snapshot.index if peer == own else 0,
                next_index=snapshot.index + 1,
                active=False,
            )
            for peer in draft.membership.members()
        )
    )
    return True


def on_vote_request(draft: Draft, message: RequestVote | PreVote) -> None:
    """Grant or refuse (§5.2, §5.4.1; pre-votes thesis 9.6). Any role answers, learners too."""
    ahead = isinstance(message, PreVote) and message.term > draft.term
    free = draft.vote == message.sender or (draft.vote == 0 and draft.leader == 0) or ahead
    granted = (
        free
        and draft.recovery is None
        and draft.log.is_up_to_date(message.last_index, message.last_term)
    )
    term = message.term if granted else draft.term
    own = draft.config.id
    commit = commit_term = 0
    if not granted and draft.config.refusals_tell_commit:
        commit, commit_term = draft.commit, draft.log.term_at(draft.commit)
    if isinstance(message, PreVote):
        response = PreVoteResponse(own, message.sender, term, not granted, commit, commit_term)
    else:
        response = VoteResponse(own, message.sender, term, not granted, commit, commit_term)
        if granted:
            draft.vote = message.sender
            draft.election_elapsed = 0
    draft.messages_after_append.append(response)


def follow(draft: Draft, sender: int) -> None:
    """A candidate hears from a leader of its own term: the election is over."""
    ensure(draft.role is not Role.LEADER, f"I10: two leaders in term {draft.term}")
    become_follower(draft, draft.term, sender)
