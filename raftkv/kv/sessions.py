"""Exactly once: what clients asked in sessions, and what they were answered.

A client that heard no answer proposes the same :class:`~raftkv.kv.requests.Once` again. The first
that is applied has the effect; its result is kept, and given again to every later one. Sequences
that the client said are ``answered`` are never applied: neither again nor for the first time. A
session lives as long as the lease whose id it has, and all its rows vanish with it.

=====================  ============================================================
key behind the tag     row
=====================  ============================================================
session, 0             the lowest sequence that may still be asked for
session, 1, chunk      results of 64 sequences, as numbers
session, 2, sequence   a result that is no mere revision
=====================  ============================================================

Nearly all results are revisions of puts: 64 of them stand in one row, as 1 where the result has a
row of its own, 0 where there is none, trailing ones left out. A chunk goes as a whole, with the
rows of its own results, once all of it is answered; until then what it holds stays, so that rows
depend on the commands alone.

Memory holds the chunks of the sessions in use, at most ``CACHED_CHUNKS_MAX``, or one session's;
everything else is found in the rows again.
"""

from __future__ import annotations

import struct
from typing import Final

from raftkv.errors import StorageCorruptError
from raftkv.kv.model import Done, KvResult, PutResult, Refusal, Refused
from raftkv.kv.results import decode_result, encode_result
from raftkv.storage.base import Batch, Reader, Space

SESSIONS: Final = b"S"
"""Tag of the rows, in the space ``machine``."""

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
_OWN_ROW: Final = 1  # no result is revision 1: a fresh store has it before any write
_EMPTY: Final = [_NOTHING] * _CHUNK

_KEY: Final = struct.Struct(">cQ")
_PART: Final = struct.Struct(">cQBQ")
_ANSWERED: Final = struct.Struct("<Q")
_HEAD_PART: Final = b"\0"
_CHUNK_PART: Final = 1
_RESULT_PART: Final = 2


class _Session:
    """One session as far as memory holds it."""

    __slots__ = ("answered", "chunks", "dirty", "moved")

    def __init__(self, answered: int) -> None:
        self.answered = answered
        self.chunks: dict[int, list[int]] = {}
        self.dirty: set[int] = set()  # chunks to write at the end of the slice
        self.moved = False  # whether `answered` is to be written


class Sessions:
    """The sessions of one store. Loop thread only."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._cached: dict[int, _Session | None] = {}  # the longest unused first; None: ended
        self._touched: dict[int, _Session] = {}
        self._chunks = 0
        # Rows of this slice, which the store does not have yet; None: deleted.
        self._rows: dict[bytes, bytes | None] = {}

    # --- in apply ---------------------------------------------------------------------------------

    def begin(self, session: int, sequence: int, answered: int) -> KvResult | None:
        """What is to be answered without applying the command; None: apply it, and then `end`."""
        found = self._cached.get(session) or self._find(session)
        if found is None:
            return Refused(
                f"session {session:x} not found: it was never opened, or its lease has ended",
                Refusal.SESSION_NOT_FOUND,
            )
        if sequence < found.answered or sequence < answered:
            return Refused(
                f"sequence {sequence} of session {session:x} is answered already:"
                f" it asked for nothing below {max(answered, found.answered)} any more"
            )
        chunk = found.chunks.get(sequence >> _CHUNK_BITS)
        if chunk is not None and chunk[sequence & _MASK]:
            return self._again(session, sequence, chunk[sequence & _MASK])
        if answered > found.answered:
            self._advance(session, found, answered)
        if sequence - found.answered >= UNANSWERED_MAX:
            return Refused(
                f"too many requests: sequence {sequence} of session {session:x} is"
                f" {sequence - found.answered} ahead of the first that is not answered, at most"
                f" {UNANSWERED_MAX - 1} are allowed; wait for answers",
                Refusal.TOO_MANY_UNANSWERED,
            )
        return None

    def end(self, session: int, sequence: int, result: KvResult | int) -> None:
        """Keep what applying it gave; a plain put's revision as a mere number."""
        found = self._cached.get(session)
        if found is None:
            return  # the command ended its own session
        number = sequence >> _CHUNK_BITS
        chunk = found.chunks.get(number)
        if chunk is None:
            chunk = found.chunks[number] = _EMPTY.copy()
            self._chunks += 1
        if type(result) is int:
            chunk[sequence & _MASK] = result
        else:
            chunk[sequence & _MASK] = _OWN_ROW
            self._rows[_PART.pack(SESSIONS, session, _RESULT_PART, sequence)] = _kept(result)
        found.dirty.add(number)
        self._touched[session] = found

    def open(self, lease: int, revision: int) -> Done:
        """Begin the session of a lease that is there; one that exists goes on."""
        if self._find(lease) is None:
            session = self._cached[lease] = self._touched[lease] = _Session(0)
            session.moved = True
        return Done(revision)

    def close(self, lease: int) -> None:
        """The lease ends: its session, if it has one, and all that was kept for it go."""
        found = self._find(lease)
        if found is None:
            return
        self._chunks -= len(found.chunks)
        self._touched.pop(lease, None)
        first, behind = _bounds(lease)
        for key in [key for key in self._rows if first <= key < behind]:
            del self._rows[key]
        for key, _ in self._reader.scan(_MACHINE, first, behind):
            self._rows[key] = None
        self._cached[lease] = None

    def flush(self, batch: Batch) -> None:
        """The slice ends: write what it changed."""
        if not self._touched and not self._rows:
            return
        for session, found in self._touched.items():
            if found.moved:
                key = _KEY.pack(SESSIONS, session) + _HEAD_PART
                batch.put(_MACHINE, key, _ANSWERED.pack(found.answered))
                found.moved = False
            for number in sorted(found.dirty):
                key = _PART.pack(SESSIONS, session, _CHUNK_PART, number)
                batch.put(_MACHINE, key, _pack(found.chunks[number]))
            found.dirty.clear()
        for key, row in self._rows.items():
            if row is None:
                batch.delete(_MACHINE, key)
            else:
                batch.put(_MACHINE, key, row)
        self._touched.clear()
        self._rows.clear()
        self._forget()

    # --- inside -----------------------------------------------------------------------------------

    def _advance(self, session: int, found: _Session, answered: int) -> None:
        first = answered >> _CHUNK_BITS
        if first > found.answered >> _CHUNK_BITS:
            for number in [number for number in found.chunks if number < first]:
                chunk = found.chunks.pop(number)
                self._chunks -= 1
                found.dirty.discard(number)
                self._rows[_PART.pack(SESSIONS, session, _CHUNK_PART, number)] = None
                for place, result in enumerate(chunk):
                    if result == _OWN_ROW:
                        sequence = number << _CHUNK_BITS | place
                        self._rows[_PART.pack(SESSIONS, session, _RESULT_PART, sequence)] = None
        found.answered = answered
        found.moved = True
        self._touched[session] = found

    def _again(self, session: int, sequence: int, kept: int) -> KvResult:
        """The first result."""
        if kept != _OWN_ROW:
            return PutResult(kept)
        key = _PART.pack(SESSIONS, session, _RESULT_PART, sequence)
        row = self._rows[key] if key in self._rows else self._reader.get(_MACHINE, key)
        if row is None:
            raise _corrupt(f"the result of sequence {sequence} of session {session:x} is missing")
        return decode_result(row)

    def _find(self, session: int) -> _Session | None:
        """The session, from memory or the rows; None if there is none."""
        if session in self._cached:
            return self._cached[session]
        row = self._reader.get(_MACHINE, _KEY.pack(SESSIONS, session) + _HEAD_PART)
        if row is None:
            return None
        if len(row) != _ANSWERED.size:
            raise _corrupt(f"the row of session {session:x} has {len(row)} bytes")
        found = _Session(_ANSWERED.unpack(row)[0])
        first = _PART.pack(SESSIONS, session, _CHUNK_PART, 0)
        behind = _PART.pack(SESSIONS, session, _RESULT_PART, 0)
        for key, packed in self._reader.scan(_MACHINE, first, behind):
            found.chunks[_PART.unpack(key)[3]] = _unpack(session, packed)
        self._chunks += len(found.chunks)
        self._cached[session] = found
        return found

    def _forget(self) -> None:
        """Keep memory bounded: of ended sessions nothing, of others the least recently loaded go."""
        cached = self._cached
        if self._chunks <= CACHED_CHUNKS_MAX and len(cached) <= CACHED_CHUNKS_MAX:
            return
        for session in [one for one, found in cached.items() if found is None]:
            del cached[session]
        while len(cached) > 1 and (
            self._chunks > CACHED_CHUNKS_MAX or len(cached) > CACHED_CHUNKS_MAX
        ):
            found = cached.pop(next(iter(cached)))
            self._chunks -= 0 if found is None else len(found.chunks)


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


def _pack(chunk: list[int]) -> bytes:
    return struct.pack(f"<{_CHUNK}Q", *chunk).rstrip(b"\0")


def _unpack(session: int, row: bytes) -> list[int]:
    if len(row) > 8 * _CHUNK:
        raise _corrupt(f"a row of results of session {session:x} has {len(row)} bytes")
    return list(struct.unpack(f"<{_CHUNK}Q", row.ljust(8 * _CHUNK, b"\0")))


def _bounds(session: int) -> tuple[bytes, bytes]:
    """Between which keys all rows of the session stand."""
    return _KEY.pack(SESSIONS, session), _KEY.pack(SESSIONS, session + 1)


def _corrupt(what: str) -> StorageCorruptError:
    return StorageCorruptError(
        f"{what}; remove this member's data directory and let it join again, or restore a backup"
    )
