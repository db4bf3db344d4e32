"""A member that lost some of what it promised, and how it becomes whole again.

Raft counts on two kinds of promises: *acknowledgements* (I have this log up to here, durably) and
*votes* (nobody else gets mine in this term). A disk that loses acknowledged state breaks them, and
a member that goes on as if nothing had happened can elect a leader without a committed entry. So a
member that knows of its loss *recovers* first (protocol-aware recovery: VR's recovering state).
``Recovering.LOG``: entries are missing, term and vote are known. ``Recovering.ALL``: terms and
votes may be missing, too. Until it is whole it gives no vote and no pre-vote and never campaigns;
it follows, and what it answers to a leader is flagged. A leader that sees the flag drops what it
believed of that peer and counts it for nothing: commit, reads, quorum check, lease, transfer.

**It is whole** when

- a read round (ReadIndex) answered index ``c``, and its leader began it after it had seen the
  flag; the round is one of a quorum, never of a lease, and counts no flagged answer;
- the log is durable here, and known to be committed, up to ``c``;
- with ALL, everything up to ``c`` is applied, and every other voter of the membership then in
  force has told its term since the loss was known. The member takes the highest, and the vote that
  it may have given in it for spent;
- or else, with LOG, when its log is exactly what it was: it passes through the last position that
  was acknowledged with the chain value it had there. Nobody is asked then. What was known to be
  committed may be lost all the same, and a membership change acts once it is committed: a member
  that went back to a membership of two changes ago could win an election in it that the others know
  nothing of. But a change is only proposed once the one before is applied, so every change in the
  log except the last is committed, and is taken for that. One change back is what a crash may cost
  any member, and what Raft bears.

**Why that is safe.** Let entry *e* be committed in term T by leader L, counting acknowledgements
that were true when they were sent. The proof of leader completeness looks at the first leader
after T that lacks *e*, of term U, and at a member *m* that acknowledged *e* and later voted in U.
If *m* lost nothing in between, it had *e* and would not have voted so. Say it lost *e* at a moment
*d* in between, and was whole again at *w*, before it voted, by the answer ``c`` of a leader R.
``c`` covers *e*, so *m* had it again:

1. *T < R.* R < U, for R's answer reached *m* in a term that *m* votes beyond, and U is the first
   whose leader lacks *e*: R had *e* when it was elected. A round is answered only after a commit
   in the own term, so ``c`` lies above *e*. When L counted the acknowledgement does not matter:
   *m*'s may have been under way for as long as it liked.
2. *T = R.* If L counted *m* before it saw the flag, it committed *e* then, before the round began,
   and ``c`` covers it; or it did not commit *e* then, and dropped the match. Afterwards it
   must not count what *m* sent before *d*. Those acknowledgements reach at most to the end of
   the log when the flag was seen. So the leader appends an empty entry behind it, and takes *m*
   for whole at an unflagged acknowledgement beyond that end, which answers something that was
   sent after the flag was seen, and vouches for all before it. The bound is set anew by each
   question for ``c``: a second loss needs a second one.
3. *T > R.* With LOG, *m* knew T from acknowledging *e*, and takes no answer of a lower term. With
   ALL: T's leader was elected before *d*, by a quorum that meets the quorum of R's round, which
   began after *d*, in somebody else than *m*, flagged as it was; that one was in a term above R
   already, and did not confirm R.

**Votes.** With LOG they are known. With ALL *m* may have voted for X in a term V that it forgot. X
stored V before it asked anybody (``Config.campaign_when_stored``), so when X tells its term it is V
at least, and *m* is in V with its vote spent, or beyond. A majority would not do for this: of five
voters *m* and another one may elect X, and the other two know nothing of V. If X lost everything,
too, it may tell less. But then its campaign is over, and if it was won before, a quorum stored V:
*m* hears one of them that is whole, for nobody becomes whole without a whole quorum to confirm the
round. By the same token *m* will never acknowledge anything in a term below one in which it voted.

**What it commits.** What an append vouches for, and a snapshot, since both say what came before. A
heartbeat is only as good as the acknowledgements that its leader counts, which may be from before
the loss; where these were, an old copy may hold what a deposed leader wrote. So a recovering member
takes no commit index from heartbeats. Late ones do no harm once it is whole: what they tell was
committed before the round that ended the recovery began, and ``c`` covers it.

**What is asked of the transport.** Requests for votes, and the answers to them, must not outlive a
loss with ALL: neither what such a member sent before is delivered after what it sent since, nor is
delivered to it what answers a campaign of before; else they could count for a campaign in the same
term again. Connections that end with the process, and with the coming of its next one, keep that.
Everything else may arrive as late as it likes.

**What remains outside.** A voter X that was removed meanwhile is asked no more: a vote of *m* for X
still under way could then count in the old membership. It takes a loss, the removal of an active
candidate and a delay at once; who removes members after a loss of this kind stops them first.

**What else may happen meanwhile.** *Another leader:* ``c`` stays valid, since whoever leads later
has all of it; no answer yet: the question is asked again. *Another loss:* the recovery has another
``context``, and answers to the earlier one are not for it. *A snapshot* counts like the entries it
stands for, once durable. *Membership changes* act as always; with ALL it is the membership after
``c`` whose voters must be heard, which may be more or fewer than those the member knew. *Learners*
recover likewise: they may vote in a configuration that makes them voters without their knowing.
*Joint configurations:* the voters of both halves are asked. *Transfer:* a leader does not hand over
to a flagged peer and lets go of a transfer to one; who recovers ignores the order. *The only
missing part of a quorum:* if two of three voters cannot agree without the recovering one, nothing
commits and no round ends. That is right: what it lost may be lost. The third voter's return ends
it, or an exact repair. If a majority lost the same entry, all of these wait: the cluster stands
still rather than decide again.
"""

from __future__ import annotations

from typing import Final

from raftkv.core.draft import Draft
from raftkv.core.log import Log, chain_of
from raftkv.core.messages import AskTerm, ReadIndexRequest, TellTerm
from raftkv.core.prng import between
from raftkv.core.state import Recovery
from raftkv.core.transitions import become_follower
from raftkv.core.types import Entry, EntryKind, Promise, Recovering

_CONTEXT: Final = b"recovering"  # no embedder's read may begin with it


def new_recovery(
    rng: int, kind: Recovering, term: int, promised: Promise | None
) -> tuple[int, Recovery]:
    """The following generator state, and a recovery that nobody was asked about yet."""
    rng, number = between(rng, 0, 2**64 - 1)
    context = _CONTEXT + number.to_bytes(8, "little")
    return rng, Recovery(kind, context, promised, None, term)


def is_question(context: bytes) -> bool:
    """Whether a read was asked by a recovery: perhaps by one that has ended since."""
    return context.startswith(_CONTEXT)


def regress(draft: Draft) -> None:
    """Peers can tell that our disk is an old copy: nothing proves what we promised."""
    now = draft.recovery
    if now is not None and now.kind is Recovering.ALL:
        return
    become_follower(draft, draft.term, draft.leader if draft.leader != draft.config.id else 0)
    draft.rng, draft.recovery = new_recovery(draft.rng, Recovering.ALL, draft.term, None)


def on_tick(draft: Draft, recovery: Recovery) -> None:
    """Ask the leader how far the log must reach, and voters for their terms, until they answer."""
    if recovery.wait_ticks > 0:
        _change(draft, recovery, wait_ticks=recovery.wait_ticks - 1)
        return
    own = draft.config.id
    asked = False
    if draft.leader and recovery.covers is None:
        draft.messages.append(
            ReadIndexRequest(own, draft.leader, recovery.context, recovering=True)
        )
        asked = True
    for voter in _silent_voters(draft, recovery):
        draft.messages.append(AskTerm(own, voter, recovery.context))
        asked = True
    if asked:
        _change(draft, recovery, wait_ticks=draft.config.election_ticks)


def _silent_voters(draft: Draft, recovery: Recovery) -> list[int]:
    """Those whose term must be heard yet, ascending."""
    if recovery.kind is not Recovering.ALL:
        return []
    membership = draft.membership
    voters = {*membership.voters, *membership.outgoing} - {draft.config.id, *recovery.heard}
    return sorted(voters)


def on_read_answered(draft: Draft, recovery: Recovery, index: int) -> None:
    """The round that was asked for is done: a whole log covers ``index``."""
    if recovery.covers is None:
        _change(draft, recovery, covers=index)


def on_ask_term(draft: Draft, message: AskTerm) -> None:
    """A member that may have forgotten its term asks for ours."""
    draft.messages.append(TellTerm(draft.config.id, message.sender, draft.term, message.context))


def on_tell_term(draft: Draft, message: TellTerm) -> None:
    """A voter's term: ours is not below it, and we may have voted in it."""
    recovery = draft.recovery
    if recovery is None or message.context != recovery.context:
        return
    if message.known_term > draft.term:
        become_follower(draft, message.known_term, 0)
    _change(
        draft,
        recovery,
        term=max(recovery.term, message.known_term),
        heard=tuple(sorted({*recovery.heard, message.sender})),
    )


def on_repaired(draft: Draft, entries: tuple[Entry, ...]) -> None:
    """Append what an intact copy has, if that is exactly what was promised."""
    recovery = draft.recovery
    if recovery is None or recovery.promised is None:
        return
    promised, log = recovery.promised, draft.log
    missing = tuple([one for one in entries if log.last_index < one.index <= promised.index])
    if _leads_to(log, missing, promised):
        draft.log = log.append(missing)


def _leads_to(log: Log, entries: tuple[Entry, ...], promised: Promise) -> bool:
    """Whether the entries follow the log and end where and as it was promised."""
    chain = log.last_chain
    for index, entry in enumerate(entries, log.last_index + 1):
        chain = chain_of(chain, entry.term, entry.index, entry.kind, entry.data)
        if entry.index != index or entry.chain != chain:
            return False
    return bool(entries) and (entries[-1].index, chain) == (promised.index, promised.chain)


def finish_if_whole(draft: Draft, recovery: Recovery) -> None:
    """End the recovery once it may end. Looked at after every step."""
    if _has_what_was_promised(draft, recovery):
        _commit_all_changes_but_the_last(draft)
    elif not _has_what_is_committed(draft, recovery):
        return
    if recovery.kind is Recovering.ALL and draft.term <= recovery.term and not draft.vote:
        draft.vote = draft.config.id  # spent: perhaps on somebody else
    draft.recovery = None


def _has_what_was_promised(draft: Draft, recovery: Recovery) -> bool:
    promised, log = recovery.promised, draft.log
    # Not known to be durable, perhaps, but what relies on it waits for that as always, and the mark
    # is removed in no earlier write.
    return (
        recovery.kind is Recovering.LOG
        and promised is not None
        and log.has_term(promised.index)
        and log.chain_at(promised.index) == promised.chain
    )


def _commit_all_changes_but_the_last(draft: Draft) -> None:
    log = draft.log
    first = max(draft.commit + 1, log.first_index)
    unknown = log.slice(first, log.last_index + 1)
    changes = [entry.index for entry in unknown if entry.kind is not EntryKind.NORMAL]
    if len(changes) > 1:
        draft.commit = changes[-2]


def _has_what_is_committed(draft: Draft, recovery: Recovery) -> bool:
    index = recovery.covers
    if index is None or draft.commit < index or draft.unstable <= index or draft.incoming:
        return False
    if recovery.kind is Recovering.LOG:
        return True
    return draft.apply.applied >= index and not _silent_voters(draft, recovery)


def _change(
    draft: Draft,
    old: Recovery,
    *,
    covers: int | None = None,
    term: int = 0,
    heard: tuple[int, ...] = (),
    wait_ticks: int | None = None,
) -> None:
    draft.recovery = Recovery(
        old.kind,
        old.context,
        old.promised,
        old.covers if covers is None else covers,
        term or old.term,
        heard or old.heard,
        old.wait_ticks if wait_ticks is None else wait_ticks,
    )
