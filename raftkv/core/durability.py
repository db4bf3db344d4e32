"""What is durable and what is applied: the answers of disk and machine."""

from __future__ import annotations

from raftkv.core.draft import Draft
from raftkv.core.messages import StorageAppendResponse
from raftkv.core.proposals import propose_auto_leave
from raftkv.core.state import ApplyState, Write
from raftkv.core.types import Snapshot
from raftkv.errors import InvariantError


def on_stored(draft: Draft, response: StorageAppendResponse) -> None:
    """A write is durable; what it vouches for depends on the log being the same still.

    A response of an older term says nothing about entries: a write still under way may overwrite
    them (the ABA problem of asynchronous writes). A snapshot in it is always acknowledged.
    """
    if response.number:
        draft.writes = tuple(one for one in draft.writes if one.number > response.number)
    log, index = draft.log, response.index
    if (
        index
        and response.term == draft.term
        and draft.unstable <= index <= log.last_index
        and log.term_at(index) == response.log_term
    ):
        draft.unstable = index + 1
        draft.handed = max(draft.handed, draft.unstable)
    if response.snapshot is not None:
        _on_snapshot_stored(draft, response.snapshot)


def _on_snapshot_stored(draft: Draft, snapshot: Snapshot) -> None:
    if draft.incoming is not None and draft.incoming.index == snapshot.index:
        draft.incoming = None
        draft.incoming_handed = False
    on_applied(draft, snapshot.index)


def on_applied(draft: Draft, index: int) -> None:
    """The machine is at ``index``: pages up to it are done, and a joint change may be left."""
    if index > draft.commit:
        raise InvariantError(f"entry {index} was applied beyond the commit {draft.commit}")
    old = draft.apply
    applied = max(old.applied, index)
    pages, paused = old.pages, old.paused
    done = 0
    for page in pages:
        if page.last_index > index:
            break
        done += 1
        if draft.lead_now.uncommitted_bytes:
            lead = draft.lead
            lead.uncommitted_bytes = max(lead.uncommitted_bytes - page.payload_bytes, 0)
    if done:
        pages = pages[done:]
        paused = sum([page.encoded_bytes for page in pages]) >= draft.config.page_bytes_max
    draft.apply = ApplyState(applied, max(old.handed, applied), pages, paused)
    propose_auto_leave(draft)


def taken_writes(draft: Draft, number: int) -> tuple[Write, ...]:
    """The writes of Readies up to ``number``, oldest first, taken out of the draft."""
    done = tuple(one for one in draft.writes if one.number <= number)
    draft.writes = draft.writes[len(done) :]
    return done
