"""What the cluster's store went through, revision by revision, and what others say of it.

The first member that applies something tells: its rows are read right after they are written. So
the whole history is known, with the time of each revision, whatever is compacted afterwards; that
all members have the same rows at the same applied index is checked elsewhere.

Against it are held what watchers are delivered (I32 to I40), when keys of leases go (I41 to I44),
and that nobody reads what was compacted (I30).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from attrs import define, evolve, field

from raftkv.kv.history import Wanted, changes_between
from raftkv.kv.model import EVERYTHING, FIRST_REVISION, Change, EventKind, KeyEvent
from raftkv.kv.reader import read_head
from raftkv.storage.base import Reader
from raftkv.testing.histories.kv import Written
from raftkv.testing.invariants import broken

_ALL: Final = Wanted(EVERYTHING, previous=True)
_NS: Final = 10**9


class Chronicle:
    """All changes of one run's store."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        """``now_ns`` is the world's time."""
        self._now_ns = now_ns
        self._changes: list[Change] = []
        self._times_ns: list[int] = []
        self.floor = 0
        """The highest that any member had."""
        self.acknowledged = FIRST_REVISION
        """The latest revision that any client was told."""
        self.compacted = 0
        """The latest floor that a client was told."""

    @property
    def revision(self) -> int:
        """The latest that any member reached."""
        return FIRST_REVISION + len(self._changes)

    @property
    def now_ns(self) -> int:
        """The world's time."""
        return self._now_ns()

    def time_ns(self, revision: int) -> int:
        """When the first member reached it."""
        return self._times_ns[revision - FIRST_REVISION - 1]

    def applied(self, store: Reader) -> None:
        """A member applied something: read what nobody had told yet.

        Raises StorageCorruptError if there is a revision in which nothing happened.
        """
        head = read_head(store)
        self.floor = max(self.floor, head.floor)
        if head.revision <= self.revision:
            return
        # Rows below the floor are still there: a sweep is only proposed once a compaction is
        # applied, and whoever proposes it applied all before, too.
        start, until = self.revision + 1, head.revision + 1
        for change in changes_between(store, _ALL, start, until, floor=0):
            self._changes.append(change)
            self._times_ns.append(self._now_ns())

    def told(self, revision: int) -> None:
        """A client was told this revision."""
        self.acknowledged = max(self.acknowledged, revision)

    def changes(self, start: int, stop: int) -> Iterator[Change]:
        """Those of the revisions from ``start`` up to and excluding ``stop``, as far as known."""
        first = max(0, start - FIRST_REVISION - 1)
        yield from self._changes[first : max(first, stop - FIRST_REVISION - 1)]

    def written(self) -> Iterator[Written]:
        """All of it, as the checker of histories wants it."""
        for change in self._changes:
            for event in change.events:
                value = None if event.kind is EventKind.DELETE else event.kv.value
                yield Written(change.revision, event.kv.key, value)


# --- watchers -------------------------------------------------------------------------------------


@define(eq=False)
class WatchAccount:
    """One watcher, on one member after the other: what it saw is what happened, once and whole."""

    name: str
    chronicle: Chronicle
    wanted: Wanted
    next: int = 0
    """The first revision that it has not seen; 0: it did not begin yet."""
    seen: int = 0

    def began(self, next_revision: int, acknowledged: int) -> None:
        """It watches a member from ``next_revision`` on; ``acknowledged`` was told before."""
        if self.next:
            if next_revision != self.next:
                raise broken("I36", f"{self.name} resumes at {next_revision}, not {self.next}")
            return
        if next_revision <= acknowledged:
            raise broken(
                "I38", f"{self.name} watches from {next_revision}, but {acknowledged} was before"
            )
        self.next = next_revision

    def compacted(self, floor: int) -> None:
        """It heard that what it lacks is forgotten below ``floor``."""
        if self.next >= floor or floor > self.chronicle.floor:
            raise broken(
                "I36",
                f"{self.name} at {self.next} is told to resume from {floor}, "
                f"where {self.chronicle.floor} is compacted",
            )
        self.next = floor

    def saw(self, change: Change) -> None:
        """It was delivered this."""
        revision, chronicle = change.revision, self.chronicle
        if revision > chronicle.revision:
            raise broken("I40", f"{self.name} sees revision {revision}, which nobody applied")
        if not change.events:
            self._lacks_nothing("I37", revision + 1)
            self.next = max(self.next, revision + 1)
            return
        if revision < self.next:
            raise broken("I33", f"{self.name} sees revision {revision}, but is at {self.next}")
        self._lacks_nothing("I34", revision)
        (whole,) = chronicle.changes(revision, revision + 1)
        expected = tuple(self._events_of(whole))
        if len(change.events) != len(expected):
            raise broken("I35", f"{self.name} sees a part of revision {revision}: {change}")
        for event, other in zip(change.events, expected, strict=True):
            # What a version replaced may be gone with the floor at it.
            if event != other and (
                revision > chronicle.floor or event != evolve(other, previous=None)
            ):
                raise broken("I39", f"{self.name} sees {event}, where {other} happened")
        self.seen += 1
        self.next = revision + 1

    def _lacks_nothing(self, invariant: str, stop: int) -> None:
        for change in self.chronicle.changes(self.next, stop):
            if any(True for _ in self._events_of(change)):
                raise broken(invariant, f"{self.name} did not see revision {change.revision}")

    def _events_of(self, change: Change) -> Iterator[KeyEvent]:
        wanted = self.wanted
        start, stop = wanted.span.start, wanted.span.stop
        for event in change.events:
            key = event.kv.key
            is_put = event.kind is EventKind.PUT
            is_inside = key >= start and (stop is None or key < stop)
            if is_inside and (wanted.puts if is_put else wanted.deletes):
                yield event if wanted.previous else evolve(event, previous=None)


# --- leases ---------------------------------------------------------------------------------------


@define(eq=False)
class LeaseAccount:
    """One lease, as the client knows it that has it."""

    id: int
    ttl: int
    renewals: list[tuple[int, int]] = field(factory=list[tuple[int, int]])
    """Grants and renewals that were acknowledged: when asked for, and when it was heard."""
    revoke_ns: int | None = None
    """When its end was asked for first."""
    revoked_ns: int | None = None
    """When its end was acknowledged."""


def check_leases(chronicle: Chronicle, accounts: Iterable[LeaseAccount], *, clock_skew: int) -> int:
    """I41 to I44: how many leases ended by their time. ``clock_skew`` is in per cent."""
    known = {one.id: one for one in accounts}
    ends: dict[int, int] = {}
    for change in chronicle.changes(0, chronicle.revision + 1):
        for event in change.events:
            before = event.previous
            if event.kind is EventKind.DELETE and before is not None and before.lease in known:
                ends.setdefault(before.lease, change.revision)
    expired = 0
    for lease, revision in ends.items():
        account, end_ns = known[lease], chronicle.time_ns(revision)
        if account.revoke_ns is None or account.revoke_ns > end_ns:
            expired += 1
            _not_early(account, end_ns, clock_skew)
        for asked_ns, _ in account.renewals[1:]:
            if asked_ns > end_ns:
                raise broken("I42", f"lease {lease} was renewed after it ended at {revision}")
    for account in known.values():
        for asked_ns, _ in account.renewals[1:]:
            if account.revoked_ns is not None and asked_ns > account.revoked_ns:
                raise broken("I42", f"lease {account.id} was renewed after it was revoked")
    return expired


def _not_early(account: LeaseAccount, end_ns: int, clock_skew: int) -> None:
    """I41, I44: whoever keeps it, and however often that changed."""
    promised_ns = account.ttl * _NS * (100 - clock_skew) // 100
    for asked_ns, heard_ns in account.renewals:
        if heard_ns <= end_ns < asked_ns + promised_ns:
            raise broken(
                "I41",
                f"lease {account.id} of {account.ttl} s ended {(end_ns - asked_ns) / 1e9} s after "
                "it was renewed",
            )
