"""Entries that a member lost, from a member that still has exactly these.

A member whose log ends before what its witness promised knows where it must end again: index and
chain value. It asks its peers, one after the other, whether there is a leader or not; any peer
whose log runs from the asker's verified end through that promise gives what lies between, even one
that is recovering itself. Every entry is checked against the one before it and the last against
the promise before the core hears of any: what comes out is the old log or nothing (protocol-aware
recovery). So two damaged members of three become whole from the third without deciding anything::

    ASK    22 u8 | after u64 | after's chain u64 | to u64 | to's chain u64
    GIVE   23 u8 | to u64 | to's chain u64 | entries as they are stored, each with its CRC
    NONE   24 u8 | to u64 | to's chain u64

Where every other voter answers NONE and no leader is known, nobody who can be asked has the entry:
the cluster stands still rather than decide again, and an alarm names the index.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from struct import Struct
from struct import error as StructError
from typing import Final

from raftkv.core import Entry, Input, Log, Promise, Recovering, Repaired, State
from raftkv.core.log import chain_of
from raftkv.encoding import decode_entry, encode_entry
from raftkv.errors import WireError
from raftkv.runtime.base import Spawner
from raftkv.transport.base import Lane, Transport

_log = logging.getLogger("raftkv.node")

# The numbers are on the wire: they never change.
_ASK: Final = 22
_GIVE: Final = 23
_NONE: Final = 24
_QUESTION: Final = Struct("<BQQQQ")
_ANSWER: Final = Struct("<BQQ")
_FRAME_BYTES: Final = 256 * 1024  # of entries in one frame, then another; one entry may have more
_REPAIR_BYTES_MAX: Final = 512 * 2**20  # a longer gap is left to the leader, and to snapshots


class Repair:
    """Both sides. Loop thread only."""

    def __init__(self, transport: Transport, spawner: Spawner, frame_bytes_max: int) -> None:
        self._transport = transport
        self._spawner = spawner
        self._frame_bytes = min(_FRAME_BYTES, frame_bytes_max // 2)
        self._giving: set[int] = set()
        self._asked = 0  # the peer whose answer is awaited, or 0
        self._promise: Promise | None = None
        self._entries: list[Entry] = []
        self._from = (0, 0)  # index and chain of the log's end, which the entries continue
        self._chain = 0
        self._size_bytes = 0
        self._is_moving = False  # whether entries came since the last call of ask()
        self._refused: set[int] = set()  # not to be asked again before all others were
        self._lacking: set[int] = set()  # those of them that said that they have it not
        self.give: Callable[[Input], None] = _nobody
        """Gives the core an input in the next turn."""
        self.on_alarm: Callable[[str], None] = _nobody
        """Told that nobody who can be asked has what is missing."""
        self.name_of: Callable[[int], str] = str
        """What to call a member in the log."""
        self._alarmed = 0

    # --- asking ---------------------------------------------------------------------------------

    def ask(self, state: State, promise: Promise, peers: list[int]) -> None:
        """Ask the next of the connected peers for what is missing. Called every now and then.

        Not while entries keep coming: a long answer takes as long as it takes. One that broke off
        is gone on with where it ended, whoever is asked next.
        """
        log = state.log
        if log.last_index >= promise.index:
            self.forget()
            return  # another log than promised: what is committed decides, not a copy
        here = (log.last_index, log.last_chain)
        if (promise, here) != (self._promise, self._from):
            self.forget()
        elif self._is_moving:
            self._is_moving = False
            return
        left = [peer for peer in peers if peer not in self._refused and peer != self._asked]
        if not left:
            self._tell_if_nobody_has_it(state, promise)
            self._refused.clear()
            self._lacking.clear()
            self._asked = 0
            left = peers
        reached = (self._entries[-1].index, self._chain) if self._entries else here
        question = _QUESTION.pack(_ASK, *reached, promise.index, promise.chain)
        for peer in left:
            if self._transport.send(peer, question, Lane.BULK):
                self._asked, self._promise = peer, promise
                self._from, self._chain = here, reached[1]
                return

    def forget(self) -> None:
        """Nothing is asked any more: let go of what came so far."""
        self._asked = 0
        self._promise = None
        self._entries = []
        self._size_bytes = 0
        self._is_moving = False

    def _tell_if_nobody_has_it(self, state: State, promise: Promise) -> None:
        membership = state.membership
        others = {*membership.voters, *membership.outgoing} - {state.id}
        missing = state.log.last_index + 1
        heard = bool(others) and others <= self._lacking
        if state.leader or not heard or self._alarmed == missing:
            return
        self._alarmed = missing
        self.on_alarm(
            f"entry {missing} is lost here, which was promised with all up to entry"
            f" {promise.index}, and no other voter has it either: nothing is decided again, the"
            " cluster stands still; bring back a member that has it, or restore a backup"
        )

    # --- frames ---------------------------------------------------------------------------------

    def on_frame(self, peer: int, frame: bytes, state: State) -> None:
        """A question, or an answer to ours."""
        try:
            if frame[0] == _ASK:
                self._answer(peer, frame, state)
            else:
                self._hear(peer, frame)
        except (StructError, WireError) as error:
            _log.warning("a repair with member %s is broken off: %s", self.name_of(peer), error)
            self._refuse(peer)

    def _hear(self, peer: int, frame: bytes) -> None:
        kind, index, chain = _ANSWER.unpack_from(frame)
        promise = self._promise
        if (
            promise is None
            or peer != self._asked
            or (index, chain)
            != (
                promise.index,
                promise.chain,
            )
        ):
            return  # an answer that is late
        if kind == _NONE:
            self._lacking.add(peer)
            self._refuse(peer)
        elif kind == _GIVE:
            self._take(frame, promise)
        else:
            raise WireError(f"a repair frame of kind {kind}")

    def _refuse(self, peer: int) -> None:
        if peer == self._asked:
            self._refused.add(peer)
            self.forget()

    def _take(self, frame: bytes, promise: Promise) -> None:
        """Entries, each checked against the one before it, and the last against the promise."""
        offset = start = _ANSWER.size
        while offset < len(frame):
            is_first = offset == start
            entry, offset = decode_entry(frame, offset)
            last = self._entries[-1].index if self._entries else self._from[0]
            if entry.index != last + 1:
                if is_first:
                    return  # a frame before it was lost, or it answers an earlier question
                raise WireError(f"entry {entry.index} follows {last}")
            if is_first:
                self._count(len(frame))
            self._chain = chain_of(self._chain, entry.term, entry.index, entry.kind, entry.data)
            if entry.chain != self._chain:
                raise WireError(f"entry {entry.index} does not continue the chain")
            self._entries.append(entry)
            self._is_moving = True
        if not self._entries or self._entries[-1].index < promise.index:
            return  # more is coming
        if (self._entries[-1].index, self._chain) != (promise.index, promise.chain):
            raise WireError(f"entry {promise.index} is not the one that was promised")
        name = self.name_of(self._asked)
        _log.info("entries up to %d came back from member %s", promise.index, name)
        self.give(Repaired(tuple(self._entries)))
        self.forget()

    def _count(self, size_bytes: int) -> None:
        self._size_bytes += size_bytes
        if self._size_bytes > _REPAIR_BYTES_MAX:
            raise WireError(f"more than {_REPAIR_BYTES_MAX} bytes are missing: a leader must help")

    # --- giving ---------------------------------------------------------------------------------

    def _answer(self, peer: int, frame: bytes, state: State) -> None:
        _, after, after_chain, to, to_chain = _QUESTION.unpack(frame)
        head = _ANSWER.pack(_GIVE, to, to_chain)
        log = state.log
        if peer in self._giving:
            return
        if not _runs_through(log, after, after_chain) or not _runs_through(log, to, to_chain):
            self._transport.send(peer, _ANSWER.pack(_NONE, to, to_chain), Lane.BULK)
            return
        self._giving.add(peer)

        async def give() -> None:
            try:
                for part in _parts(log, after, to, self._frame_bytes):
                    if not await self._transport.drained(peer, Lane.BULK):
                        return
                    if not self._transport.send(peer, head + part, Lane.BULK):
                        return
            finally:
                self._giving.discard(peer)

        self._spawner.spawn(f"repair of {peer}", give)


def promise_of(state: State) -> Promise | None:
    """What must be there again for the member to be whole; None if no copy can prove that."""
    recovery = state.recovery
    if recovery is None or recovery.kind is not Recovering.LOG:
        return None
    return recovery.promised


def _runs_through(log: Log, index: int, chain: int) -> bool:
    return log.base_index <= index <= log.last_index and log.chain_at(index) == chain


def _parts(log: Log, after: int, to: int, bytes_max: int) -> Iterator[bytes]:
    """The entries behind ``after`` up to ``to``, as many in one part as its length allows."""
    part = bytearray()
    for index in range(after + 1, to + 1):
        record = encode_entry(log.entry(index))
        if part and len(part) + len(record) > bytes_max:
            yield bytes(part)
            part.clear()
        part += record
    yield bytes(part)


def _nobody(_what: object) -> None:
    pass
