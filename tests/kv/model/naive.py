"""The dumbest KV there is: everything there was after each revision, in a dictionary of its own.

It knows the words of requests and answers and nothing else of raftkv. A transaction works on a copy
that is kept or thrown away; the keys of a lease are those that name it; events are written down as
they happen; compaction is a number below which it refuses to look.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from attrs import evolve, frozen

from raftkv.kv.model import (
    Change,
    CompactResult,
    DeleteResult,
    Done,
    EventKind,
    KeyEvent,
    KeyValue,
    LeaseResult,
    OperationResult,
    PutResult,
    RangeResult,
    Refusal,
    SessionResult,
    Span,
    TxnResult,
)
from raftkv.kv.requests import (
    AlarmKind,
    Checkpoint,
    Compact,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteOne,
    DeleteSpan,
    Expire,
    Grant,
    KvCommand,
    Once,
    OpenSession,
    Operation,
    Put,
    Range,
    Revoke,
    SetAlarm,
    SortOrder,
    SortTarget,
    Sweep,
    TakeOver,
    Txn,
)

UNANSWERED_MAX: Final = 65_536

State: TypeAlias = dict[bytes, KeyValue]


@frozen
class No:
    """Refused: why, and the revision that the error carries."""

    why: Refusal
    revision: int = 0


Answer: TypeAlias = "OperationResult | CompactResult | LeaseResult | SessionResult | Done | No"


class Session:
    """What was answered, by sequence, and below which sequence nobody asks any more."""

    def __init__(self, lease: int) -> None:
        self.lease = lease
        self.results: dict[int, Answer] = {}
        self.answered = 0


class NoError(Exception):
    """How a refusal leaves the middle of a command."""

    def __init__(self, why: Refusal, revision: int = 0) -> None:
        super().__init__(why)
        self.no = No(why, revision)


class Model:
    """``states[revision]`` is everything there was after it, ``events[revision]`` its news.

    A command may delete ``keys_max`` keys by spans, and a lease have so many. Keys are short here:
    each counts once.
    """

    def __init__(self, keys_max: int = 20_000) -> None:
        self.keys_max = keys_max
        self.states: list[State] = [{}, {}]
        self.events: list[list[KeyEvent]] = [[], []]
        self.floor = 0
        self.leases: dict[int, int] = {}
        self.grants = 0
        self.remaining: dict[int, int] = {}
        self.keeper = 0
        self.alarms: set[tuple[int, AlarmKind]] = set()
        self.sessions: dict[int, Session] = {}

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    @property
    def now(self) -> State:
        return self.states[-1]

    def keys_of(self, lease: int) -> list[bytes]:
        return [key for key in sorted(self.now) if self.now[key].lease == lease]

    # --- commands -------------------------------------------------------------------------------

    def apply(self, command: KvCommand, *, chosen: int = 0) -> Answer:
        """What a store answers; ``chosen`` is the id of a lease that is granted without one."""
        try:
            return self._apply(command, chosen)
        except NoError as error:
            return error.no

    def _apply(self, command: KvCommand, chosen: int) -> Answer:
        match command:
            case Put() | DeleteOne() | DeleteSpan():
                return self._write((command,))[0]
            case Txn():
                return self._txn(command)
            case Compact(revision):
                return self._compact(revision)
            case Grant(lease, ttl):
                return self._grant(lease or chosen, ttl)
            case Revoke(lease):
                if lease not in self.leases:
                    raise NoError(Refusal.LEASE_NOT_FOUND)
                self._revoke(lease)
            case TakeOver(keeper):
                self._take_over(keeper)
            case Expire(keeper, leases):
                self._check_keeper(keeper)
                return self._expire(leases)
            case Checkpoint(keeper, remaining):
                self._check_keeper(keeper)
                for lease, seconds in remaining:
                    if lease in self.leases:
                        self.remaining[lease] = seconds
            case SetAlarm(member, kind, active):
                if active:
                    self.alarms.add((member, kind))
                else:
                    self.alarms.discard((member, kind))
            case OpenSession(lease, ttl):
                self._grant(lease, ttl)
                self.sessions[self.grants] = Session(lease)
                return SessionResult(self.grants, lease, self.revision)
            case Sweep():
                pass
            case Once():
                raise TypeError("say what it does: Model.once")
        return Done(self.revision)

    def once(self, session: int, sequence: int, answered: int, command: KvCommand) -> Answer:
        """The command in a session: what it gave first, or what it gives."""
        found = self.sessions.get(session)
        if found is None:
            return No(Refusal.SESSION_NOT_FOUND)
        if sequence < max(answered, found.answered):
            return No(Refusal.INVALID)
        if sequence in found.results:
            found.answered = max(answered, found.answered)
            return found.results[sequence]
        if sequence - max(answered, found.answered) >= UNANSWERED_MAX:
            return No(Refusal.TOO_MANY_UNANSWERED)
        found.answered = max(answered, found.answered)
        found.results[sequence] = self.apply(command)
        return found.results[sequence]

    def _take_over(self, keeper: int) -> None:
        if keeper < self.keeper:
            raise NoError(Refusal.NOT_KEEPER)
        self.keeper = keeper

    def _check_keeper(self, keeper: int) -> None:
        if keeper != self.keeper:
            raise NoError(Refusal.NOT_KEEPER)

    def _compact(self, revision: int) -> Answer:
        if revision < self.floor or revision == self.floor != 0:
            raise NoError(Refusal.COMPACTED, self.floor)
        if revision > self.revision:
            raise NoError(Refusal.FUTURE_REVISION, self.revision)
        self.floor = revision
        return CompactResult(self.revision, self.floor)

    def _grant(self, lease: int, ttl: int) -> Answer:
        self._check_space()
        if lease in self.leases:
            raise NoError(Refusal.LEASE_EXISTS)
        self.leases[lease] = ttl
        self.grants += 1
        return LeaseResult(lease, ttl, self.revision)

    def _expire(self, leases: Sequence[int]) -> Done:
        gone = 0
        for place, lease in enumerate(leases):
            if lease not in self.leases:
                continue
            gone += len(self.keys_of(lease))
            if gone > self.keys_max:
                return Done(self.revision, len(leases) - place)
            self._revoke(lease)
        return Done(self.revision)

    def _revoke(self, lease: int) -> None:
        doomed = [DeleteOne(key) for key in self.keys_of(lease)]
        if doomed:
            self._write(doomed)
        del self.leases[lease]
        self.remaining.pop(lease, None)
        self.sessions = {number: one for number, one in self.sessions.items() if one.lease != lease}

    # --- writes ---------------------------------------------------------------------------------

    def _write(self, operations: Sequence[Operation]) -> list[OperationResult]:
        self._check_puts(operations)
        self._check_spans(operations)
        self._check_attached(operations)
        writing = _Writing(self)
        results = [writing.do(one) for one in operations]
        self._keep(writing)
        return results

    def _txn(self, txn: Txn) -> TxnResult:
        check_duplicates(txn.then)
        check_duplicates(txn.otherwise)
        chosen = choose(txn, self.now)
        if any(isinstance(one, Put) for one in _everything(txn)):
            self._check_space()
        leaves = list(_leaves(chosen))
        self._check_puts(leaves, nested=True)
        for one in leaves:
            if isinstance(one, Range) and one.revision:
                self.check_revision(one.revision)
        self._check_spans(leaves)
        self._check_attached(leaves)
        writing = _Writing(self)
        result = writing.do_chosen(chosen)
        self._keep(writing)
        return result

    def _keep(self, writing: _Writing) -> None:
        if writing.events:
            self.states.append(writing.state)
            self.events.append(writing.events)

    def _check_space(self) -> None:
        if any(kind is AlarmKind.NO_SPACE for _, kind in self.alarms):
            raise NoError(Refusal.NO_SPACE)

    def _check_puts(self, operations: Iterable[Operation], nested: bool = False) -> None:
        for put in operations:
            if not isinstance(put, Put):
                continue
            if not nested:
                self._check_space()
            lacks_key = (put.ignore_value or put.ignore_lease) and put.key not in self.now
            lacks_lease = put.lease != 0 and put.lease not in self.leases
            if lacks_key and (nested or not lacks_lease):
                raise NoError(Refusal.KEY_NOT_FOUND)
            if lacks_lease:
                raise NoError(Refusal.LEASE_NOT_FOUND)

    def _check_spans(self, operations: Iterable[Operation]) -> None:
        spans = [one.span for one in operations if isinstance(one, DeleteSpan)]
        if sum(lies_in(key, span) for span in spans for key in self.now) > self.keys_max:
            raise NoError(Refusal.TOO_LARGE)

    def _check_attached(self, operations: Iterable[Operation]) -> None:
        puts = [one for one in operations if isinstance(one, Put)]
        for lease in self.leases:
            more = {put.key for put in puts if put.lease == lease}
            if len(more.union(self.keys_of(lease))) > self.keys_max:
                raise NoError(Refusal.TOO_LARGE)

    # --- reads ----------------------------------------------------------------------------------

    def check_revision(self, revision: int) -> None:
        if revision > self.revision:
            raise NoError(Refusal.FUTURE_REVISION, self.revision)
        if revision < self.floor:
            raise NoError(Refusal.COMPACTED, self.floor)

    def range(self, asked: Range) -> RangeResult | No:
        try:
            if asked.revision:
                self.check_revision(asked.revision)
        except NoError as error:
            return error.no
        state = self.states[asked.revision] if asked.revision else self.now
        return range_of(state, asked, self.revision)

    def watch(
        self,
        span: Span,
        start: int,
        *,
        previous: bool = False,
        puts: bool = True,
        deletes: bool = True,
    ) -> list[Change] | No:
        """All changes from ``start`` on."""
        if start < self.floor:
            return No(Refusal.COMPACTED, self.floor)
        changes: list[Change] = []
        for revision in range(max(start, 1), self.revision + 1):
            events = tuple(
                one if previous and revision > self.floor else evolve(one, previous=None)
                for one in self.events[revision]
                if lies_in(one.kv.key, span) and (puts if one.kind is EventKind.PUT else deletes)
            )
            if events:
                changes.append(Change(revision, events))
        return changes


class _Writing:
    """One revision in the making."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._revision = model.revision + 1
        self.state = dict(model.now)
        self.events: list[KeyEvent] = []

    @property
    def revision(self) -> int:
        return self._revision if self.events else self._revision - 1

    def do_chosen(self, txn: Chosen) -> TxnResult:
        results = tuple(
            self.do_chosen(one) if isinstance(one, Chosen) else self.do(one)
            for one in txn.operations
        )
        return TxnResult(self.revision, txn.succeeded, results)

    def do(self, one: Operation) -> OperationResult:
        match one:
            case Put():
                return self._put(one)
            case DeleteOne(key, previous):
                return self._delete([key] if key in self.state else [], previous)
            case DeleteSpan(span, previous):
                doomed = [key for key in sorted(self.state) if lies_in(key, span)]
                return self._delete(doomed, previous)
            case Range():
                state = self._model.states[one.revision] if one.revision else self.state
                return range_of(state, one, self.revision)
            case Txn():
                raise TypeError("its branch was not chosen")

    def _put(self, put: Put) -> PutResult:
        old = self.state.get(put.key)
        value = old.value if old is not None and put.ignore_value else put.value
        lease = old.lease if old is not None and put.ignore_lease else put.lease
        born, version = (
            (self._revision, 1) if old is None else (old.create_revision, old.version + 1)
        )
        new = KeyValue(put.key, value, born, self._revision, version, lease)
        self.state[put.key] = new
        self.events.append(KeyEvent(EventKind.PUT, new, old))
        return PutResult(self.revision, old if put.previous else None)

    def _delete(self, doomed: list[bytes], previous: bool) -> DeleteResult:
        gone = tuple(self.state.pop(key) for key in doomed)
        for one in gone:
            tombstone = KeyValue(one.key, b"", 0, self._revision, 0)
            self.events.append(KeyEvent(EventKind.DELETE, tombstone, one))
        return DeleteResult(self.revision, len(gone), gone if previous else ())


# --- transactions ---------------------------------------------------------------------------------


@frozen
class Chosen:
    """A transaction whose branch is chosen, and those of the ones in it."""

    succeeded: bool
    operations: tuple[Put | DeleteOne | DeleteSpan | Range | Chosen, ...]


def choose(txn: Txn, state: State) -> Chosen:
    """Conditions see the state before the whole transaction, however deep they stand."""
    succeeded = all(holds(one, state) for one in txn.when)
    branch = txn.then if succeeded else txn.otherwise
    return Chosen(
        succeeded,
        tuple(choose(one, state) if isinstance(one, Txn) else one for one in branch),
    )


def holds(compare: Compare, state: State) -> bool:
    keys = compare.keys
    if isinstance(keys, bytes):
        found = [state.get(keys)]
    else:
        found = [state[key] for key in sorted(state) if lies_in(key, keys)] or [None]
    return all(_holds_for(compare, one) for one in found)


def _holds_for(compare: Compare, one: KeyValue | None) -> bool:
    given = compare.given
    if isinstance(given, bytes):
        return one is not None and _stands(compare.result, one.value, given)
    has = 0
    if one is not None:
        has = {
            CompareTarget.VERSION: one.version,
            CompareTarget.CREATE: one.create_revision,
            CompareTarget.MOD: one.mod_revision,
            CompareTarget.LEASE: one.lease,
        }[compare.target]
    return _stands(compare.result, has, given)


def _stands(result: CompareResult, has: int | bytes, given: int | bytes) -> bool:
    if isinstance(has, bytes) and isinstance(given, bytes):
        sign = (has > given) - (has < given)
    else:
        sign = int(has) - int(given)
    return {
        CompareResult.EQUAL: sign == 0,
        CompareResult.GREATER: sign > 0,
        CompareResult.LESS: sign < 0,
        CompareResult.NOT_EQUAL: sign != 0,
    }[result]


def _leaves(chosen: Chosen) -> Iterable[Operation]:
    for one in chosen.operations:
        if isinstance(one, Chosen):
            yield from _leaves(one)
        else:
            yield one


def _everything(txn: Txn) -> Iterable[Operation]:
    for one in (*txn.then, *txn.otherwise):
        if isinstance(one, Txn):
            yield from _everything(one)
        else:
            yield one


def check_duplicates(branch: Sequence[Operation]) -> tuple[set[bytes], list[Span]]:
    """The keys that a branch may put and the spans that it may delete, if no two collide.

    As etcd does it: transactions inside come first, in order, each against what this level deletes
    and what earlier ones put and delete; then the puts of this level against all of that. So a
    delete in a later transaction inside may meet a put of an earlier one.
    """
    deleted = [_deleted(one) for one in branch if isinstance(one, DeleteOne | DeleteSpan)]
    put = set[bytes]()

    def claim(keys: set[bytes], unless: set[bytes]) -> None:
        for key in keys:
            if (key in put and key not in unless) or any(lies_in(key, one) for one in deleted):
                raise NoError(Refusal.INVALID)
        put.update(keys)

    for one in branch:
        if isinstance(one, Txn):
            then_puts, then_deletes = check_duplicates(one.then)
            else_puts, else_deletes = check_duplicates(one.otherwise)
            claim(then_puts, set())
            claim(else_puts, then_puts)
            deleted += then_deletes + else_deletes
    for one in branch:
        if isinstance(one, Put):
            claim({one.key}, set())
    return put, deleted


def _deleted(one: DeleteOne | DeleteSpan) -> Span:
    return one.span if isinstance(one, DeleteSpan) else Span(one.key, one.key + b"\0")


# --- ranges ---------------------------------------------------------------------------------------


def lies_in(key: bytes, span: Span) -> bool:
    return key >= span.start and (span.stop is None or key < span.stop)


def range_of(state: State, asked: Range, revision: int) -> RangeResult:
    """``revision`` is the store's, which the answer names."""
    found = [state[key] for key in sorted(state) if lies_in(key, asked.span)]
    count = len(found)
    if asked.count_only:
        return RangeResult((), count, False, revision)
    filters = (
        asked.mod_revision_min,
        asked.mod_revision_max,
        asked.create_revision_min,
        asked.create_revision_max,
    )
    is_early = asked.order is SortOrder.NONE and not any(filters)
    if asked.limit and is_early:
        found = found[: asked.limit + 1]
    found = [one for one in found if _passes(one, asked)]
    if asked.target is not SortTarget.KEY or asked.order is not SortOrder.NONE:
        # Ties stay in the order of keys, downwards too.
        is_down = asked.order is SortOrder.DESCEND
        found.sort(key=lambda one: _sort_key(one, asked.target), reverse=is_down)
    items = found[: asked.limit] if asked.limit else found
    if asked.keys_only:
        items = [evolve(one, value=b"") for one in items]
    more = len(found) > len(items)
    return RangeResult(tuple(items), count, more, revision)


def _passes(one: KeyValue, asked: Range) -> bool:
    return (
        (not asked.mod_revision_max or one.mod_revision <= asked.mod_revision_max)
        and (not asked.mod_revision_min or one.mod_revision >= asked.mod_revision_min)
        and (not asked.create_revision_max or one.create_revision <= asked.create_revision_max)
        and (not asked.create_revision_min or one.create_revision >= asked.create_revision_min)
    )


def _sort_key(one: KeyValue, target: SortTarget) -> bytes | int:
    match target:
        case SortTarget.KEY:
            return one.key
        case SortTarget.VERSION:
            return one.version
        case SortTarget.CREATE:
            return one.create_revision
        case SortTarget.MOD:
            return one.mod_revision
        case SortTarget.VALUE:
            return one.value
