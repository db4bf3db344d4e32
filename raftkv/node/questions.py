"""What members ask the leader beside the log: a few bytes there, a few bytes back.

Frames of the bulk lane::

    ASK     50 u8 | number u64 | question     to the leader
    ANSWER  51 u8 | number u64 | answer       from it
    PASSED  52 u8 | number u64                not from here, or not now: ask again

A question waits while no leader is known, and is asked again of a new leader, after an election
timeout without an answer, and where it was passed. So it may be *answered several times*, by
several leaders, while its asker hears one answer: what it asks for must be harmless to do twice.
Whether an answer is that of the leader at that time, and not of one that was deposed unawares, is
the answerer's to make sure, by a linearizable read.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from struct import Struct
from typing import Final

from raftkv.errors import (
    ClosedError,
    DeadlineError,
    Error,
    InvariantError,
    NodeStoppedError,
    OutcomeUnknownError,
    TooManyRequestsError,
    UnavailableError,
)
from raftkv.node.waiters import Waiter
from raftkv.runtime.base import Spawner
from raftkv.transport.base import Lane, Transport

_log = logging.getLogger("raftkv.node")

QUESTION_BYTES_MAX: Final = 64 * 1024
"""Longest question, and longest answer."""

QUESTIONS_MAX: Final = 10_000
QUESTIONS_BYTES_MAX: Final = 16 * 1024 * 1024
"""Asked here and not yet answered: more are refused. Being answered here: more are passed."""

# The numbers are on the wire: they never change.
ASK: Final = 50
ANSWER: Final = 51
PASSED: Final = 52
_HEAD: Final = Struct("<BQ")  # kind, the asker's number of the question
_BOOT_SHIFT: Final = 40

Answerer = Callable[[bytes], Awaitable[bytes]]
"""Answers a question while this member leads, or believes to.

Any bytes may be asked, and none may make it raise but for the times: an UnavailableError or an
OutcomeUnknownError has the question asked again.
"""


class _Asked:
    """A question and who waits for its answer."""

    __slots__ = ("asked_ns", "of", "waiter")

    def __init__(self, waiter: Waiter) -> None:
        self.waiter = waiter
        self.of = 0  # the member that was asked; 0: nobody yet
        self.asked_ns = 0


class Questions:
    """One member's part: its own questions, and those that it answers. Loop thread only."""

    def __init__(
        self,
        me: int,
        boot: int,
        transport: Transport,
        spawner: Spawner,
        retry_ns: int,
    ) -> None:
        self._me = me
        self._transport = transport
        self._spawner = spawner
        self._retry_ns = retry_ns
        self._next = (boot << _BOOT_SHIFT) + 1  # a late answer never meets a later boot's question
        self._asked: dict[int, _Asked] = {}
        self._asked_bytes = 0
        self._answering: set[tuple[int, int]] = set()
        self._answering_bytes = 0
        self.leader: Callable[[], int] = int
        """Tells who leads, as far as is known here; 0 if nobody does."""
        self.answerer: Answerer | None = None
        """Who answers while this member leads."""
        self.name_of: Callable[[int], str] = str
        """What to call a member in the log."""

    def __len__(self) -> int:
        return len(self._asked)

    # --- asking -----------------------------------------------------------------------------------

    def ask(self, waiter: Waiter, now_ns: int) -> None:
        """Have the leader answer ``waiter.data``. Raises TooManyRequestsError at the bound."""
        if len(self._asked) >= QUESTIONS_MAX or self._asked_bytes >= QUESTIONS_BYTES_MAX:
            raise TooManyRequestsError(
                f"{len(self._asked)} questions to the leader wait already: wait for answers"
            )
        number, self._next = self._next, self._next + 1
        asked = self._asked[number] = _Asked(waiter)
        self._asked_bytes += len(waiter.data)
        self._send(number, asked, self.leader(), now_ns)

    def tick(self, now_ns: int, reason: str) -> None:
        """Time passed: end what is late, ask again what may be lost; ``reason`` tells why late."""
        leader, again_ns = self.leader(), now_ns - self._retry_ns
        for number, asked in [*self._asked.items()]:
            waiter = asked.waiter
            if waiter.promise.done():  # its asker is gone
                self._forget(number)
            elif waiter.deadline_ns <= now_ns:
                self._forget(number)
                waiter.fail(
                    DeadlineError(f"the deadline passed before the leader answered: {reason}")
                )
            elif asked.of != leader or asked.asked_ns <= again_ns:
                self._send(number, asked, leader, now_ns)

    def fail_all(self, error: Error) -> None:
        """Nothing will be answered any more."""
        for asked in self._asked.values():
            asked.waiter.fail(error)
        self._asked.clear()
        self._asked_bytes = 0

    def _send(self, number: int, asked: _Asked, leader: int, now_ns: int) -> None:
        asked.of, asked.asked_ns = 0, now_ns
        question = asked.waiter.data
        if leader == self._me:
            asked.of = leader
            self._answer(leader, number, question)
        elif leader and self._transport.send(leader, _HEAD.pack(ASK, number) + question, Lane.BULK):
            asked.of = leader

    def _forget(self, number: int) -> None:
        self._asked_bytes -= len(self._asked.pop(number).waiter.data)

    def _take(self, by: int, number: int, answer: bytes | None) -> None:
        """What came of a question of ours; None: it was passed, and the next tick asks again."""
        asked = self._asked.get(number)
        if asked is None or asked.of != by:
            return  # late: it was asked of another meanwhile, or nobody waits any more
        if answer is None:
            asked.of = 0
            return
        self._forget(number)
        if not asked.waiter.promise.done():
            asked.waiter.promise.set_result(answer)

    # --- frames -----------------------------------------------------------------------------------

    def on_frame(self, peer: int, frame: bytes) -> None:
        """A question of a peer, or what came of one of ours; others are dropped."""
        if not _HEAD.size <= len(frame) <= _HEAD.size + QUESTION_BYTES_MAX:
            name = self.name_of(peer)
            _log.warning("a question of member %s is dropped: %d bytes", name, len(frame))
            return
        kind, number = _HEAD.unpack_from(frame)
        body = frame[_HEAD.size :]
        if kind == ASK:
            self._answer(peer, number, body)
        elif kind == ANSWER:
            self._take(peer, number, body)
        elif kind == PASSED:
            self._take(peer, number, None)
        else:
            name = self.name_of(peer)
            _log.warning("a question of member %s is dropped: its kind %d is new", name, kind)

    # --- answering --------------------------------------------------------------------------------

    def _answer(self, peer: int, number: int, question: bytes) -> None:
        answerer, key = self.answerer, (peer, number)
        if key in self._answering:
            return  # asked again before it was answered
        is_full = len(self._answering) >= QUESTIONS_MAX
        is_full = is_full or self._answering_bytes >= QUESTIONS_BYTES_MAX
        if answerer is None or is_full or self.leader() != self._me:
            self._tell(peer, number, None)
            return
        self._answering.add(key)
        self._answering_bytes += len(question)

        async def work() -> None:
            answer: bytes | None = None
            try:
                answer = await answerer(question)
            except (UnavailableError, OutcomeUnknownError, NodeStoppedError, ClosedError) as error:
                _log.debug("a question of member %s is passed: %s", self.name_of(peer), error)
            finally:
                self._answering.discard(key)
                self._answering_bytes -= len(question)
            self._tell(peer, number, answer)

        self._spawner.spawn(f"answer to {peer}", work)

    def _tell(self, peer: int, number: int, answer: bytes | None) -> None:
        if answer is not None and len(answer) > QUESTION_BYTES_MAX:
            raise InvariantError(f"an answer of {len(answer)} bytes, at most {QUESTION_BYTES_MAX}")
        if peer == self._me:
            self._take(peer, number, answer)
        elif answer is None:
            self._transport.send(peer, _HEAD.pack(PASSED, number), Lane.BULK)
        else:
            self._transport.send(peer, _HEAD.pack(ANSWER, number) + answer, Lane.BULK)
