"""Leases as applications use them: granted, kept alive, revoked, or held by a context.

A lease lives ``ttl`` seconds from its last renewal on, by the clock of the leader. Who renews one
reckons from the moment the renewal *began*: the leader got it later than that. So a holder that
cannot reach the leader knows that its lease is lost before anybody else may take its place.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import islice
from math import ceil
from typing import Final, Protocol

import anyio
from anyio.lowlevel import checkpoint
from attrs import frozen

from raftkv.errors import (
    Error,
    InvalidArgumentError,
    LeaseNotFoundError,
    OutcomeUnknownError,
    UnavailableError,
)
from raftkv.kv.client.asking import UNKNOWN, Question, decode_answer, encode_question
from raftkv.kv.client.base import Part
from raftkv.kv.client.edge import LeaseHolder, flag_of, lease_of, refusal_of
from raftkv.kv.commands import encode
from raftkv.kv.leases import read_attached, read_leases
from raftkv.kv.model import Done, LeaseResult
from raftkv.kv.requests import LEASE_TTL_MAX, Grant, Revoke
from raftkv.node.tasks import first_cause, unwrapped
from raftkv.node.waiters import checked_timeout
from raftkv.runtime.base import Clock

_SECOND: Final = 1_000_000_000
_READ_LEASES: Final = 512
_READ_KEYS: Final = 256
_RENEWALS: Final = 3  # in the time that a lease lives
_LOOKS: Final = 10  # at the clock, in that time: whether a suspended machine slept through it
_REVOKE_ELECTIONS: Final = 2.0  # election timeouts; a change of leader takes less
_HASTE_ELECTIONS: Final = 0.25  # enough for a command to leave, if there is a leader


@frozen(slots=True)
class LeaseStatus:
    """A lease as its keeper has it.

    ``ttl`` are the seconds that are left, -1 if there is no such lease (etcd's rule), ``granted``
    those it has in all, ``keys`` those attached to it, in order, if they were asked for.
    """

    id: int
    ttl: int
    granted: int
    keys: tuple[bytes, ...] = ()


class Lease:
    """A lease that is being kept alive; made by ``kv.lease()``. ``id`` and ``ttl`` are as granted.

    Give it to ``put(..., lease=)``.
    """

    __slots__ = ("_clock", "_until_ns", "id", "is_hurried", "ttl")

    def __init__(self, granted: LeaseResult, clock: Clock, began_ns: int) -> None:
        self.id = granted.id
        self.ttl = granted.ttl
        self.is_hurried = False
        """Whether the end of the context may not wait for an election; see :meth:`hurry`."""
        self._clock = clock
        self._until_ns = began_ns
        self.renewed(began_ns)

    @property
    def seconds_left(self) -> float:
        """How long it surely lives without another renewal; 0.0 if it may be lost.

        By this machine's clock, time of suspend included.
        """
        return max(0, self._until_ns - self._clock.boottime_ns()) / 1e9

    def renewed(self, began_ns: int) -> None:
        """A renewal that began then succeeded; for who keeps it alive."""
        self._until_ns = max(self._until_ns, began_ns + self.ttl * _SECOND)

    def hurry(self) -> None:
        """Have the end of the context wait a quarter of an election timeout for the revocation.

        For who has no time left: a leader that is there takes it, else the lease ends by itself.
        """
        self.is_hurried = True

    def __repr__(self) -> str:
        """Its id, in hexadecimal as etcdctl prints them, and its time to live."""
        return f"<Lease {self.id:x}, ttl={self.ttl}>"


class Granter(Protocol):
    """What is needed to hold a lease."""

    async def grant(self, ttl: int, *, id: int = 0, timeout: float = 5.0) -> LeaseResult:
        """Make a lease."""
        ...

    async def keep_alive(self, lease: int | LeaseHolder, *, timeout: float = 5.0) -> int:
        """Renew it."""
        ...

    async def revoke(self, lease: int | LeaseHolder, *, timeout: float = 5.0) -> int:
        """End it."""
        ...


class Leases(Part):
    """Granting, renewing, revoking, and holding a lease while a context is open."""

    async def grant(self, ttl: int, *, id: int = 0, timeout: float = 5.0) -> LeaseResult:
        """Make a lease that lives ``ttl`` seconds unless it is kept alive.

        A ``ttl`` below one and a half election timeouts (``lease_ttl_min`` if that is longer) is
        raised to that; the result tells what it became. ``id`` 0 has an id chosen. It may have
        20,000 keys (one longer than a KiB counts for several), as they all go in one revision when
        it ends; etcd has no such bound.

        Raises LeaseExistsError for an id that a lease has, InvalidArgumentError for an id below 0
        or a ``ttl`` above 9,000,000,000, TooManyRequestsError at 200,000 leases.
        """
        if type(ttl) is not int:
            raise InvalidArgumentError(f"ttl must be an int, in seconds, not {ttl!r}")
        if ttl > LEASE_TTL_MAX:
            raise InvalidArgumentError(f"too large lease TTL: {ttl} s, at most {LEASE_TTL_MAX}")
        times = self._node.settings
        least = ceil(1.5 * times.election_ticks * times.tick_ns / 1e9)
        command = Grant(lease_of(id), max(ttl, least, self._settings.lease_ttl_min))
        result = await self._propose(encode(command), timeout)
        if type(result) is LeaseResult:
            return result
        raise refusal_of(result)

    async def revoke(self, lease: int | LeaseHolder, *, timeout: float = 5.0) -> int:
        """End a lease and delete its keys, in one revision; return the store's revision.

        Raises LeaseNotFoundError if there is no such lease.
        """
        result = await self._propose(encode(Revoke(lease_of(lease))), timeout)
        if type(result) is Done:
            return result.revision
        raise refusal_of(result)

    async def keep_alive(self, lease: int | LeaseHolder, *, timeout: float = 5.0) -> int:
        """Give a lease all of its time again; return that, in seconds, counted from the call on.

        Costs no write: the leader renews it, after asking a majority whether it still leads. Raises
        LeaseNotFoundError if there is no such lease any more, DeadlineError if no leader answered.
        """
        number = lease_of(lease)
        left, granted = await self._ask(Question.KEEP_ALIVE, number, timeout)
        if left == UNKNOWN:
            raise LeaseNotFoundError(
                f"requested lease not found: {number:x} was never granted, was revoked or has"
                " expired"
            )
        return granted

    async def time_to_live(
        self, lease: int | LeaseHolder, *, keys: bool = False, timeout: float = 5.0
    ) -> LeaseStatus:
        """What is left of a lease, as the leader has it; with ``keys`` also which keys it has.

        A lease that there is not has a ``ttl`` of -1. Keys are read in parts, so those that come
        and go meanwhile may be in it or not.
        """
        number = lease_of(lease)
        wanted = flag_of("keys", keys)
        left, granted = await self._ask(Question.TIME_TO_LIVE, number, timeout)
        if left == UNKNOWN or not wanted:
            return LeaseStatus(number, left, granted)
        await self._node.read(timeout=timeout)
        found: list[bytes] = []
        while part := self._keys_of(number, found[-1] if found else b""):
            found += part
            await checkpoint()
        return LeaseStatus(number, left, granted, tuple(found))

    async def leases(self, *, timeout: float = 5.0) -> tuple[int, ...]:
        """The ids of all leases, ascending. Read in parts, as keys of a lease are.

        Those by which client sessions live are not among them (``KvSettings.sessions``), although
        they are leases as others are to who knows their ids, and count towards the most there may
        be.
        """
        await self._node.read(timeout=checked_timeout(timeout))
        found: list[int] = []
        after = 0
        while part := read_leases(self._machine.store, after, _READ_LEASES):
            found += [one.id for one in part if not one.is_session]
            after = part[-1].id
            await checkpoint()
        return tuple(found)

    def lease(self, ttl: int = 10, *, timeout: float = 5.0) -> AbstractAsyncContextManager[Lease]:
        """Hold a lease while the context is open.

        ::

            async with kv.lease(ttl=10) as lease:
                await kv.put("here", b"1", lease=lease)
                ...

        ``timeout``, in seconds, is for granting it. It is renewed every third of ``ttl``, and
        revoked at the end: that is waited for, also by who is cancelled, but no longer than two
        election timeouts, ``timeout``, or what is left of its life. If nobody answers until then it
        ends by itself, at most ``ttl`` seconds later. If it is lost, for it was revoked, or could
        not be renewed for as long as it lives, the body is cancelled and LeaseNotFoundError is
        raised.

        A body that does not come to await is not cancelled; what must not be done without the
        lease is best made a transaction that compares a key's lease. Raises what ``grant`` raises.
        """
        return _holding(self, self._lease_clock, ttl, checked_timeout(timeout), self._election)

    @property
    def _lease_clock(self) -> Clock:
        """By whose time leases are held."""
        return self._node.runtime.clock

    @property
    def _election(self) -> float:
        """The election timeout, in seconds."""
        times = self._node.settings
        return times.election_ticks * times.tick_seconds

    def _keys_of(self, lease: int, after: bytes) -> list[bytes]:
        return list(islice(read_attached(self._machine.store, lease, after), _READ_KEYS))

    async def _ask(self, kind: Question, lease: int, timeout: float) -> tuple[int, int]:
        question = encode_question(kind, lease)
        answer = await self._node.ask(question, timeout=checked_timeout(timeout))
        return decode_answer(kind, answer)


@asynccontextmanager
async def _holding(
    kv: Granter, clock: Clock, ttl: int, timeout: float, election: float
) -> AsyncGenerator[Lease]:
    began = clock.boottime_ns()
    held = Lease(await kv.grant(ttl, timeout=timeout), clock, began)
    lost: list[Exception] = []
    raised: BaseException | None = None
    try:
        async with anyio.create_task_group() as host:

            async def guard() -> None:
                try:
                    await _keep(kv, held, clock)
                except LeaseNotFoundError as error:
                    lost.append(error)
                    host.cancel_scope.cancel()

            host.start_soon(guard, name=f"raftkv {held!r}")
            try:
                yield held
            except BaseException as error:
                raised = error
                raise
            finally:
                host.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        cause = raised if isinstance(raised, Exception) else first_cause(group)
        raise cause from cause.__cause__
    finally:
        if not lost:
            elections = _HASTE_ELECTIONS if held.is_hurried else _REVOKE_ELECTIONS
            await _let_go(kv, held, min(timeout, elections * election))
    if lost:
        raise lost[0]


async def _let_go(kv: Granter, held: Lease, seconds: float) -> None:
    """Revoke it, if somebody takes that within so many seconds: else it ends by itself."""
    with anyio.CancelScope(shield=True):
        try:
            await kv.revoke(held, timeout=min(seconds, held.seconds_left))
        except Error:
            return


async def _keep(kv: Granter, held: Lease, clock: Clock) -> None:
    """Renew it, again and again. Raises LeaseNotFoundError once it is lost."""
    with unwrapped():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_watch, held, clock, name=f"raftkv watch over {held!r}")
            await _renew(kv, held, clock)


async def _renew(kv: Granter, held: Lease, clock: Clock) -> None:
    third_ns = held.ttl * _SECOND // _RENEWALS
    pause_ns = third_ns
    while True:
        await clock.sleep_until(clock.monotonic_ns() + pause_ns)
        began_ns = clock.boottime_ns()
        try:
            await kv.keep_alive(held, timeout=min(third_ns / _SECOND, held.seconds_left))
        except (UnavailableError, OutcomeUnknownError):
            pause_ns = third_ns // _LOOKS
        else:
            held.renewed(began_ns)
            pause_ns = third_ns


async def _watch(held: Lease, clock: Clock) -> None:
    look_ns = held.ttl * _SECOND // _LOOKS
    while (left_ns := round(held.seconds_left * _SECOND)) > 0:
        await clock.sleep_until(clock.monotonic_ns() + min(left_ns, look_ns))
    raise LeaseNotFoundError(
        f"lease {held.id:x} may be lost: it could not be renewed for the {held.ttl} s that it lives"
    )
