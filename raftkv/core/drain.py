"""ready(): everything that now has to be done, taken out of State."""

from __future__ import annotations

from raftkv.core.draft import Draft
from raftkv.core.ensure import ensure
from raftkv.core.messages import Message, PeerMessage, StorageAppendResponse
from raftkv.core.ready import Answer, Ready, RecoveringChanged
from raftkv.core.state import EMPTY_OUTBOX, ApplyState, Outbox, Page, State, Told, Write
from raftkv.core.types import APPEND_THREAD, Entry, HardState, Snapshot


def has_ready(state: State) -> bool:
    """Whether ``ready`` would give anything to do."""
    # Asked after every step, so each part of State is looked up once.
    if state.messages or state.messages_after_append or state.handed <= state.log.last_index:
        return True
    outbox = state.outbox
    if outbox is not EMPTY_OUTBOX and outbox != EMPTY_OUTBOX:
        return True
    told = state.told
    hard = told.hard
    if hard.commit != state.commit or hard.term != state.term or hard.vote != state.vote:
        return True
    soft = told.soft
    if soft.role is not state.role or soft.leader != state.leader:
        return True
    recovery = state.recovery
    if told.recovering is not (None if recovery is None else recovery.kind):
        return True
    if state.incoming is not None:
        return not state.incoming_handed
    apply = state.apply
    return not apply.paused and apply.handed < _appliable(state)


def take_answers(state: State) -> tuple[State, tuple[Answer, ...]]:
    """The answers to proposals alone, before the rest of the work."""
    answers = state.outbox.answers
    if not answers:
        return state, ()
    draft = Draft(state)
    old = state.outbox
    draft.outbox = Outbox(old.reads, (), old.dropped_reads, old.alarms, old.snapshot_wanted)
    return draft.freeze(), answers


def ready(state: State) -> tuple[State, Ready]:
    """Take out all that has to be done, numbered. The new State counts it as handed over.

    A Ready that is taken must be worked off: nothing of it comes again.
    """
    draft = Draft(state)
    outbox = state.outbox
    number = state.told.number + 1
    hard_state = _changed_hard_state(state)
    entries = state.log.slice(state.handed, state.log.last_index + 1)
    snapshot = None if state.incoming_handed else state.incoming
    recovering = None
    if state.told.recovering is not state.recovering:
        recovering = RecoveringChanged(state.recovering)
    must_sync = bool(entries or recovering) or (
        hard_state is not None
        and (hard_state.term != state.told.hard.term or hard_state.vote != state.told.hard.vote)
    )
    soft_state = None
    told = state.told.soft
    if told.leader != state.leader or told.role is not state.role:
        soft_state = state.soft_state
    committed = _next_page(draft)
    after = state.messages_after_append
    responses: tuple[Message, ...] = after
    if hard_state or entries or snapshot or after or recovering:
        responses = _with_append_response(state, after, snapshot, number)
        own = state.config.id
        if responses:
            mine = tuple(one for one in responses if one.to == own)
            if mine:
                draft.writes = (*draft.writes, Write(number, mine))
    draft.take_messages()
    draft.outbox = EMPTY_OUTBOX
    draft.handed = state.log.last_index + 1
    draft.incoming_handed = state.incoming is not None
    draft.told = Told(soft_state or told, hard_state or state.told.hard, number, state.recovering)
    result = Ready(
        number,
        soft_state,
        hard_state,
        entries,
        snapshot,
        must_sync,
        state.messages,
        _to_others(state.config.id, after),
        responses,
        committed,
        outbox.reads,
        outbox.answers,
        outbox.dropped_reads,
        outbox.snapshot_wanted,
        outbox.alarms,
        recovering,
    )
    return draft.freeze(), result


def _changed_hard_state(state: State) -> HardState | None:
    told = state.told.hard
    if told.commit == state.commit and told.term == state.term and told.vote == state.vote:
        return None
    return state.hard_state


def _to_others(own: int, messages: tuple[PeerMessage, ...]) -> tuple[PeerMessage, ...]:
    return tuple([one for one in messages if one.to != own])


def _with_append_response(
    state: State, after: tuple[PeerMessage, ...], snapshot: Snapshot | None, number: int
) -> tuple[Message, ...]:
    """The messages behind this write, and its own report if it vouches for entries or a snapshot.

    It names the log's end even if this write has no entries: it then vouches for an earlier one
    whose report was lost to a change of term.
    """
    log = state.log
    some = state.unstable <= log.last_index
    if not some and snapshot is None:
        return after
    response = StorageAppendResponse(
        APPEND_THREAD,
        state.config.id,
        state.term,
        log.last_index if some else 0,
        log.last_term if some else 0,
        snapshot,
        number,
    )
    return (*after, response)


def _appliable(state: State | Draft) -> int:
    """The highest index that may be applied; with asynchronous writes only what is durable here."""
    if state.config.async_storage_writes:
        return min(state.commit, state.unstable - 1)
    return state.commit


def _next_page(draft: Draft) -> tuple[Entry, ...]:
    """Committed entries to hand out now, within the apply budget; noted as handed out."""
    apply = draft.apply
    if apply.paused or draft.incoming is not None:
        return ()
    appliable = _appliable(draft)
    if apply.handed >= appliable:
        return ()
    bytes_max = draft.config.page_bytes_max
    outstanding = sum([page.encoded_bytes for page in apply.pages])
    ensure(outstanding < bytes_max, "the apply budget is spent, yet not paused")
    entries = draft.log.page(apply.handed + 1, appliable + 1, bytes_max - outstanding)
    encoded = sum([entry.size_bytes for entry in entries])
    last = entries[-1].index
    page = Page(last, encoded, sum([len(entry.data) for entry in entries]))
    paused = outstanding + encoded >= bytes_max or last < appliable
    draft.apply = ApplyState(apply.applied, last, (*apply.pages, page), paused)
    return entries
