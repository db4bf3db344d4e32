"""Whether a history of the KV is strictly serializable, by the revisions that answers name.

Nothing has to be searched. A write's answer is the revision it made, so writes are put at their
revisions, each with the reads that were answered as of it behind it, and the history is run again
on a plain store (:class:`~raftkv.testing.histories.reference.ReferenceKv`): every answer must come
out the same, and no revision may have two causes or none. Then one sweep through time: what an
operation belongs to may not lie behind anything that had returned before it was called. The cost is
that of sorting; transactions and ranges over many keys are nothing special.

A write whose outcome its client does not know is taken from the committed log, if that is given: it
happened if the log has its effect. Without the log a revision that nobody was answered is given to
the only write that can have made it, as later answers show it; where several can, the checker says
so (inconclusive) instead of guessing.

Leases end without being asked to. A history has that as a :class:`Revoke` that nobody heard of,
called when the lease was granted: it happened, at most once, if the log has just its keys deleted.

A Get does not name the store's revision, only that of the version it shows. It belongs to any
revision at which that version was in force; the sweep takes the lowest that time allows, which
leaves the most room to all others. A serializable read may show the past, but never the future.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Final

from raftkv.errors import InvalidArgumentError
from raftkv.testing.histories.kv import (
    DeleteOne,
    DeleteResult,
    DeleteSpan,
    Get,
    KeyValue,
    KvOperation,
    KvRequest,
    KvResponse,
    Put,
    PutResult,
    Range,
    RangeResult,
    Revoke,
    Txn,
    TxnResult,
    Written,
)
from raftkv.testing.histories.operations import Outcome
from raftkv.testing.histories.reference import FIRST_REVISION, ReferenceKv, Versions
from raftkv.testing.histories.verdict import Verdict, right, undecided, wrong

CHECKER: Final = "by revisions"
_NEVER: Final = (inf, -1)

_WRITES = (Put, DeleteOne, DeleteSpan, Txn, Revoke)
_Effect = tuple[bytes, bytes | None]
_Changes = Mapping[bytes, bytes | None]


def check_revisions(
    history: Iterable[KvOperation], log: Iterable[Written] | None = None
) -> Verdict:
    """Judge a history that began on an empty store; ``log`` is what members hold as committed."""
    try:
        run = _Run(history, log)
        run.sort()
        run.replay()
        run.check_gets()
        run.check_time()
    except _VerdictError as found:
        return found.verdict
    return right(CHECKER, run.facts())


class _VerdictError(Exception):
    def __init__(self, verdict: Verdict) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict


def _refuse(what: str, *operations: KvOperation | None) -> _VerdictError:
    return _VerdictError(wrong(CHECKER, what, operations))


class _Run:
    """One check: what is known of the history so far."""

    def __init__(self, history: Iterable[KvOperation], log: Iterable[Written] | None) -> None:
        self.met = sorted(history, key=lambda one: one.call_at)
        self.log = None if log is None else _changes_of(log)
        self.last = FIRST_REVISION if self.log is None else FIRST_REVISION + len(self.log)
        self.place: dict[int, int] = {}
        """Of an operation, by its number in ``met``: the revision it belongs to."""
        self.writer: dict[int, int] = {}
        """Of each revision: the number of the write that made it."""
        self.reads: defaultdict[int, list[int]] = defaultdict(list)
        """Of each revision: what is to be compared with the store as it was then."""
        self.gets: list[int] = []
        self.serializable: set[int] = set()
        self.unknown: defaultdict[_Effect | None, list[int]] = defaultdict(list)
        """Writes that may have happened, by key and value; under None those of several keys."""
        self.shown: dict[int, KeyValue] = {}
        """By its revision a version that somebody was shown."""
        self.versions = Versions()
        self.resolved = 0
        self.guessed: KvOperation | None = None
        """An unknown write that was chosen among several kinds of them."""

    def sort(self) -> None:
        """Put operations at the revisions that they name."""
        for number, one in enumerate(self.met):
            if one.return_at is not None and one.return_at < one.call_at:
                raise InvalidArgumentError(f"an operation returned before it was called: {one}")
            if one.outcome is Outcome.OK:
                self._sort_answered(number, one)
            elif one.outcome is Outcome.UNKNOWN and isinstance(one.request, _WRITES):
                self.unknown[_effect(one.request)].append(number)

    def _sort_answered(self, number: int, one: KvOperation) -> None:
        request, response = one.request, one.response
        if type(request) is Put and type(response) is PutResult:
            revision = response.revision
            self._claim(revision, number, one)
        elif isinstance(request, Get | Range):
            revision = self._sort_read(number, one, request)
        elif type(request) is Txn and type(response) is TxnResult:
            # Whether it wrote is read off its answers; the replay compares them with the effect.
            revision = response.revision
            if any(_changed(each) for each in response.responses):
                self._claim(revision, number, one)
            else:
                self._compare_at(revision, number)
        elif isinstance(request, DeleteOne | DeleteSpan) and type(response) is DeleteResult:
            revision = response.revision
            if response.deleted:
                self._claim(revision, number, one)
            else:
                self._compare_at(revision, number)
        else:
            raise _refuse("an answer of the wrong kind", one)
        if revision < FIRST_REVISION and number in self.place:
            raise _refuse(f"an answer names revision {revision}; the first is 1", one)
        if self.log is not None and revision > self.last:
            raise _refuse(
                f"an answer names revision {revision}, but the committed log ends at {self.last}:"
                " an acknowledged write is lost",
                one,
            )
        self.last = max(self.last, revision)

    def _sort_read(self, number: int, one: KvOperation, request: Get | Range) -> int:
        response = one.response
        if request.serializable:
            self.serializable.add(number)
        if type(request) is Get and (response is None or type(response) is KeyValue):
            self.gets.append(number)
            if response is None:
                return request.revision
            self.shown[response.mod_revision] = response
            return max(response.mod_revision, request.revision)
        if type(request) is not Range or type(response) is not RangeResult:
            raise _refuse("an answer of the wrong kind", one)
        revision = response.revision
        if request.revision > revision:
            raise _refuse(f"a range at revision {request.revision}, which is yet to be", one)
        self._compare_at(request.revision or revision, number)
        self.place[number] = revision
        if not request.keys_only:
            for item in response.items:
                self.shown[item.mod_revision] = item
        return revision

    def _compare_at(self, revision: int, number: int) -> None:
        self.reads[revision].append(number)
        self.place[number] = revision

    def _claim(self, revision: int, number: int, one: KvOperation) -> None:
        other = self.writer.setdefault(revision, number)
        if other != number:
            raise _refuse(f"revision {revision} was answered to two writes", self.met[other], one)
        if revision <= FIRST_REVISION:
            raise _refuse(f"a write was answered revision {revision}, which was the beginning", one)
        self.place[number] = revision

    # --- the answers ----------------------------------------------------------------------------

    def replay(self) -> None:
        """Run all again in the order of revisions, and compare the answers."""
        store = ReferenceKv()
        met, writer, reads, note = self.met, self.writer, self.reads, self.versions.note
        ok = Outcome.OK
        for number in reads.get(store.revision, ()):
            self._compare(store, met[number])
        for revision in range(FIRST_REVISION + 1, self.last + 1):
            number = writer.get(revision)
            if number is None:
                number = self._find_writer(store, revision)
            one = met[number]
            response = store.apply(one.request)
            if one.outcome is ok and response != one.response:
                raise self._wrong_answer(one, response)
            if store.revision != revision:
                raise self._failed(f"a write that changes nothing made revision {revision}", one)
            if self.log is not None:
                self._compare_log(store, revision, one)
            note(revision, store.changed)
            if revision in reads:
                for number in reads[revision]:
                    self._compare(store, met[number])

    def _compare(self, store: ReferenceKv, one: KvOperation) -> None:
        request, response = one.request, one.response
        if type(request) is Range and type(response) is RangeResult:
            expected: KvResponse = store.range(request)
            if request.revision:
                expected = RangeResult(
                    expected.items, expected.count, expected.more, response.revision
                )
        else:
            expected = store.apply(request)
            if store.changed:
                raise self._failed(f"it should have changed something, but {response}", one)
        if expected != response:
            raise self._wrong_answer(one, expected)

    def _compare_log(self, store: ReferenceKv, revision: int, one: KvOperation) -> None:
        log = self.log or ()
        logged = log[revision - FIRST_REVISION - 1]
        if logged != _values(store.changed):
            raise self._failed(
                f"an acknowledged write is lost: revision {revision} changed {logged}"
                " in the committed log",
                one,
            )

    def _wrong_answer(self, one: KvOperation, expected: KvResponse) -> _VerdictError:
        return self._failed(f"a wrong answer, it should have been {expected}", one)

    def _failed(self, what: str, *operations: KvOperation | None) -> _VerdictError:
        """Wrong, unless an unknown write was guessed before: then another guess may be right."""
        if self.guessed is None:
            return _refuse(what, *operations)
        guess = f"{what}, if {self.guessed.request} happened where it could have"
        return _VerdictError(undecided(CHECKER, guess, (*operations, self.guessed)))

    # --- unknown outcomes -----------------------------------------------------------------------

    def _find_writer(self, store: ReferenceKv, revision: int) -> int:
        """The write that made a revision which nobody was answered."""
        logged = None if self.log is None else self.log[revision - FIRST_REVISION - 1]
        shown = self.shown.get(revision)
        able = self._able(store, logged, shown)
        if not able:
            made = logged or (shown and {shown.key: shown.value}) or "something"
            raise self._failed(
                f"revision {revision} made {made}, and nobody asked for that"
                " (or it surely failed, or was done before)",
                *self._failed_like(store, logged, shown),
            )
        # Of those that do the same the one called first: it fits the time if any of them does.
        number = able[0]
        first = self.met[number]
        others = [self.met[one] for one in able[1:]]
        if others and logged is None and shown is None:
            raise _VerdictError(
                undecided(
                    CHECKER,
                    f"nobody knows who made revision {revision}: give the committed log",
                    (first, *others),
                )
            )
        if others and self.guessed is None:
            self.guessed = first
        self.unknown[_effect(first.request)].remove(number)
        self.place[number] = revision
        self.writer[revision] = number
        self.resolved += 1
        return number

    def _able(
        self, store: ReferenceKv, logged: _Changes | None, shown: KeyValue | None
    ) -> list[int]:
        """Unknown writes that would make this very revision: of each kind the one called first."""
        effects: Iterable[_Effect | None]
        if logged is not None:
            effects = [*logged.items(), None] if len(logged) == 1 else [None]
        elif shown is not None:
            effects = [(shown.key, shown.value), None]
        else:
            effects = list(self.unknown)
        able: list[int] = []
        for effect in effects:
            tried: set[KvRequest] = set()
            for number in self.unknown.get(effect, ()):
                request = self.met[number].request
                if request in tried or not _would_make(store, request, logged, shown):
                    continue
                able.append(number)
                if effect is not None:
                    break
                tried.add(request)
        return sorted(able)

    def _failed_like(
        self, store: ReferenceKv, logged: _Changes | None, shown: KeyValue | None
    ) -> list[KvOperation]:
        """Writes that surely failed, and yet would explain it."""
        return [
            one
            for one in self.met
            if one.outcome is not Outcome.UNKNOWN
            and isinstance(one.request, _WRITES)
            and _would_make(store, one.request, logged, shown)
        ][:3]

    # --- gets -----------------------------------------------------------------------------------

    def check_gets(self) -> None:
        """What a get shows must have been there, at the revision it names."""
        at = self.versions.at
        for number in self.gets:
            one = self.met[number]
            request, response = one.request, one.response
            if type(request) is not Get:
                continue
            if request.revision:
                if at(request.key, request.revision) != response:
                    raise self._wrong_answer(one, at(request.key, request.revision))
            elif type(response) is KeyValue:
                expected = at(request.key, response.mod_revision)
                if expected != response:
                    raise self._wrong_answer(one, expected)

    # --- time -----------------------------------------------------------------------------------

    def check_time(self) -> None:
        """Nothing that had returned may lie behind what was called afterwards."""
        met, place, writer, serializable = self.met, self.place, self.writer, self.serializable
        ok = Outcome.OK
        pairs = [
            (one.return_at, number)
            for number, one in enumerate(met)
            if one.outcome is ok and one.return_at is not None and number not in serializable
        ]
        pairs.sort()
        returns = iter(pairs)
        return_at, returned = next(returns, _NEVER)
        floor, cause = FIRST_REVISION, -1
        for number, one in enumerate(met):
            call_at = one.call_at
            while return_at < call_at:
                if place[returned] > floor:
                    floor, cause = place[returned], returned
                return_at, returned = next(returns, _NEVER)
            if number in serializable:
                continue
            if type(one.request) is Get:
                if one.outcome is ok:
                    place[number] = self._place_of_get(number, one.request, floor, cause)
                continue
            revision = place.get(number)
            if revision is None:
                continue
            if revision < floor or (revision == floor and writer.get(revision) == number):
                raise self._too_old(number, revision, floor, cause)
        self._check_future()

    def _place_of_get(self, number: int, get: Get, floor: int, cause: int) -> int:
        if get.revision:
            return max(floor, get.revision)  # it shows no more than that this revision was reached
        response = self.met[number].response
        if type(response) is not KeyValue:
            absent = self.versions.first_absence(get.key, floor)
            if absent is None:
                raise self._too_old(number, floor - 1, floor, cause)
            return absent
        until = self.versions.until(get.key, response.mod_revision)
        if until is not None and until <= floor:
            raise self._too_old(number, until - 1, floor, cause)
        return max(floor, response.mod_revision)

    def _too_old(self, number: int, revision: int, floor: int, cause: int) -> _VerdictError:
        is_write = self.writer.get(revision) == number
        newest = self.writer.get(floor)
        return self._failed(
            f"{'a write goes back in time' if is_write else 'a stale read'}: it is as of revision"
            f" {revision}, but {floor} was known before it was called",
            self.met[cause] if cause >= 0 else None,
            None if newest is None else self.met[newest],
            self.met[number],
        )

    def _check_future(self) -> None:
        """A serializable read may be old, but it cannot show what was asked for after it."""
        if not self.serializable:
            return
        last_called: list[int] = []  # up to each revision, the write that was called last
        for revision in range(FIRST_REVISION + 1, self.last + 1):
            number = self.writer[revision]
            last_called.append(max(number, last_called[-1]) if last_called else number)
        for one in [self.met[number] for number in sorted(self.serializable)]:
            response = one.response
            revision = FIRST_REVISION
            if isinstance(response, RangeResult):
                revision = response.revision
            elif isinstance(response, KeyValue):
                revision = response.mod_revision
            if revision == FIRST_REVISION or one.return_at is None:
                continue
            write = self.met[last_called[revision - FIRST_REVISION - 1]]
            if write.call_at > one.return_at:
                raise self._failed(
                    f"a read shows revision {revision} before that was asked for", one, write
                )

    def facts(self) -> dict[str, int]:
        """What it looked at, as numbers."""
        met = self.met
        return {
            "operations": len(met),
            "revisions": self.last,
            "acknowledged writes": len(self.writer) - self.resolved,
            "unknown outcomes": sum(one.outcome is Outcome.UNKNOWN for one in met),
            "unknown but done": self.resolved,
            "answers": sum(one.outcome is Outcome.OK for one in met),
        }


def _changes_of(log: Iterable[Written]) -> Sequence[_Changes]:
    """What each revision changed. Raises a verdict if one is missing."""
    found: list[dict[bytes, bytes | None]] = []
    for one in log:
        expected = FIRST_REVISION + len(found) + 1
        if one.revision == expected:
            found.append({})
        elif not found or one.revision != expected - 1:
            raise _refuse(f"revision {expected} is missing in the log: {one} follows")
        found[-1][one.key] = one.value
    return found


def _values(changed: Mapping[bytes, KeyValue | None]) -> _Changes:
    return {key: None if one is None else one.value for key, one in changed.items()}


def _changed(answer: KvResponse) -> bool:
    return isinstance(answer, PutResult) or (
        isinstance(answer, DeleteResult) and answer.deleted > 0
    )


def _effect(request: KvRequest) -> _Effect | None:
    if isinstance(request, Put):
        return request.key, request.value
    return (request.key, None) if isinstance(request, DeleteOne) else None


def _would_make(
    store: ReferenceKv, request: KvRequest, logged: _Changes | None, shown: KeyValue | None
) -> bool:
    """Whether the request, done now, would write what the log has and answers show."""
    current: Mapping[bytes, KeyValue] = store.current
    if isinstance(request, Put | DeleteOne):  # without a copy of all
        old = store.current.get(request.key)
        current = {} if old is None else {request.key: old}
    trial = ReferenceKv(store.revision, current)
    trial.apply(request)
    if not trial.changed or (logged is not None and _values(trial.changed) != logged):
        return False
    return shown is None or trial.changed.get(shown.key) == shown
