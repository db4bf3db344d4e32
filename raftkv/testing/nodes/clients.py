"""Simulated clients: they ask members for things, wait, give up, ask another one, and are recorded.

Each operation is decided whole before it begins (one turn of the run's choices), so that leaving
one out does not change another. Values are unique: a value names its put.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

import anyio
from attrs import evolve, frozen

from raftkv.errors import Error, OutcomeUnknownError, UnavailableError
from raftkv.handle import Node
from raftkv.kv import requests
from raftkv.kv.client import op
from raftkv.kv.model import OperationResult, Span, prefix_span
from raftkv.kv.model import TxnResult as NestedResult
from raftkv.testing.choices import Choices
from raftkv.testing.histories.kv import (
    Compare,
    DeleteOne,
    DeleteSpan,
    Get,
    KeyValue,
    KvHistory,
    KvRequest,
    KvResponse,
    Put,
    Range,
    Relation,
    Revoke,
    Target,
    Txn,
    TxnAnswer,
    TxnRequest,
    TxnResult,
)
from raftkv.testing.histories.operations import History
from raftkv.testing.invariants import broken
from raftkv.testing.nodes.chronicle import Chronicle
from raftkv.testing.nodes.options import Options
from raftkv.testing.story import Kind, StoryWriter

Q = TypeVar("Q")
A = TypeVar("A")

_ATTEMPTS_MAX: Final = 4
_ENDPOINTS: Final = 8
_CALLED_OFF: Final = "called off"


class Servers(Protocol):
    """Who can be asked."""

    def reachable(self) -> Sequence[str]:
        """Members that a client can connect to now, in a fixed order."""
        ...

    def leading(self) -> str | None:
        """The member that takes itself for the leader, if clients can reach one."""
        ...

    async def ask(
        self, name: str, request: Callable[[Node[object]], Awaitable[A]], seconds: float
    ) -> A:
        """Have a member do something for us.

        Raises OutcomeUnknownError if it did not answer in time, or ended meanwhile.
        """
        ...

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        ...

    def length(self, name: str) -> int:
        """How many commands the list of a member holds."""
        ...

    @property
    def now(self) -> float:
        """The time that the story tells, in seconds."""
        ...


@frozen(slots=True)
class Plan(Generic[Q]):
    """One operation, decided before it begins."""

    think_ms: int
    request: Q
    endpoint: int
    """Which of the reachable members is asked first; below 0: nobody, it is left out."""
    cancel_ms: int | None
    """After how long the client gives up by being cancelled."""
    lease: bool


class Client(ABC, Generic[Q, A]):
    """One client of a run. Subclasses know what can be asked."""

    def __init__(
        self,
        name: str,
        options: Options,
        choices: Choices,
        servers: Servers,
        history: History[Q, A],
        story: StoryWriter | None,
        marks: Counter[str],
    ) -> None:
        self.name = name
        self.options = options
        self.choices = choices
        self.count = 0
        self._servers = servers
        self._history = history
        self._story = story
        self.marks = marks
        self.complaint = ""
        """How its last operation failed, if it did."""

    @abstractmethod
    def draw(self) -> Q:
        """The next request, of the choices' making."""

    @abstractmethod
    async def send(self, node: Node[object], request: Q, plan: Plan[Q]) -> A:
        """Ask a node."""

    async def run(self, is_over: Callable[[], bool]) -> None:
        """Operation after operation, until it is over."""
        while not is_over():
            plan = self._plan()
            if plan.endpoint < 0 and plan.think_ms == 1:
                return  # a shrunk record has no more for this client to do
            await self._servers.sleep(plan.think_ms / 1000)
            if not is_over() and plan.endpoint >= 0:
                await self.operate(plan)

    async def once(self) -> bool:
        """One operation, at once and not cancelled; whether it succeeded."""
        plan = self._plan()
        return await self.operate(evolve(plan, endpoint=max(plan.endpoint, 0), cancel_ms=None))

    def _plan(self) -> Plan[Q]:
        choices, options = self.choices, self.options
        self.count += 1
        is_left_out = choices.begin("client", self.name, self.count)
        think = 1 + choices.choose(options.think_ms)
        request = self.draw()
        endpoint = -1 if is_left_out else choices.choose(_ENDPOINTS)
        cancelled = choices.chance(options.cancelled)
        cancel_ms = choices.choose(options.timeout_ms) if cancelled else None
        lease = options.lease_reads and choices.choose(3) == 1
        return Plan(think, request, endpoint, cancel_ms, lease)

    async def operate(self, plan: Plan[Q]) -> bool:
        """One operation; whether it succeeded."""
        number = self._history.call(self.name, plan.request)
        told = self._tell(Kind.CALL, plan.request)
        try:
            response = await self._attempts(plan)
        except Error as error:
            self._history.raised(number, error)
            self.marks[f"operation {'unknown' if error.may_have_happened else 'failed'}"] += 1
            self.complaint = f"{type(error).__name__}: {error}"
            self._tell(Kind.RETURN, self.complaint, told)
            return False
        except BaseException as error:
            self._history.raised(number, error)
            raise
        self._history.done(number, response)
        self.marks["operation done"] += 1
        self._tell(Kind.RETURN, response, told)
        return True

    async def _attempts(self, plan: Plan[Q]) -> A:
        if plan.cancel_ms is None:
            return await self._attempt(plan)
        with anyio.move_on_after(plan.cancel_ms / 1000):
            return await self._attempt(plan)
        self.marks["operation cancelled"] += 1
        raise OutcomeUnknownError(_CALLED_OFF)

    async def _attempt(self, plan: Plan[Q]) -> A:
        """Ask members until one perhaps did it: only what surely was not done is retried."""
        servers, options = self._servers, self.options
        error: Error = UnavailableError("no member can be reached")
        for attempt in range(_ATTEMPTS_MAX if options.retries else 1):
            if attempt:
                await servers.sleep(0.05 * attempt)
                self.marks["operation retried"] += 1
            name = self._endpoint(plan.endpoint + attempt)
            if name is None:
                continue
            try:
                return await servers.ask(
                    name,
                    lambda node: self.send(node, plan.request, plan),
                    options.timeout_ms / 1000 + 1,
                )
            except Error as caught:
                if caught.may_have_happened:
                    raise
                error = caught
        raise error

    def _endpoint(self, place: int) -> str | None:
        servers = self._servers
        if self.options.follows_leader and place < _ENDPOINTS - 2:
            leader = servers.leading()
            if leader is not None:
                return leader
        names = servers.reachable()
        return names[place % len(names)] if names else None

    def _tell(self, kind: Kind, what: object, told: int | None = None) -> int | None:
        if self._story is None:
            return None
        return self._story.event(
            self._servers.now, None, kind, what, client=self.name, operation=told
        )


class KvClient(Client[KvRequest, KvResponse]):
    """A client of the key-value store."""

    def __init__(
        self,
        name: str,
        options: Options,
        choices: Choices,
        servers: Servers,
        history: KvHistory,
        story: StoryWriter | None,
        marks: Counter[str],
        chronicle: Chronicle,
    ) -> None:
        super().__init__(name, options, choices, servers, history, story, marks)
        self._chronicle = chronicle
        self._shown: dict[bytes, bytes] = {}
        """What it was shown of a key last."""

    def draw(self) -> KvRequest:
        """A put, a deletion, a transaction, or a read of some kind, of some key."""
        choices, options = self.choices, self.options
        key = b"k%02d" % choices.choose(options.keys)
        if choices.chance(options.reads):
            serializable = choices.chance(options.local_reads)
            revision = self._past() if choices.chance(options.past_reads) else 0
            if choices.choose(4) != 1:
                return Get(key, revision, serializable)
            limit = choices.choose(3)
            return Range(self._span(key), revision, serializable, limit)
        kind = choices.weighted((12, 2, 1))
        previous = choices.choose(4) == 1
        value = (b"%s-%d" % (self.name.encode(), self.count)).ljust(options.value_bytes, b".")
        if choices.chance(options.txns):
            return self._txn(key, value)
        if kind == 0:
            return Put(key, value, previous=previous)
        return DeleteOne(key, previous) if kind == 1 else DeleteSpan(self._span(key), previous)

    def _span(self, key: bytes) -> Span:
        # Everything, the keys of ten, or one: deletions of everything would leave little to see.
        # Keys of leases (leasing.py) are not among them.
        prefix = (key[:2], key, b"k")[self.choices.weighted((4, 4, 1))]
        return prefix_span(prefix)

    def _past(self) -> int:
        return max(1, self._chronicle.acknowledged - self.choices.choose(30))

    def _txn(self, key: bytes, value: bytes) -> Txn:
        """Compare and swap, make if absent, or move a value from one key to another."""
        kind = self.choices.choose(3)
        if kind == 0:
            same = Compare(key, Target.VALUE, Relation.EQUAL, self._shown.get(key, b""))
            return Txn((same,), (Put(key, value, previous=True),), (Get(key),))
        if kind == 1:
            absent = Compare(key, Target.VERSION, Relation.EQUAL, 0)
            return Txn(
                (absent,), (Put(key, value), Range(self._span(key))), (DeleteOne(key, True),)
            )
        other = b"k%02d" % ((int(key[1:]) + 1) % max(2, self.options.keys))
        there = Compare(key, Target.VERSION, Relation.GREATER, 0)
        moved = (DeleteOne(key, True), Put(other, value), Get(key), Get(other))
        return Txn((there,), moved, (Range(self._span(key)),))

    async def send(
        self, node: Node[object], request: KvRequest, plan: Plan[KvRequest]
    ) -> KvResponse:
        """Ask a node."""
        compacted = self._chronicle.compacted
        answer = await self._send(node, request, plan)
        if isinstance(request, Get | Range):
            if request.revision:
                self.marks["read of the past"] += 1
                # Who asks nobody may not know of the compaction yet.
                if request.revision < compacted and not request.serializable:
                    raise broken("I30", f"{request} is answered, but {compacted} is compacted")
            elif isinstance(answer, KeyValue):
                self._shown[answer.key] = answer.value
        if isinstance(request, Put):
            self._shown[request.key] = request.value
        if isinstance(answer, KeyValue):
            self._chronicle.told(answer.mod_revision)
        elif answer is not None:
            self._chronicle.told(answer.revision)
        return answer

    async def _send(
        self, node: Node[object], request: KvRequest, plan: Plan[KvRequest]
    ) -> KvResponse:
        kv, seconds = node.kv, self.options.timeout_ms / 1000
        match request:
            case Put():
                return await kv.put(
                    request.key, request.value, previous=request.previous, timeout=seconds
                )
            case DeleteOne():
                return await kv.delete(request.key, previous=request.previous, timeout=seconds)
            case DeleteSpan():
                span = request.span
                return await kv.delete(
                    start=span.start, stop=span.stop, previous=request.previous, timeout=seconds
                )
            case Get():
                return await kv.get(
                    request.key,
                    revision=request.revision,
                    serializable=request.serializable,
                    lease=plan.lease and not request.serializable,
                    timeout=seconds,
                )
            case Range():
                return await kv.range(
                    request.span.start or None,
                    request.span.stop,
                    limit=request.limit,
                    revision=request.revision,
                    serializable=request.serializable,
                    lease=plan.lease and not request.serializable,
                    timeout=seconds,
                )
            case Txn():
                result = await kv.txn(
                    when=[_condition(one) for one in request.conditions],
                    then=[_operation(one) for one in request.then],
                    otherwise=[_operation(one) for one in request.otherwise],
                    timeout=seconds,
                )
                self.marks["transaction"] += 1
                return TxnResult(result.revision, result.succeeded, _answers(result.results))
            case Revoke():
                raise TypeError(f"not asked of a store: {request}")


def _condition(one: Compare) -> requests.Compare:
    return requests.Compare(one.key, _TARGETS[one.target], _RESULTS[one.relation], one.wanted)


def _operation(one: TxnRequest) -> requests.Operation:
    match one:
        case Get(key, revision):
            return op.get(key, revision=revision)
        case Range(span, revision, _, limit):
            return requests.Range(span, limit, revision)
        case _:
            return one


def _answers(results: Iterable[OperationResult]) -> tuple[TxnAnswer, ...]:
    """None of ours has a transaction inside another."""
    return tuple(one for one in results if not isinstance(one, NestedResult))


_TARGETS: Final = {
    Target.VALUE: requests.CompareTarget.VALUE,
    Target.VERSION: requests.CompareTarget.VERSION,
    Target.CREATE: requests.CompareTarget.CREATE,
    Target.MOD: requests.CompareTarget.MOD,
}
_RESULTS: Final = {
    Relation.EQUAL: requests.CompareResult.EQUAL,
    Relation.NOT_EQUAL: requests.CompareResult.NOT_EQUAL,
    Relation.LESS: requests.CompareResult.LESS,
    Relation.GREATER: requests.CompareResult.GREATER,
}


class ListClient(Client[bytes, int]):
    """A client of a machine that keeps every command and answers where it put it."""

    def draw(self) -> bytes:
        """A command that is never made again; empty: ask how many there are."""
        if self.choices.chance(self.options.reads):
            return b""
        name = b"%s-%d" % (self.name.encode(), self.count)
        return name.ljust(self.options.value_bytes, b".")

    async def send(self, node: Node[object], request: bytes, plan: Plan[bytes]) -> int:
        """Ask a node."""
        seconds = self.options.timeout_ms / 1000
        if not request:
            await node.read(lease=plan.lease, timeout=seconds)
            return self._servers.length(node.name)
        place = await node.propose(request, timeout=seconds)
        if not isinstance(place, int):
            raise TypeError(f"a list answered {place!r}")
        return place


AnyClient: TypeAlias = KvClient | ListClient

__all__ = ["AnyClient", "Client", "KvClient", "KvHistory", "ListClient", "Plan", "Servers"]
