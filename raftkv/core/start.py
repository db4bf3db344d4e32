"""start(): the State of a member that just opened its disk."""

from __future__ import annotations

from typing import Final

from raftkv.core.config import Config
from raftkv.core.ensure import ensure
from raftkv.core.log import Log
from raftkv.core.membership import normalised
from raftkv.core.prng import between, seeded
from raftkv.core.progress import new_progress
from raftkv.core.ready import SoftState
from raftkv.core.recovering import new_recovery
from raftkv.core.state import EMPTY_OUTBOX, NOT_LEADING, ApplyState, State, Told
from raftkv.core.types import (
    Entry,
    HardState,
    Membership,
    Promise,
    Recovering,
    Role,
    Snapshot,
)

NOTHING_STORED: Final = HardState()


def start(
    config: Config,
    *,
    voters: tuple[int, ...] = (),
    learners: tuple[int, ...] = (),
    hard_state: HardState | None = None,
    snapshot: Snapshot | None = None,
    entries: tuple[Entry, ...] = (),
    applied: int = 0,
    membership: Membership | None = None,
    recovering: Recovering | None = None,
    promised: Promise | None = None,
) -> State:
    """A follower that knows no leader, with what its disk gave back.

    A new member of a new cluster gives ``voters`` (and ``learners``); all of them must give the
    same. One that comes back gives ``hard_state``, ``snapshot`` (the compaction point and the
    membership there), the ``entries`` after it, how far its machine has ``applied``, and the
    ``membership`` in force at that point if it differs from the snapshot's. The membership never
    comes from log entries: those act again when they are applied again. A member that is to join
    gives nothing, and must be sent a snapshot: the entries alone do not tell it who came before
    them. So give the first members of a cluster that may grow a ``snapshot`` to start from, too.

    ``recovering`` says that the disk lost some of what this member promised: the last such change
    that a Ready told, or what opening the disk showed. It gives no vote and is not counted until it
    is whole again. ``promised``, with LOG, is where its log ended when it was last acknowledged.
    ``config.seed`` must then be another one at each start: it names the recovery.

    Raises InvariantError if the parts contradict each other.
    """
    hard = hard_state or NOTHING_STORED
    base = snapshot or Snapshot(0, 0, 0, Membership(voters, (), learners))
    members = normalised(membership or base.membership)
    log = Log.starting_at(base.index, base.term, base.chain).append(entries)
    applied = max(applied, base.index)
    commit = base.index if hard == NOTHING_STORED else hard.commit
    if recovering:
        commit = min(commit, log.last_index)  # the rest of what was committed is what was lost
    if config.applied_bounds_commit:
        commit = max(commit, applied)
    ensure(
        base.index <= commit <= log.last_index,
        f"the stored commit index {commit} lies outside the log {base.index}..{log.last_index}",
    )
    ensure(applied <= commit, f"applied {applied} lies beyond the commit index {commit}")
    election = config.election_ticks
    rng, timeout = between(seeded(config.seed or config.id), election, 2 * election - 1)
    own, last = config.id, log.last_index
    recovery = None
    if recovering:
        rng, recovery = new_recovery(rng, recovering, hard.term, promised)
    return State(
        config=config,
        term=hard.term,
        vote=hard.vote,
        commit=commit,
        role=Role.FOLLOWER,
        leader=0,
        log=log,
        unstable=last + 1,
        handed=last + 1,
        incoming=None,
        incoming_handed=False,
        snapshot=snapshot if snapshot and snapshot.index else None,
        apply=ApplyState(applied, applied),
        membership=members,
        progress=tuple(
            new_progress(node, match=last if node == own else 0, next_index=last + 1, active=False)
            for node in members.members()
        ),
        votes=(),
        recovery=recovery,
        election_elapsed=0,
        heartbeat_elapsed=0,
        timeout_ticks=timeout,
        rng=rng,
        lead_ticks=0,
        hold_ticks=election if config.measured_lease and (hard.term or recovering) else 0,
        leading=NOT_LEADING,
        messages=(),
        messages_after_append=(),
        outbox=EMPTY_OUTBOX,
        told=Told(
            SoftState(0, Role.FOLLOWER), HardState(hard.term, hard.vote, commit), 0, recovering
        ),
        writes=(),
    )
