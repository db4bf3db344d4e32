"""The keeper of the leases: every member has one, and the leader's works.

A new leader first proposes :class:`~raftkv.kv.requests.TakeOver`. Once that is applied here, every
decision of keepers before it is either applied, too, or void for good; then the keeper loads all
leases, gives each what was left of it and an election timeout more, and begins to renew and to end
them, by the monotonic clock alone.

**Renewals** are no log entries. One is acknowledged if a majority still followed this leader after
it was asked (a read of the store, shared by all that are asked meanwhile), and if this member still
leads in the term in which it took over. Then whoever leads next was elected after the question, and
gives the lease all of its time from a later moment on. Where the store has a checkpoint of the
lease, which would have the next leader give it less, that is taken back first, durably.

**Ends** are proposed under the keeper's term. A leader that stood still while others took over may
believe that a lease is up which they renewed: what it proposes is void. Until the end of a lease is
decided no renewal of it is acknowledged.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from anyio.lowlevel import checkpoint

from raftkv.errors import OutcomeUnknownError, UnavailableError
from raftkv.kv.client.asking import (
    UNKNOWN,
    Question,
    decode_question,
    encode_answer,
)
from raftkv.kv.client.base import Replica
from raftkv.kv.client.edge import refusal_of
from raftkv.kv.commands import encode
from raftkv.kv.deadlines import Deadlines, Kept
from raftkv.kv.leases import read_lease, read_leases, read_table
from raftkv.kv.machine import KvMachine
from raftkv.kv.model import Done
from raftkv.kv.requests import Checkpoint, Expire, TakeOver
from raftkv.kv.settings import KvSettings

_log = logging.getLogger("raftkv.kv")

LOAD_LEASES: Final = 512
"""So many are loaded before the event loop runs."""

LOOK_LEASES: Final = 1024
"""So many are looked at before the event loop runs."""

EXPIRE_LEASES: Final = 256
EXPIRE_KEYS: Final = 1024
"""Leases that one command ends, and keys that it deletes, unless a lease alone has more."""

_SECOND: Final = 1_000_000_000
_PERIOD_TICKS: Final = 2  # leases live for seconds, and idle members should be idle


class _Tenure:
    """The leases while this member leads, in one term."""

    def __init__(self, term: int, checkpoint_ns: int) -> None:
        self.term = term
        self.deadlines = Deadlines(checkpoint_ns)
        self.has_begun = False  # whether the take-over is applied
        self.is_loaded = False
        self.ending: list[Kept] = []  # up, but not known to have ended


class Keeper:
    """One member's keeper. To be run as a companion of the node, and to answer its questions."""

    def __init__(self, node: Replica, machine: KvMachine, settings: KvSettings) -> None:
        self._node = node
        self._machine = machine
        self._clock = node.runtime.clock
        times = node.settings
        self._period_ns = _PERIOD_TICKS * times.tick_ns
        self._election_ns = times.election_ticks * times.tick_ns
        self._patience = 2 * self._election_ns / 1e9
        self._checkpoint_ns = round(settings.checkpoint_seconds * 1e9)
        self._tenure: _Tenure | None = None
        self._grants = 0  # how many leases the machine has made
        machine.on_leases = self._heard

    # --- the task -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the leases whenever this member leads; never returns by itself."""
        clock = self._clock
        while True:
            await clock.sleep_until(clock.monotonic_ns() + self._period_ns)
            try:
                await self._turn()
            except (UnavailableError, OutcomeUnknownError) as error:
                # Nothing is lost: it is proposed anew, if this member still leads.
                _log.debug("the keeper of the leases tries again: %s", error)

    async def _turn(self) -> None:
        term, tenure = self._node.leading, self._tenure
        if not term:
            self._tenure = None
            return
        if tenure is None or tenure.term != term:
            # Before the take-over: what is granted from here on is told to us, and what was before
            # the take-over is there to be loaded behind it.
            tenure = self._tenure = _Tenure(term, self._checkpoint_ns)
        if not tenure.has_begun:
            await self._take_over(tenure)
        if not tenure.is_loaded:
            await self._load(tenure)
        while await self._look(tenure):
            await checkpoint()

    async def _take_over(self, tenure: _Tenure) -> None:
        await self._propose(tenure, TakeOver(tenure.term))
        self._grants = max(self._grants, read_table(self._machine.store).grants)
        tenure.has_begun = True

    async def _load(self, tenure: _Tenure) -> None:
        after = 0
        while found := read_leases(self._machine.store, after, LOAD_LEASES):
            now = self._clock.monotonic_ns()
            for lease in found:
                tenure.deadlines.load(lease, now, self._election_ns)
            after = found[-1].id
            await checkpoint()
        tenure.is_loaded = True

    def _heard(self, leases: Sequence[tuple[int, int, int]]) -> None:
        """The machine made leases, or ended them."""
        tenure, now = self._tenure, self._clock.monotonic_ns()
        for lease, ttl, number in leases:
            self._grants = max(self._grants, number)
            if tenure is None:
                continue
            if number:
                tenure.deadlines.granted(lease, ttl, now)
            else:
                tenure.deadlines.ended(lease)

    # --- ending ---------------------------------------------------------------------------------

    async def _look(self, tenure: _Tenure) -> bool:
        """End what is up, write down what remains of others; whether there is more to do now."""
        more = True
        if len(tenure.ending) < EXPIRE_LEASES:
            up, low, more = tenure.deadlines.look(self._clock.monotonic_ns(), LOOK_LEASES)
            tenure.ending += up
            if low:
                await self._checkpoint(tenure, low)
        if tenure.ending:
            await self._end(tenure)
        return more or bool(tenure.ending)

    async def _end(self, tenure: _Tenure) -> None:
        tenure.ending = [kept for kept in tenure.ending if not kept.is_gone]
        batch: list[Kept] = []
        keys = 0
        for kept in tenure.ending[:EXPIRE_LEASES]:
            known = read_lease(self._machine.store, kept.id)
            keys += 0 if known is None else known.keys
            if batch and keys > EXPIRE_KEYS:
                break
            batch.append(kept)
        if batch:
            _log.info("%d leases are up", len(batch))
            leases = tuple(kept.id for kept in batch)
            done = await self._propose(tenure, Expire(tenure.term, leases, self._grants))
            # Keys that were attached meanwhile may have left the last ones for another command.
            for kept in batch[: len(batch) - done.left]:
                tenure.deadlines.drop(kept)

    async def _checkpoint(self, tenure: _Tenure, low: list[Kept]) -> None:
        now = self._clock.monotonic_ns()
        remaining = tuple((kept.id, tenure.deadlines.checkpoint(kept, now)) for kept in low)
        await self._propose(tenure, Checkpoint(tenure.term, remaining, self._grants))

    async def _propose(self, tenure: _Tenure, command: TakeOver | Expire | Checkpoint) -> Done:
        """Raises UnavailableError if this tenure is over."""
        result = await self._node.propose(encode(command), timeout=self._patience)
        if not isinstance(result, Done):
            raise UnavailableError(str(refusal_of(result)))
        self._check(tenure)
        return result

    def _check(self, tenure: _Tenure) -> None:
        """Raise UnavailableError unless this member leads as it did."""
        if self._tenure is not tenure or self._node.leading != tenure.term:
            raise UnavailableError("this member does not keep the leases any more")

    # --- answering ------------------------------------------------------------------------------

    async def answer(self, question: bytes) -> bytes:
        """What the node's ``answer_with`` wants. Raises UnavailableError while it cannot be said.

        Asked of this member because it leads, or did a moment ago.
        """
        decoded = decode_question(question)
        if decoded is None:
            return b""
        kind, lease = decoded
        tenure = self._tenure
        if tenure is None or not tenure.is_loaded:
            raise UnavailableError("the leases are not loaded yet")
        await self._node.read(timeout=self._patience)
        self._check(tenure)
        kept = await self._prepared(tenure, lease, renew=kind is Question.KEEP_ALIVE)
        if kept is None:
            return encode_answer(kind, UNKNOWN, 0)
        now = self._clock.monotonic_ns()
        if kind is Question.KEEP_ALIVE:
            tenure.deadlines.renew(kept, now)
        return encode_answer(kind, kept.remaining_ns(now) // _SECOND, kept.ttl_ns // _SECOND)

    async def _prepared(self, tenure: _Tenure, lease: int, *, renew: bool) -> Kept | None:
        """The lease, without a checkpoint if it is to be renewed; None if there is none.

        A checkpoint under way is taken back behind it: a member's commands keep their order while
        it leads. What this says is so when it returns.
        """
        while True:
            if read_lease(self._machine.store, lease) is None:
                return None
            kept = tenure.deadlines.get(lease)
            if kept is None or kept.is_ending:
                raise UnavailableError(f"the end of lease {lease:x} is being decided")
            if not renew or not kept.checkpoints:
                return kept
            checkpoints = kept.checkpoints
            taken_back = Checkpoint(tenure.term, ((lease, 0),), self._grants)
            await self._propose(tenure, taken_back)
            tenure.deadlines.taken_back(kept, checkpoints)
