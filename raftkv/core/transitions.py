"""The four ways to change role: the only writers of role, and with ``reset`` of term."""

from __future__ import annotations

from raftkv.core.draft import Draft
from raftkv.core.ensure import ensure
from raftkv.core.log import Log
from raftkv.core.prng import between
from raftkv.core.progress import new_progress
from raftkv.core.sending import send_append_response
from raftkv.core.state import NOT_LEADING, Leading
from raftkv.core.types import EntryKind, Payload, Role
from raftkv.errors import InvariantError

NOTHING = (Payload(EntryKind.NORMAL, b""),)


def become_follower(draft: Draft, term: int, leader: int) -> None:
    """Follow ``leader`` (0: nobody known yet) in ``term``."""
    reset(draft, term)
    draft.role = Role.FOLLOWER
    draft.leader = leader


def become_pre_candidate(draft: Draft) -> None:
    """Ask for votes without touching term, vote or timers (thesis 9.6)."""
    ensure(draft.role is not Role.LEADER, "a leader would become pre-candidate")
    draft.role = Role.PRE_CANDIDATE
    draft.votes = ()
    draft.leader = 0


def become_candidate(draft: Draft) -> None:
    """Campaign in the next term, with the own vote given (§5.2)."""
    ensure(draft.role is not Role.LEADER, "a leader would become candidate")
    reset(draft, draft.term + 1)
    draft.role = Role.CANDIDATE
    draft.vote = draft.config.id


def become_leader(draft: Draft) -> None:
    """Lead this term, starting with an empty entry (§5.4.2, §8)."""
    ensure(draft.role is Role.CANDIDATE, "only a candidate may become leader")
    reset(draft, draft.term)
    draft.role = Role.LEADER
    draft.leader = draft.config.id
    own = draft.peer(draft.config.id)
    if own is None:
        raise InvariantError("a leader is not in its own configuration")
    own.become_replicate()
    own.active = True
    # Not known which of the entries is a membership change: none may be proposed before all are
    # applied.
    draft.lead.pending_change = draft.log.last_index
    log, _ = draft.log.propose(draft.term, NOTHING)
    adopt_log(draft, log)
    send_append_response(draft, draft.config.id, log.last_index)


def reset(draft: Draft, term: int) -> None:
    """What every change of role forgets (RAFT_SEMANTICS section 3)."""
    if draft.term != term:
        ensure(term > draft.term, "I1: the term would decrease")
        draft.term = term
        draft.vote = 0
    draft.leader = 0
    draft.election_elapsed = 0
    draft.heartbeat_elapsed = 0
    election = draft.config.election_ticks
    draft.rng, draft.timeout_ticks = between(draft.rng, election, 2 * election - 1)
    draft.votes = ()
    last = draft.log.last_index
    own = draft.config.id
    draft.set_progress(
        tuple(
            new_progress(
                peer.id, match=last if peer.id == own else 0, next_index=last + 1, active=False
            )
            for peer in draft.progress
        )
    )
    draft.lead_ticks = 0
    # Reads that wait for the first commit of a term wait for the next one, unless they are
    # reported.
    waiting = draft.lead_now.waiting_reads
    if draft.config.report_dropped_reads:
        _report_dropped_reads(draft)
        waiting = ()
    draft.stop_leading(Leading(waiting_reads=waiting) if waiting else NOT_LEADING)


def _report_dropped_reads(draft: Draft) -> None:
    now = draft.lead_now
    lost = [request for _, request, _ in now.reads.queue]
    lost += now.waiting_reads
    own = [one.context for one in lost if one.origin in (0, draft.config.id)]
    if own:
        draft.aside.dropped_reads += own


def adopt_log(draft: Draft, log: Log) -> None:
    """Take a log that only grew at its end."""
    ensure(log.last_index >= draft.log.last_index, "I6: a leader's log would shrink")
    draft.log = log
