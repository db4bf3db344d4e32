"""What clients saw, held against what a cluster wrote: strict serializability by revisions.

Every acknowledgement and every read names a revision, and the members' own rows tell which write
each revision was. So nothing has to be searched: operations are placed at their revisions, writes
before the reads that show them, and two questions remain. Does each answer fit the store as it was
at its revision? And did nothing that had returned lie behind something that was only asked for
afterwards? Outcomes that a client does not know are taken from the rows, never guessed. Values are
unique, so a value names its put.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Final, cast

from attrs import define, frozen

from raftkv.testing.campaigns.frame import FindingError

FIRST_REVISION: Final = 1


class Kind(Enum):
    """What a client asked for."""

    PUT = "put"
    DELETE = "delete"
    RANGE = "range"  # a read whose answer names the store's revision
    GET = "get"  # a read whose answer names the key's revision alone
    STALE = "stale"  # a serializable read: right at its revision, however old


class Outcome(Enum):
    """How it ended for the client."""

    DONE = "done"
    FAILED = "failed"  # surely not done, says the error
    UNKNOWN = "unknown"  # perhaps done, says the error, or nobody is left to say


@frozen
class Written:
    """One revision of the store: the write that made it."""

    revision: int
    key: str
    value: str | None
    """None: a deletion."""


@define
class Operation:
    """One call of one client; times are nanoseconds of the machine's monotonic clock."""

    kind: Kind
    key: str
    value: str | None
    """Of a put: what was put. Of a read that was done: what it showed, None for nothing."""
    invoked_ns: int
    returned_ns: int = 0
    outcome: Outcome = Outcome.UNKNOWN
    revision: int = 0
    """Of a write or range: the one answered. Of a get: when its value was put, 0 for nothing."""
    deleted: int = 0
    """Of a delete that was done: how many keys."""
    who: str = ""

    @property
    def is_write(self) -> bool:
        """Whether it was to change something."""
        return self.kind in (Kind.PUT, Kind.DELETE)

    def __str__(self) -> str:
        shown = f"{self.kind.value} {self.key}"
        shown += "" if self.value is None else f" = {self.value}"
        return f"{shown} by {self.who} at {self.invoked_ns} ({self.outcome.value})"


class Store:
    """The store at every revision, as the members' rows tell it."""

    def __init__(self, log: Sequence[Written]) -> None:
        self.log = log
        self.by_revision: dict[int, Written] = {}
        self.revision_of: dict[str, int] = {}  # of each value
        self._changes: defaultdict[str, list[int]] = defaultdict(list)
        for number, written in enumerate(log, FIRST_REVISION + 1):
            if written.revision != number:
                raise FindingError(f"revision {number} is missing: {written} follows")
            self.by_revision[number] = written
            self._changes[written.key].append(number)
            if written.value is not None:
                if written.value in self.revision_of:
                    raise FindingError(
                        f"{written.value} was applied twice: at revisions"
                        f" {self.revision_of[written.value]} and {number}"
                    )
                self.revision_of[written.value] = number

    @property
    def revision(self) -> int:
        """The last revision."""
        return FIRST_REVISION + len(self.log)

    def value_at(self, key: str, revision: int) -> str | None:
        """What ``key`` was right after ``revision``."""
        changes = self._changes.get(key, [])
        place = bisect_right(changes, revision)
        return self.by_revision[changes[place - 1]].value if place else None

    def changed_after(self, key: str, revision: int) -> int | None:
        """The first revision after ``revision`` that changed ``key``."""
        changes = self._changes.get(key, [])
        place = bisect_right(changes, revision)
        return changes[place] if place < len(changes) else None

    def absences(self, key: str) -> Iterator[tuple[int, int | None]]:
        """From which revision up to and excluding which (None: to the end) ``key`` was absent."""
        since: int | None = FIRST_REVISION
        for revision in self._changes.get(key, []):
            if self.by_revision[revision].value is None:
                since = revision if since is None else since
            elif since is not None:
                yield since, revision
                since = None
        if since is not None:
            yield since, None


def check_history(log: Sequence[Written], operations: Iterable[Operation]) -> dict[str, int]:
    """Hold a history against the rows. Returns what it held; raises FindingError."""
    store = Store(log)
    met = sorted(operations, key=lambda one: one.invoked_ns)
    resolved = _resolve(store, met)
    _check_answers(store, met)
    _check_real_time(store, met, resolved)
    done = sum(one.outcome is Outcome.DONE for one in met)
    return {
        "operations": len(met),
        "acknowledged writes": sum(one.is_write and one.outcome is Outcome.DONE for one in met),
        "unknown outcomes": sum(one.outcome is Outcome.UNKNOWN for one in met),
        "unknown but done": len(resolved),
        "answers": done,
    }


def _resolve(store: Store, met: Sequence[Operation]) -> dict[int, int]:
    """Every revision has a cause; those of unknown outcome by their place in ``met``."""
    resolved: dict[int, int] = {}
    caused: set[int] = set()
    deletes: defaultdict[str, list[int]] = defaultdict(list)
    for place, one in enumerate(met):
        if one.kind is Kind.PUT:
            revision = _revision_of_put(store, one)
            if revision is not None:
                caused.add(revision)
                if one.outcome is Outcome.UNKNOWN:
                    resolved[place] = revision
        elif one.kind is Kind.DELETE and one.outcome is Outcome.DONE and one.deleted:
            _check_write(store, one, None)
            if one.revision in caused:
                raise FindingError(f"revision {one.revision} was answered to two: {one}")
            caused.add(one.revision)
        elif one.kind is Kind.DELETE and one.outcome is Outcome.UNKNOWN:
            deletes[one.key].append(place)
    for written in store.log:
        if written.revision in caused:
            continue
        if written.value is not None or not deletes[written.key]:
            raise FindingError(f"{written} was never asked for, or failed for sure")
        # Earlier ones first: if any assignment fits the real-time order, this one does.
        resolved[deletes[written.key].pop(0)] = written.revision
    return resolved


def _revision_of_put(store: Store, one: Operation) -> int | None:
    """Where a put stands, if it stands anywhere; acknowledged ones must stand where was said."""
    if one.outcome is Outcome.DONE:
        _check_write(store, one, one.value)
        return one.revision
    revision = store.revision_of.get(str(one.value))
    if revision is None:
        return None
    if one.outcome is Outcome.FAILED:
        raise FindingError(f"{one} failed for sure, yet revision {revision} has it")
    if store.by_revision[revision].key != one.key:
        raise FindingError(f"{one} stands at another key: {store.by_revision[revision]}")
    return revision


def _check_write(store: Store, one: Operation, value: str | None) -> None:
    found = store.by_revision.get(one.revision)
    if found != Written(one.revision, one.key, value):
        raise FindingError(
            f"an acknowledged write is lost: {one} as revision {one.revision}, which is {found}"
        )


def _check_answers(store: Store, met: Sequence[Operation]) -> None:
    for one in met:
        if one.outcome is not Outcome.DONE:
            continue
        if one.revision > store.revision:
            raise FindingError(f"{one} names revision {one.revision}, the last is {store.revision}")
        if one.kind is Kind.DELETE and not one.deleted:
            shown = store.value_at(one.key, one.revision)
            if shown is not None:
                raise FindingError(f"{one} found nothing at {one.revision}, there was {shown}")
        elif one.kind in (Kind.RANGE, Kind.STALE):
            shown = store.value_at(one.key, one.revision)
            if shown != one.value:
                raise FindingError(
                    f"a wrong answer: {one} as of revision {one.revision}, there was {shown}"
                )
        elif one.kind is Kind.GET and one.revision:
            found = store.by_revision[one.revision]
            if found != Written(one.revision, one.key, one.value):
                raise FindingError(
                    f"a wrong answer: {one}, put at {one.revision}, which is {found}"
                )


def _check_real_time(store: Store, met: Sequence[Operation], resolved: Mapping[int, int]) -> None:
    """Nothing that had returned may lie behind what was invoked afterwards.

    A single sweep through time. The floor is the highest revision that anybody had seen: reads
    begun now must show it, writes begun now come after it. A get fixes no revision, only a span of
    them; taking the lowest that the floor allows leaves the most room to all others.
    """
    events: list[tuple[int, int, int]] = []  # time, 0 returned or 1 invoked, place in met
    for place, one in enumerate(met):
        # An answer and a call at the same nanosecond are concurrent: the call goes first.
        events.append((one.invoked_ns, 0, place))
        if one.outcome is Outcome.DONE and one.kind is not Kind.STALE:
            events.append((one.returned_ns, 1, place))
    events.sort()
    floor, cause = FIRST_REVISION, "the beginning"
    at: dict[int, int] = {}
    for _, has_returned, place in events:
        one = met[place]
        if has_returned:
            if at[place] > floor:
                floor, cause = at[place], str(one)
            continue
        revision = _place_of(store, one, resolved.get(place), floor)
        if revision is None:
            continue
        at[place] = revision
        is_change = one.is_write and (
            one.outcome is Outcome.UNKNOWN or one.kind is Kind.PUT or one.deleted
        )
        if revision < floor or (is_change and revision == floor):
            raise FindingError(
                f"{'a write goes back in time' if is_change else 'a stale read'}: {one} is as of"
                f" revision {revision}, but {floor} was known when it began, by {cause}"
            )


def _place_of(store: Store, one: Operation, resolved: int | None, floor: int) -> int | None:
    """The revision that an operation belongs to; None if it has none."""
    if one.kind is Kind.STALE or one.outcome is Outcome.FAILED:
        return None
    if one.outcome is Outcome.UNKNOWN:
        return resolved
    if one.kind is not Kind.GET:
        return one.revision
    if one.revision:
        until = store.changed_after(one.key, one.revision)
        return max(floor, one.revision) if until is None or floor < until else until - 1
    last = FIRST_REVISION  # every key was absent then
    for since, until in store.absences(one.key):
        if until is None or floor < until:
            return max(floor, since)
        last = until - 1
    return last


# --- files of histories -------------------------------------------------------------------------


def read_history(path: Path) -> list[Operation]:
    """What the clients of one process noted; the last line may be torn by its death.

    Two lines an operation: ``[number, kind, key, value, time]`` as it is asked for and ``[number,
    outcome, time, revision, deleted, value]`` once it is answered.
    """
    met: dict[int, Operation] = {}
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = text.split("\n")[:-1]
    for line in lines:
        words = cast("list[object]", json.loads(line))
        number = cast("int", words[0])
        if number not in met:
            _, kind, key, value, time_ns = words
            met[number] = Operation(
                Kind(kind), str(key), cast("str | None", value), cast("int", time_ns), who=path.stem
            )
            continue
        one = met[number]
        _, outcome, time_ns, revision, deleted, value = words
        one.outcome = Outcome(outcome)
        one.returned_ns = cast("int", time_ns)
        one.revision = cast("int", revision)
        one.deleted = cast("int", deleted)
        if not one.is_write:
            one.value = cast("str | None", value)
    return list(met.values())
