"""Exactly once: what clients asked in sessions, and what they were answered.

A client that heard no answer proposes the same :class:`~raftkv.kv.requests.Once` again. The first
that is applied has the effect; its result is kept, and given again to every later one. Sequences
that the client said are ``answered`` are never applied: neither again nor for the first time. A
session lives as long as the lease that was granted with it, and all its rows vanish then.

A command may come later than that: delayed, or sent twice by a network that keeps what it has. So a
session is named by the number of its lease's grant, of which the store gives none twice. Whatever
comes for one that ended finds no session for ever, and is refused without effect, though late
openings come with it: each opens another session, of a number that nobody was told, and that ends
by itself. An id of the client's choice, such as a lease's, could be opened anew by the delayed
opening, and the write delayed with it would be done again; and that no two clients choose the same
would be left to chance, which copies of one machine share.

=========  =================  ============================================================
tag        key behind it      row
=========  =================  ============================================================
``S``      session, 0         nothing: the session is open
``S``      session, 1, chunk  results of up to 64 sequences, as numbers
``O``      session, sequence  an outcome: a result that is no mere revision
=========  =================  ============================================================

Nearly all results are revisions of puts: those of 64 sequences make a chunk, and stand in one row.
It begins with the lowest sequence that could still be asked for when it was written last, and
holds the results from there on, 0 where there is none: two numbers, for who waits for each answer
before the next write. What is answered the newest row knows: a command that says more of it has its
result behind that. Where a result has a row of its own its number has the highest bit set,
and is what that row counts in the size of the store (:mod:`raftkv.kv.sizes`), so that it can be
taken back without looking.

Memory holds the chunks of the sessions in use, at most ``CACHED_CHUNKS_MAX``, or one session's;
everything else is found in the rows again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from raftkv.errors import StorageCorruptError
from raftkv.kv.commands import parse_once
from raftkv.kv.engine import Slice
from raftkv.kv.leases import grant, read_table
from raftkv.kv.model import KvResult, LeaseResult, Refusal, Refused, SessionResult
from raftkv.kv.requests import Grant, OpenSession
from raftkv.kv.results import decode_result, encode_result
from raftkv.kv.rows import OUTCOMES, SESSIONS
from raftkv.kv.sizes import OUTCOME_BYTES
from raftkv.storage.base import Space

UNANSWERED_MAX: Final = 65_536
"""So far may a session's sequences be ahead of the first that is not answered."""

KEPT_RESULT_BYTES_MAX: Final = 64 * 1024
"""A longer result is not kept: who asks again hears that it was done, and not what it gave."""

CACHED_CHUNKS_MAX: Final = 4_096

_MACHINE: Final = Space.MACHINE
_CHUNK_BITS: Final = 6
_CHUNK: Final = 1 << _CHUNK_BITS
_MASK: Final = _CHUNK - 1
_NOTHING: Final = 0
_OWN_ROW: Final = 1 << 63  # and what that row counts; no revision comes so far

_KEY: Final = struct.Struct(">cQ")
_PART: Final = struct.Struct(">cQBQ")
_OUTCOME: Final = struct.Struct(">cQQ")
_NUMBERS: Final = tuple(struct.Struct(f"<{count}Q") for count in range(_CHUNK + 2))
_HEAD_PART: Final = b"\0"
_CHUNK_PART: Final = 1


class _Chunk:
    """Results by their places, as far as there are any."""

    __slots__ = ("answered", "results")

    def __init__(self, answered: int, results: list[int]) -> None:
        self.answered = answered  # as the session had it when this was written last
        self.results = results


class _Session:
    """One session as far as memory holds it."""

    __slots__ = ("answered", "chunks", "dirty", "outcomes")

    def __init__(self) -> None:
        self.answered = 0
        self.outcomes = 0  # how many results have rows of their own
        self.chunks: dict[int, _Chunk] = {}
        self.dirty: set[int] = set()  # chunks to write at the end of the slice


class Sessions:
    """The sessions of one store. Loop thread only."""

    def __init__(self) -> None:
        self._cached: dict[int, _Session] = {}  # the longest loaded first
        self._touched: dict[int, _Session] = {}
        self._chunks = 0

    @property
    def cached_chunks(self) -> int:
        """How many chunks memory holds."""
        return self._chunks

    def open(self) -> None:
        """The store is another one now: whatever was known is forgotten."""
        self._cached.clear()
        self._touched.clear()
        self._chunks = 0

    def begin(self, writes: Slice, command: OpenSession) -> KvResult:
        """Grant a lease and begin its session; refused as the grant is."""
        granted = grant(writes, Grant(command.lease, command.ttl), is_session=True)
        if not isinstance(granted, LeaseResult):
            return granted
        session = read_table(writes).grants
        self._cached[session] = _Session()
        writes.put_row(_KEY.pack(SESSIONS, session) + _HEAD_PART, b"")
        return SessionResult(session, granted.id, writes.revision)

    def once(
        self,
        writes: Slice,
        data: bytes,
        apply: Callable[[Slice, bytes], KvResult | int],
    ) -> KvResult | int:
        """What the command in it gives if it comes for the first time, else what it gave then.

        A plain put gives its revision as a mere number. Raises InvalidArgumentError for contents
        that no version ever wrote.
        """
        session, sequence, answered, command = parse_once(data)
        found = self._cached.get(session) or self._find(writes, session)
        if found is None:
            return Refused(
                f"session {session} not found: it was never opened, or its lease has ended",
                Refusal.SESSION_NOT_FOUND,
            )
        if answered < found.answered:
            answered = found.answered
        if sequence < answered:
            return _too_late(session, sequence)
        number, place = sequence >> _CHUNK_BITS, sequence & _MASK
        chunk = found.chunks.get(number)
        known = _NOTHING
        if chunk is not None and place < len(chunk.results):
            known = chunk.results[place]
        if not known and sequence - answered >= UNANSWERED_MAX:
            return _too_many(session, sequence - answered)
        if answered != found.answered:
            first = answered >> _CHUNK_BITS
            if found.outcomes or first != found.answered >> _CHUNK_BITS:
                self._answer(writes, session, found, first, answered & _MASK)
            found.answered = answered
            if known and chunk is not None:
                self._write(session, found, number, chunk)
        if known:
            return known if known < _OWN_ROW else _first(writes, session, sequence)
        result = apply(writes, command)
        if isinstance(result, int):
            known = result
        elif self._cached.get(session) is found:
            known = _keep(writes, session, sequence, result)
            found.outcomes += 1
        else:
            return result  # the command ended its own session
        if chunk is None:
            chunk = found.chunks[number] = _Chunk(answered, [])
            self._chunks += 1
        results = chunk.results
        if place >= len(results):
            results += [_NOTHING] * (place - len(results) + 1)
        results[place] = known
        self._write(session, found, number, chunk)
        return result

    def end(self, writes: Slice, session: int) -> None:
        """The lease of the session ended: it and all that was kept for it go."""
        found = self._find(writes, session)
        if found is None:
            raise _corrupt(f"the row of session {session}, of which there is a lease, is missing")
        self._drop(writes, session, found, list(found.chunks))
        writes.delete_row(_KEY.pack(SESSIONS, session) + _HEAD_PART)
        self._touched.pop(session, None)
        del self._cached[session]

    def flush(self, writes: Slice) -> None:
        """The slice ends: write down what it changed."""
        touched = self._touched
        if not touched:
            return
        for session, found in touched.items():
            for number in found.dirty:
                key = _PART.pack(SESSIONS, session, _CHUNK_PART, number)
                writes.put_row(key, _pack(number, found.chunks[number]))
            found.dirty.clear()
        touched.clear()
        if self._chunks > CACHED_CHUNKS_MAX or len(self._cached) > CACHED_CHUNKS_MAX:
            self._forget()

    # --- inside -----------------------------------------------------------------------------------

    def _write(self, session: int, found: _Session, number: int, chunk: _Chunk) -> None:
        """The chunk has a new result, or is the first to know what is answered."""
        chunk.answered = found.answered
        found.dirty.add(number)
        self._touched[session] = found

    def _answer(self, writes: Slice, session: int, found: _Session, first: int, place: int) -> None:
        """Nobody asks any more for what is before this place in the chunk ``first``."""
        self._drop(writes, session, found, [one for one in found.chunks if one < first])
        chunk = found.chunks.get(first)
        if chunk is not None and _release(writes, session, found, first, chunk.results[:place]):
            chunk.results[:place] = [_NOTHING] * place
            found.dirty.add(first)

    def _drop(self, writes: Slice, session: int, found: _Session, numbers: list[int]) -> None:
        """Nobody asks for what is in these chunks any more: they go."""
        for number in numbers:
            chunk = found.chunks.pop(number)
            self._chunks -= 1
            found.dirty.discard(number)
            writes.delete_row(_PART.pack(SESSIONS, session, _CHUNK_PART, number))
            _release(writes, session, found, number, chunk.results)

    def _find(self, writes: Slice, session: int) -> _Session | None:
        """The session, from memory or the rows; None if there is none."""
        found = self._cached.get(session)
        if found is not None:
            return found
        if writes.get(_MACHINE, _KEY.pack(SESSIONS, session) + _HEAD_PART) is None:
            return None
        found = _Session()
        first = _PART.pack(SESSIONS, session, _CHUNK_PART, 0)
        for key, packed in writes.scan(_MACHINE, first, _KEY.pack(SESSIONS, session + 1)):
            number = _PART.unpack(key)[3]
            chunk = found.chunks[number] = _unpack(session, number, packed)
            found.answered = max(found.answered, chunk.answered)
            found.outcomes += sum(result >= _OWN_ROW for result in chunk.results)
        self._chunks += len(found.chunks)
        self._cached[session] = found
        return found

    def _forget(self) -> None:
        """Keep memory bounded: what was loaded the longest ago goes."""
        cached = self._cached
        while len(cached) > 1 and (
            self._chunks > CACHED_CHUNKS_MAX or len(cached) > CACHED_CHUNKS_MAX
        ):
            self._chunks -= len(cached.pop(next(iter(cached))).chunks)


def _first(writes: Slice, session: int, sequence: int) -> KvResult:
    """The result in a row of its own."""
    row = writes.get(_MACHINE, _OUTCOME.pack(OUTCOMES, session, sequence))
    if row is None:
        raise _corrupt(f"the outcome of sequence {sequence} of session {session} is missing")
    return decode_result(row)


def _keep(writes: Slice, session: int, sequence: int, result: KvResult) -> int:
    """Keep the result in a row of its own; what stands for it in its chunk."""
    row = _kept(result)
    writes.put_row(_OUTCOME.pack(OUTCOMES, session, sequence), row)
    counted = OUTCOME_BYTES + len(row)
    writes.size += counted
    return _OWN_ROW | counted


def _release(writes: Slice, session: int, found: _Session, number: int, results: list[int]) -> bool:
    """Delete the outcomes of the first results of a chunk; whether there were any."""
    if not found.outcomes or max(results, default=_NOTHING) < _OWN_ROW:
        return False
    for place, result in enumerate(results):
        if result >= _OWN_ROW:
            found.outcomes -= 1
            writes.size -= result ^ _OWN_ROW
            sequence = number << _CHUNK_BITS | place
            writes.delete_row(_OUTCOME.pack(OUTCOMES, session, sequence))
    return True


def _too_late(session: int, sequence: int) -> Refused:
    return Refused(
        f"sequence {sequence} of session {session} is below what the session said is answered"
    )


def _too_many(session: int, ahead: int) -> Refused:
    return Refused(
        f"too many requests: session {session} is {ahead} ahead of the first that is not"
        f" answered, at most {UNANSWERED_MAX - 1} are allowed; wait for answers",
        Refusal.TOO_MANY_UNANSWERED,
    )


def _kept(result: KvResult) -> bytes:
    data = encode_result(result)
    if len(data) <= KEPT_RESULT_BYTES_MAX:
        return data
    return encode_result(
        Refused(
            f"it was done before, at revision {result.revision}, but its result of {len(data)}"
            " bytes was too large to be kept: read at that revision",
            Refusal.RESULT_NOT_KEPT,
            result.revision,
        )
    )


def _pack(number: int, chunk: _Chunk) -> bytes:
    results = chunk.results[max(chunk.answered - (number << _CHUNK_BITS), 0) :]
    return _NUMBERS[1 + len(results)].pack(chunk.answered, *results)


def _unpack(session: int, number: int, row: bytes) -> _Chunk:
    count, odd = divmod(len(row), _NUMBERS[1].size)
    if not count or odd or count >= len(_NUMBERS):
        raise _corrupt(f"a row of results of session {session} has {len(row)} bytes")
    answered, *results = _NUMBERS[count].unpack(row)
    start = max(answered - (number << _CHUNK_BITS), 0)
    if start + len(results) > _CHUNK:
        raise _corrupt(f"a row of results of session {session} begins at sequence {answered}")
    return _Chunk(answered, [_NOTHING] * start + results)


def _corrupt(what: str) -> StorageCorruptError:
    return StorageCorruptError(
        f"{what}; remove this member's data directory and let it join again, or restore a backup"
    )
