"""What must hold between two states of one member, looked at while it runs, whatever the flags.

:func:`~raftkv.core.step` checks after every input what a comparison or two can tell (I1-I4). The
guard looks at what costs more once for each Ready, before any of it is stored or sent: so a broken
rule stops the member while its disk and its peers know nothing of it. Its cost does not grow with
the log: some comparisons, one per peer, and one per new entry.

The numbers are those of the invariants of :mod:`raftkv.testing.invariants`.
"""

from __future__ import annotations

from typing import Final

from raftkv.core.log import Log
from raftkv.core.ready import Ready
from raftkv.core.state import State
from raftkv.core.types import EntryKind, Role
from raftkv.errors import InvariantError

_LEADER: Final = Role.LEADER
_NORMAL: Final = EntryKind.NORMAL


class Guard:
    """Watches one member from its start on. Hand it every Ready before working it off."""

    __slots__ = ("_change", "_seen")

    def __init__(self, state: State) -> None:
        self._seen = state
        log = state.log
        first = max(state.commit + 1, log.first_index)
        changes = [
            entry.index
            for entry in log.slice(first, log.last_index + 1)
            if entry.kind is not _NORMAL
        ]
        self._change = changes[-1] if changes else 0
        """Where the newest change of membership stands, unless it was committed at the start."""

    def check(self, state: State, todo: Ready) -> None:
        """Compare with the Ready before. Raises InvariantError with the number of what is broken.

        ``state`` is what the Ready was taken from, or what came with it.
        """
        seen = self._seen
        self._seen = state
        if state.term < seen.term:
            raise InvariantError(f"I1: from term {seen.term} to {state.term}")
        if state.term == seen.term and seen.vote and state.vote != seen.vote:
            raise InvariantError(f"I2: voted for {seen.vote} and {state.vote} in term {state.term}")
        log, applied = state.log, state.apply.applied
        if not applied <= state.commit <= log.last_index or (
            log.base_index > applied and state.incoming is None
        ):
            raise InvariantError(f"I3: applied {applied}, commit {state.commit}, {log!r}")
        if state.commit < seen.commit or applied < seen.apply.applied:
            raise InvariantError(
                f"I4: commit from {seen.commit} to {state.commit},"
                f" applied from {seen.apply.applied} to {applied}"
            )
        if log is not seen.log:
            _check_log(seen, state)
        if todo.entries:
            self._check_entries(state, todo)
        if state.role is _LEADER and state.progress is not seen.progress:
            _check_progress(seen, state)

    def _check_entries(self, state: State, todo: Ready) -> None:
        if todo.entries[0].index <= self._change:
            self._change = 0  # it was replaced; what stood before it had been committed
        leads = state.role is _LEADER
        term = todo.entries[0].term
        for entry in todo.entries:
            if entry.term < term:
                raise InvariantError(f"I5: entry {entry.index} of term {entry.term} after {term}")
            term = entry.term
            if entry.kind is not _NORMAL:
                # Only who proposes it must know that the one before is committed: others may take
                # both at once, or be given them when a damaged log is repaired.
                if leads and term == state.term and state.commit < self._change:
                    raise InvariantError(
                        f"I17: changes of membership at {self._change} and {entry.index},"
                        f" and only {state.commit} is committed"
                    )
                self._change = entry.index
        if term > state.term:
            raise InvariantError(f"I5: an entry of term {term} in term {state.term}")


def _check_log(seen: State, state: State) -> None:
    old, new = seen.log, state.log
    if _is_kept(old, new, old.last_index):
        return
    # Its end is gone: only who does not lead may replace it, and only what is not committed.
    if seen.role is _LEADER and state.role is _LEADER and seen.term == state.term:
        raise InvariantError(f"I6: a leader rewrote its log: {old!r}, then {new!r}")
    if not _is_kept(old, new, seen.commit):
        raise InvariantError(f"I8: lost what was committed up to {seen.commit}: {new!r}")


def _is_kept(old: Log, new: Log, index: int) -> bool:
    """Whether the entry at ``index``, and all before it, are as they were, or compacted."""
    if index < new.base_index or index < old.base_index:
        return True
    return index <= new.last_index and old.chain_at(index) == new.chain_at(index)


def _check_progress(seen: State, state: State) -> None:
    led_before = seen.role is _LEADER and seen.term == state.term
    inflight_max = state.config.inflight_max
    for position, new in enumerate(state.progress):
        if new.next <= new.match:
            raise InvariantError(f"I7: {new.id} has {new.match} and would be sent {new.next}")
        if len(new.inflight) > inflight_max:
            raise InvariantError(f"I51: {len(new.inflight)} appends under way to {new.id}")
        if led_before and position < len(seen.progress):
            old = seen.progress[position]
            if old.id == new.id and new.match < old.match and not new.recovering:
                raise InvariantError(f"I7: match of {new.id} from {old.match} to {new.match}")
