"""Writes that are tried again, and applied once: the client's side of :mod:`raftkv.kv.sessions`.

A command that was handed to raft and not seen again may be lost with its leader, or late. In a
session it is proposed once more, under the sequence it has, and whichever copy is applied first
counts; so a caller hears that the outcome is unknown only if nobody answered up to its deadline.

The session is opened by the first write and kept alive while there are writes. If it has ended, a
write of which one copy left is taken into a new one: that copy was refused, and is for good. Where
no session can be had because the store is full, writes go without. A node that is closed ends its
session, if it can be had at once.

A command whose entry in the log was full (:mod:`raftkv.kv.bounds`) was not done, and comes again.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from typing import Final, Protocol

from anyio import Event, fail_after

from raftkv.errors import (
    DeadlineError,
    Error,
    LeaseNotFoundError,
    OutcomeUnknownError,
    TooManyRequestsError,
    UnavailableError,
)
from raftkv.kv.client.edge import refusal_of
from raftkv.kv.commands import encode, encode_once
from raftkv.kv.model import KvResult, Refusal, Refused, SessionResult
from raftkv.kv.requests import OpenSession, Revoke
from raftkv.kv.sessions import UNANSWERED_MAX
from raftkv.kv.settings import KvSettings
from raftkv.node.settings import Settings
from raftkv.runtime.base import Runtime

_ATTEMPT_ELECTIONS: Final = 1.5
"""The first attempt is given so many election timeouts, each further one twice the time before."""

_NOT_OPENED: Final = (
    "the deadline passed and nothing was proposed: no majority of the members answered in time (the"
    " first write through a node opens a client session)"
)

_FULL: Final = (Refusal.NO_SPACE, Refusal.TOO_MANY_LEASES)
_COMES_AGAIN: Final = (Refusal.SESSION_NOT_FOUND, Refusal.ENTRY_FULL)
"""What was refused for these was not done, and may be in another session, or another entry."""


class Proposer(Protocol):
    """What is needed of the node."""

    def propose(self, command: bytes, *, timeout: float = 5.0) -> Awaitable[KvResult]:
        """Replicate a command once."""
        ...

    def check(self) -> None:
        """Raise what any call would."""
        ...

    @property
    def runtime(self) -> Runtime:
        """Clock and chance."""
        ...

    @property
    def settings(self) -> Settings:
        """How long an election takes."""
        ...


class KeepAlive(Protocol):
    """How a lease is kept alive."""

    async def __call__(self, lease: int, /, *, timeout: float) -> int:
        """Its time to live from now on in seconds. Raises LeaseNotFoundError if it has ended."""
        ...


class _Open:
    """A session that was opened: which sequences were given out, and which are settled."""

    __slots__ = ("answered", "id", "lease", "next", "settled")

    def __init__(self, opened: SessionResult) -> None:
        self.id = opened.session
        self.lease = opened.lease
        self.next = 0
        self.answered = 0
        """Everything below it is settled: answered, or given up."""
        self.settled: set[int] = set()

    def give(self) -> int:
        """The next sequence. Raises TooManyRequestsError if too many are not settled."""
        sequence = self.next
        if sequence - self.answered >= UNANSWERED_MAX:
            raise TooManyRequestsError(
                f"{sequence - self.answered} writes stand behind one that is not answered yet:"
                " wait for answers before asking more"
            )
        self.next = sequence + 1
        return sequence

    def settle(self, sequence: int) -> None:
        """Nobody waits for this one any more."""
        if sequence != self.answered:
            self.settled.add(sequence)
            return
        settled = self.settled
        sequence += 1
        while sequence in settled:
            settled.remove(sequence)
            sequence += 1
        self.answered = sequence


class _Attempt:
    """Somebody opens a session, for all who wait: they go on together, and share an entry."""

    __slots__ = ("ended", "is_full")

    def __init__(self) -> None:
        self.ended = Event()
        self.is_full = False  # whether the store has no room for a session


class Session:
    """The session that all writes of one client share."""

    def __init__(self, node: Proposer, settings: KvSettings) -> None:
        self._node = node
        self._clock = node.runtime.clock
        self._ttl = settings.session_ttl
        times = node.settings
        self._attempt = _ATTEMPT_ELECTIONS * times.election_ticks * times.tick_seconds
        self._open: _Open | None = None
        self._attempt_to_open: _Attempt | None = None

    async def propose(self, command: bytes, timeout: float) -> KvResult:
        """Replicate a command, once however often it has to be tried.

        Raises what the node does; OutcomeUnknownError only once ``timeout`` seconds are over.
        """
        began_ns = self._clock.monotonic_ns()
        left = timeout
        while True:
            session = self._open
            if session is None:
                session = await self._opened(left)
                left = self._left(began_ns, timeout)
            if session is None:
                result = await self._node.propose(command, timeout=left)
            else:
                sequence = session.give()
                data = encode_once(session.id, sequence, session.answered, command)
                patience = self._attempt
                try:
                    if left <= patience:
                        result = await self._node.propose(data, timeout=left)
                    else:
                        try:
                            result = await self._node.propose(data, timeout=patience)
                        except (OutcomeUnknownError, DeadlineError) as error:
                            left -= patience
                            result = await self._again(session, sequence, command, left, error)
                finally:
                    session.settle(sequence)
            if type(result) is not Refused or result.why not in _COMES_AGAIN:
                return result
            left = self._left(began_ns, timeout)
            if session is not None and result.why is Refusal.SESSION_NOT_FOUND:
                self._lost(session)
            elif not left:
                return result

    def _left(self, began_ns: int, timeout: float) -> float:
        return max(timeout - (self._clock.monotonic_ns() - began_ns) / 1e9, 0.0)

    async def keep(self, keep_alive: KeepAlive) -> None:
        """Keep the session alive while it is used; to be run beside the node, until cancelled."""
        clock = self._clock
        seen: tuple[int, int] | None = None
        while True:
            await clock.sleep_until(clock.monotonic_ns() + round(self._ttl / 3 * 1e9))
            session, before = self._open, seen
            if session is None:
                continue
            seen = session.id, session.next
            if seen == before and session.answered == session.next:
                self._lost(session)  # nobody used it for a while: it ends with its lease
                continue
            try:
                await keep_alive(session.lease, timeout=self._ttl / 3)
            except LeaseNotFoundError:
                self._lost(session)
            except (UnavailableError, OutcomeUnknownError):
                continue  # the next turn may still be in time

    def last_words(self) -> bytes | None:
        """The command that ends the session and its lease, as nobody will write in it any more.

        None if no session is open.
        """
        session, self._open = self._open, None
        if session is None:
            return None
        command = encode(Revoke(session.lease))
        return encode_once(session.id, session.next, session.answered, command)

    def _lost(self, session: _Open) -> None:
        if self._open is session:
            self._open = None

    # --- trying again -----------------------------------------------------------------------------

    async def _again(
        self,
        session: _Open,
        sequence: int,
        command: bytes,
        seconds: float,
        error: OutcomeUnknownError | DeadlineError,
    ) -> KvResult:
        """Further attempts, after one that ended with ``error``, for so many seconds."""
        clock = self._clock
        deadline_ns = clock.monotonic_ns() + round(min(seconds, 1e9) * 1e9)
        unknown = error if isinstance(error, OutcomeUnknownError) else None
        failure: Error = error
        patience = self._attempt
        while (left := (deadline_ns - clock.monotonic_ns()) / 1e9) > 0:
            patience *= 2
            data = encode_once(session.id, sequence, session.answered, command)
            try:
                result = await self._node.propose(data, timeout=min(left, patience))
            except OutcomeUnknownError as caught:
                unknown = caught
            except DeadlineError as caught:
                failure = caught
            except TooManyRequestsError as caught:
                failure = caught
                tick_ns = self._node.settings.tick_ns
                await clock.sleep_until(min(deadline_ns, clock.monotonic_ns() + tick_ns))
            except Error as caught:
                failure = caught
                break
            else:
                is_gone = type(result) is Refused and result.why is Refusal.SESSION_NOT_FOUND
                if is_gone and unknown is not None:
                    self._lost(session)
                    raise OutcomeUnknownError(
                        f"the client session ended before it was known what became of the write:"
                        f" {unknown}",
                        unknown.request,
                    )
                return result
        if unknown is not None:
            raise unknown from failure
        raise failure

    # --- opening ----------------------------------------------------------------------------------

    async def _opened(self, timeout: float) -> _Open | None:
        """Wait until a session is open; None if the store has no room for one."""
        with suppress(UnavailableError):  # a member that recovers may write
            self._node.check()  # before another loop than the node's meets who waits here
        began_ns = self._clock.monotonic_ns()
        try:
            with fail_after(timeout):
                while self._open is None:
                    attempt = self._attempt_to_open
                    if attempt is not None:
                        await attempt.ended.wait()
                    else:
                        attempt = self._attempt_to_open = _Attempt()
                        try:
                            attempt.is_full = not await self._begin(began_ns, timeout)
                        finally:
                            self._attempt_to_open = None
                            attempt.ended.set()
                    if attempt.is_full:
                        return None
        except DeadlineError:
            raise
        except TimeoutError as error:
            raise DeadlineError(_NOT_OPENED) from error
        return self._open

    async def _begin(self, began_ns: int, timeout: float) -> bool:
        """Open a session; False if the store has no room for one.

        Each copy of the command that is done opens one of its own. Those of which nobody heard end
        by their time.
        """
        command = encode(OpenSession(0, self._ttl))
        patience = self._attempt
        while True:
            seconds = self._left(began_ns, timeout)
            try:
                opened = await self._node.propose(command, timeout=min(seconds, patience))
            except (OutcomeUnknownError, DeadlineError) as error:
                if seconds <= patience:
                    raise DeadlineError(_NOT_OPENED) from error
                patience *= 2
                continue
            if isinstance(opened, SessionResult):
                self._open = _Open(opened)
                return True
            if isinstance(opened, Refused) and opened.why in _FULL:
                return False
            raise refusal_of(opened)
