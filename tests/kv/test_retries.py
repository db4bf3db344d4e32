"""The client's session: what it proposes again, when it gives up, and what it says then."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import anyio
import pytest
from anyio.lowlevel import checkpoint
from attrs import evolve

from raftkv.errors import (
    ClosedError,
    DeadlineError,
    Error,
    LeaseNotFoundError,
    NodeStoppedError,
    OutcomeUnknownError,
    TooManyRequestsError,
    UnavailableError,
)
from raftkv.kv.client.sessions import Session
from raftkv.kv.commands import decode, encode
from raftkv.kv.leases import read_leases
from raftkv.kv.model import KvResult, PutResult, Refusal, Refused, SessionResult, Span
from raftkv.kv.requests import KvCommand, Once, OpenSession, Put, Revoke
from raftkv.kv.sessions import UNANSWERED_MAX
from raftkv.kv.settings import KvSettings
from raftkv.node.settings import Settings
from raftkv.runtime.base import Runtime
from raftkv.runtime.system import system_runtime
from tests.kv.rig import memory_rig

PATIENCE = 1.5  # seconds, one and a half election timeouts
UNKNOWN = OutcomeUnknownError("not seen", (1, 2, 3))


class Enough(Exception):
    """The time that a test looks at is over."""


class ByHand:
    """A clock that somebody sets; who sleeps lets it run on."""

    def __init__(self) -> None:
        self.now = 0
        self.ends_ns = 2**62
        self.boottime_ns = self.wall_ns = self.monotonic_ns

    def monotonic_ns(self) -> int:
        return self.now

    async def sleep_until(self, monotonic_ns: int) -> None:
        await checkpoint()
        if monotonic_ns > self.ends_ns:
            raise Enough
        self.now = max(self.now, monotonic_ns)


class Script:
    """A node that answers as its script says; without a further line, as the store does."""

    def __init__(self) -> None:
        self.rig = memory_rig()
        self.clock = ByHand()
        self.asked: list[tuple[KvCommand, float]] = []
        self.lines: list[Error | KvResult | Callable[[bytes], Error | KvResult]] = []
        self.holds: dict[int, anyio.Event] = {}
        """What a sequence waits for, when it comes for the first time."""
        self.opens: anyio.Event | None = None
        """What openings wait for."""
        self.refusal: Error | None = None
        self.settings = Settings()
        self.runtime: Runtime = evolve(system_runtime(), clock=self.clock)
        self.session = Session(self, KvSettings(sessions=True))

    async def propose(self, command: bytes, *, timeout: float = 5.0) -> KvResult:
        asked = decode(command)
        self.asked.append((asked, timeout))
        await checkpoint()
        if isinstance(asked, Once) and asked.sequence in self.holds:
            await self.holds.pop(asked.sequence).wait()
        if isinstance(asked, OpenSession) and self.opens is not None:
            await self.opens.wait()
        line = self.lines.pop(0) if self.lines else None
        if callable(line):
            line = line(command)
        if isinstance(line, OutcomeUnknownError | DeadlineError):
            self.clock.now += round(timeout * 1e9)
        if isinstance(line, Error):
            raise line
        return line or self.apply(command)

    def check(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def apply(self, command: bytes) -> KvResult:
        (result,) = self.rig.apply_bytes([command])
        return result

    def leases(self) -> list[int]:
        """Those of the sessions that are open."""
        return [one.id for one in read_leases(self.rig.store, 0, 9) if one.is_session]

    def done_unseen(self, command: bytes) -> Error:
        self.apply(command)
        return UNKNOWN

    async def put(self, value: bytes = b"v", timeout: float = 5.0) -> KvResult:
        return await self.session.propose(encode(Put(b"k", value)), timeout)

    def tries(self) -> Iterator[tuple[int, int, float]]:
        for command, timeout in self.asked:
            if isinstance(command, Once):
                yield command.sequence, command.answered, round(timeout, 3)

    def kinds(self) -> list[type[KvCommand]]:
        return [type(command) for command, _ in self.asked]


@pytest.fixture
def node() -> Script:
    return Script()


async def test_the_first_write_opens_the_session_that_others_go_on_in(node: Script) -> None:
    assert node.asked == []
    assert await node.put() == PutResult(2)
    assert await node.put() == PutResult(3)
    assert node.kinds() == [OpenSession, Once, Once]
    assert list(node.tries()) == [(0, 0, PATIENCE), (1, 1, PATIENCE)]


async def test_writes_that_begin_together_open_one_session(node: Script) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(node.put)
    assert node.kinds() == [OpenSession, *[Once] * 5]
    assert sorted(sequence for sequence, _, _ in node.tries()) == [0, 1, 2, 3, 4]
    await node.put()
    assert [*node.tries()][-1] == (5, 5, PATIENCE)


async def test_a_write_that_nobody_saw_is_tried_again_under_its_sequence(node: Script) -> None:
    await node.put()
    node.lines = [UNKNOWN, UNKNOWN]
    assert await node.put(timeout=20) == PutResult(3)
    assert [*node.tries()][1:] == [(1, 1, 1.5), (1, 1, 3.0), (1, 1, 6.0)]


async def test_a_write_that_was_done_unseen_is_not_done_again(node: Script) -> None:
    await node.put()
    node.lines = [node.done_unseen]
    assert await node.put(b"once") == PutResult(3)
    assert node.rig.range(Span(b"", None)).items[0].version == 2


async def test_a_write_may_wait_for_ever(node: Script) -> None:
    await node.put()
    node.lines = [UNKNOWN]
    assert await node.put(timeout=math.inf) == PutResult(3)


async def test_a_write_that_could_not_leave_is_tried_again(node: Script) -> None:
    await node.put()
    node.lines = [DeadlineError("no leader")]
    assert await node.put() == PutResult(3)


async def test_the_deadline_is_the_callers(node: Script) -> None:
    await node.put()
    begun = node.clock.now
    node.lines = [UNKNOWN] * 9
    with pytest.raises(OutcomeUnknownError) as caught:
        await node.put(timeout=5)
    assert caught.value.request == (1, 2, 3)
    assert node.clock.now - begun == 5_000_000_000
    assert [*node.tries()][1:] == [(1, 1, 1.5), (1, 1, 3.0), (1, 1, 0.5)]
    begun = node.clock.now
    with pytest.raises(OutcomeUnknownError):
        await node.put(timeout=1)
    assert node.clock.now - begun == 1_000_000_000


@pytest.mark.parametrize(
    "then",
    [
        DeadlineError("not sent"),
        TooManyRequestsError("full"),
        ClosedError("closed"),
        NodeStoppedError("stopped"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_once_a_copy_has_left_nothing_says_that_it_did_not_happen(
    node: Script, then: Error
) -> None:
    await node.put()
    node.lines = [UNKNOWN, *[then] * 200]
    with pytest.raises(OutcomeUnknownError):
        await node.put()
    node.lines = [DeadlineError("not sent"), UNKNOWN, *[then] * 200]
    with pytest.raises(OutcomeUnknownError):
        await node.put()


@pytest.mark.parametrize("then", [TooManyRequestsError("full"), ClosedError("closed")])
async def test_what_surely_did_not_happen_is_told_at_once(node: Script, then: Error) -> None:
    await node.put()
    node.lines = [then]
    with pytest.raises(type(then)):
        await node.put()
    node.lines = [DeadlineError("not sent"), *[then] * 200]
    with pytest.raises(type(then)):
        await node.put()


async def test_a_full_node_is_asked_again_until_the_deadline(node: Script) -> None:
    await node.put()
    node.lines = [UNKNOWN, *[TooManyRequestsError("full")] * 5]
    assert await node.put() == PutResult(3)


async def test_a_write_in_a_session_that_ended_is_taken_to_a_new_one(node: Script) -> None:
    await node.put()
    (lease,) = node.leases()
    node.rig.apply([Revoke(lease)])
    assert await node.put() == PutResult(3)
    assert node.kinds() == [OpenSession, Once, Once, OpenSession, Once]
    assert [*node.tries()][-1][:2] == (0, 0)


@pytest.mark.parametrize("first", [[], [DeadlineError("not sent")]])
async def test_a_write_that_left_before_its_session_ended_is_not_tried_in_another(
    node: Script, first: list[Error]
) -> None:
    await node.put()
    gone = Refused("gone", Refusal.SESSION_NOT_FOUND)
    node.lines = [*first, UNKNOWN, gone]
    with pytest.raises(OutcomeUnknownError, match="session ended") as caught:
        await node.put(timeout=60)
    assert caught.value.request == (1, 2, 3)
    node.asked.clear()
    assert await node.put() == PutResult(3)
    assert node.kinds() == [OpenSession, Once]


async def test_a_write_that_never_left_is_taken_along_when_its_session_ends(node: Script) -> None:
    await node.put()
    node.lines = [DeadlineError("not sent"), Refused("gone", Refusal.SESSION_NOT_FOUND)]
    assert await node.put() == PutResult(3)


async def test_a_session_that_ends_gives_a_write_no_more_time(node: Script) -> None:
    await node.put()
    gone = Refused("gone", Refusal.SESSION_NOT_FOUND)
    node.lines = [DeadlineError("not sent"), gone, SessionResult(9, 9, 1), *[UNKNOWN] * 9]
    with pytest.raises(OutcomeUnknownError):
        await node.put(timeout=5.0)
    assert node.clock.now == 5_000_000_000


@pytest.mark.parametrize("why", [Refusal.NO_SPACE, Refusal.TOO_MANY_LEASES])
async def test_where_no_session_can_be_had_writes_go_without(node: Script, why: Refusal) -> None:
    node.lines = [Refused("full", why)]
    assert await node.put() == PutResult(2)
    assert node.kinds() == [OpenSession, Put]


async def test_opening_is_tried_again_whatever_was_seen_of_it(node: Script) -> None:
    node.lines = [node.done_unseen, UNKNOWN, DeadlineError("not sent")]
    assert await node.put(timeout=60) == PutResult(2)
    assert node.kinds() == [*[OpenSession] * 4, Once]
    assert [one.session for one, _ in node.asked if isinstance(one, Once)] == [2]


async def test_a_session_that_cannot_be_opened_in_time_means_that_nothing_happened(
    node: Script,
) -> None:
    node.lines = [UNKNOWN] * 9
    with pytest.raises(DeadlineError, match="nothing was proposed: no majority of the members"):
        await node.put()
    assert list(node.tries()) == []


async def test_a_member_that_recovers_may_write_and_one_that_is_closed_not(node: Script) -> None:
    node.refusal = ClosedError("closed")
    with pytest.raises(ClosedError):
        await node.put()
    assert node.asked == []
    node.refusal = UnavailableError("recovers")
    assert await node.put() == PutResult(2)


async def test_who_waits_for_another_to_open_the_session_has_a_deadline(node: Script) -> None:
    node.opens = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.put)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(DeadlineError, match="nothing was proposed: no majority of the members"):
            await node.put(timeout=0.01)
        assert node.kinds() == [OpenSession]
        node.opens.set()
    assert node.kinds() == [OpenSession, Once]


async def test_whoever_waits_for_a_session_goes_on_together(node: Script) -> None:
    node.opens = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(node.put)
        await anyio.wait_all_tasks_blocked()
        node.opens.set()
        for _ in range(10):  # turns of the loop, not one for each
            await checkpoint()
        assert node.kinds() == [OpenSession, *[Once] * 100]


async def test_who_opens_a_session_and_is_cancelled_leaves_that_to_another(node: Script) -> None:
    node.opens = anyio.Event()
    scope = anyio.CancelScope()

    async def first() -> None:
        with scope:
            await node.put()

    async with anyio.create_task_group() as tasks:
        for write in (first, node.put):
            tasks.start_soon(write)
            await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert node.kinds() == [OpenSession, OpenSession]
        node.opens.set()
    assert node.kinds() == [OpenSession, OpenSession, Once]


async def test_whoever_waits_for_a_full_store_goes_without_like_who_asked(node: Script) -> None:
    node.opens = anyio.Event()
    node.lines = [Refused("full", Refusal.NO_SPACE)]
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(node.put)
        await anyio.wait_all_tasks_blocked()
        node.opens.set()
    assert node.kinds() == [OpenSession, Put, Put, Put]


async def test_what_is_answered_waits_for_the_oldest_write(node: Script) -> None:
    await node.put()
    node.holds[1] = held = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.put)
        await anyio.wait_all_tasks_blocked()
        await node.put()
        await node.put()
        assert [*node.tries()][-1][:2] == (3, 1)
        held.set()
    await node.put()
    assert [*node.tries()][-1][:2] == (4, 4)


async def test_writes_that_lose_their_session_together_open_one_new_one(node: Script) -> None:
    await node.put()
    (lease,) = node.leases()
    node.rig.apply([Revoke(lease)])
    node.holds[2] = held = anyio.Event()
    node.asked.clear()
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(node.put)
        await anyio.wait_all_tasks_blocked()
        held.set()
    assert sorted(kind.__name__ for kind in node.kinds()) == [*["Once"] * 4, "OpenSession"]


async def test_a_cancelled_write_is_given_up_and_holds_nobody_up(node: Script) -> None:
    await node.put()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await node.put()
    assert scope.cancelled_caught
    await node.put()
    assert [*node.tries()][-1][:2] == (2, 2)


async def test_one_write_that_waits_holds_others_up_at_the_bound_only(node: Script) -> None:
    await node.put()
    waiting = node.session._open  # pyright: ignore[reportPrivateUsage] - as after many writes
    assert waiting is not None
    waiting.next += UNANSWERED_MAX - 1
    assert await node.put() == PutResult(3)
    with pytest.raises(TooManyRequestsError, match="behind one that is not answered"):
        await node.put()


async def test_the_last_words_end_the_session_behind_all_that_was_written_in_it(
    node: Script,
) -> None:
    assert node.session.last_words() is None
    await node.put()
    await node.put()
    words = node.session.last_words()
    assert words is not None
    for _ in range(2):  # however often they come
        node.apply(words)
        assert node.leases() == []
    assert node.session.last_words() is None
    (write,) = (one for one, _ in node.asked if isinstance(one, Once) and one.sequence == 1)
    late = node.apply(encode(write))
    assert isinstance(late, Refused)
    assert late.why is Refusal.SESSION_NOT_FOUND


# --- keeping it alive -----------------------------------------------------------------------------


async def renewals(node: Script, *, uses: bool, error: Error | None = None) -> list[float]:
    """When the session is renewed in 100 seconds; ``error`` is what the first one raises."""
    seen: list[float] = []

    async def keep_alive(lease: int, /, *, timeout: float) -> int:
        await checkpoint()
        assert [lease] == node.leases()
        assert timeout == 20
        seen.append(node.clock.now / 1e9)
        if uses:
            await node.put()
        if error is not None and len(seen) == 1:
            raise error
        return 60

    node.clock.ends_ns = 100_000_000_000
    with pytest.raises(Enough):
        await node.session.keep(keep_alive)
    return seen


async def test_a_session_in_use_is_renewed_three_times_in_its_life(node: Script) -> None:
    await node.put()
    assert await renewals(node, uses=True) == [20, 40, 60, 80, 100]
    assert node.kinds().count(OpenSession) == 1


async def test_a_renewal_that_fails_is_made_up_for(node: Script) -> None:
    await node.put()
    assert await renewals(node, uses=True, error=UnavailableError("none")) == [20, 40, 60, 80, 100]
    assert node.kinds().count(OpenSession) == 1


async def test_a_session_that_nobody_uses_is_let_go(node: Script) -> None:
    await node.put()
    assert await renewals(node, uses=False) == [20]
    node.asked.clear()
    await node.put()
    assert node.kinds() == [OpenSession, Once]


async def test_a_session_whose_lease_is_gone_is_let_go(node: Script) -> None:
    await node.put()
    assert await renewals(node, uses=False, error=LeaseNotFoundError("gone")) == [20]
    node.asked.clear()
    await node.put()
    assert node.kinds() == [OpenSession, Once]


async def test_without_a_session_nothing_is_renewed(node: Script) -> None:
    assert await renewals(node, uses=False) == []
