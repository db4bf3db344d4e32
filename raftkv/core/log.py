"""The log as a persistent window: the compaction point and every entry after it.

Appending, truncating and compacting give a new Log that shares structure with the old one: entries
lie in chunks of 64, so that adding k entries to n copies k + 64 + n/64 references at worst, and an
old State keeps its old log for nothing. Terms are found through the runs of equal terms, without
an entry being touched.

Every entry carries a *chain* value over everything before it, so two logs that end with the same
chain are equal throughout, and comparing or hashing a log of any length looks at two numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from hashlib import blake2b
from struct import Struct
from typing import Final

from attrs import frozen

from raftkv.core.ensure import ensure
from raftkv.core.types import ENTRY_OVERHEAD_BYTES, Entry, EntryKind, Payload
from raftkv.errors import InvariantError

_CHUNK: Final = 64
_SHIFT: Final = 6
_LINK: Final = Struct("<QQQB")
_pack_link = _LINK.pack
_to_int = int.from_bytes
_copy_blank = blake2b(digest_size=8).copy
_new = object.__new__
_set_dict = object.__setattr__
_GONE: Final = Entry(0, 0, EntryKind.NORMAL, b"", 0)


def chain_of(previous: int, term: int, index: int, kind: int, data: bytes) -> int:
    """The chain value of an entry: 64 bits of BLAKE2b over previous value, header and payload.

    The same on every machine and in every process; it is stored with the entry and travels with it.
    """
    digest = _copy_blank()  # cheaper than a new one, which looks at all its parameters
    link = _pack_link(previous, term, index, kind)
    if len(data) <= 4096:  # one call where joining is cheaper than a second one
        digest.update(link + data)
    else:
        digest.update(link)
        digest.update(data)
    return _to_int(digest.digest(), "little")


@frozen(slots=False, eq=False)
class Log:
    """Entries ``base_index + 1`` .. ``last_index``, and what is known of ``base_index`` itself.

    ``runs`` holds (first index, term) of each stretch of equal terms. ``size_bytes`` is the
    encoded size of all entries in the window.
    """

    base_index: int
    base_term: int
    base_chain: int
    last_index: int
    last_term: int
    last_chain: int
    size_bytes: int
    runs: tuple[tuple[int, int], ...]
    origin: int
    chunks: tuple[tuple[Entry, ...], ...]
    tail: tuple[Entry, ...]

    @classmethod
    def starting_at(cls, index: int, term: int, chain: int = 0) -> Log:
        """An empty window after a snapshot (or after nothing: 0, 0)."""
        return cls(index, term, chain, index, term, chain, 0, (), index + 1, (), ())

    # --- looking ------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        """Index of the first entry that is here, or would be."""
        return self.base_index + 1

    def __len__(self) -> int:
        return self.last_index - self.base_index

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Log):
            return NotImplemented
        return (
            self.last_chain == other.last_chain
            and self.last_index == other.last_index
            and self.last_term == other.last_term
            and self.base_index == other.base_index
            and self.base_term == other.base_term
            and self.base_chain == other.base_chain
        )

    def __hash__(self) -> int:
        return hash((self.base_index, self.base_chain, self.last_index, self.last_chain))

    def __repr__(self) -> str:
        return (
            f"Log({self.base_term}/{self.base_index} .. {self.last_term}/{self.last_index},"
            f" chain={self.base_chain:016x}..{self.last_chain:016x})"
        )

    def has_term(self, index: int) -> bool:
        """Whether the term at ``index`` is known: in the window, or the compaction point."""
        return self.base_index <= index <= self.last_index

    def term_at(self, index: int) -> int:
        """The term at ``index``; ask ``has_term`` first."""
        runs = self.runs
        if runs and index >= runs[-1][0]:
            return runs[-1][1]
        if index == self.base_index:
            return self.base_term
        return runs[bisect_right(runs, index, key=_first_of_run) - 1][1]

    def matches(self, index: int, term: int) -> bool:
        """Whether ``index`` is in the window, or the compaction point, with this term (§5.3)."""
        return self.base_index <= index <= self.last_index and self.term_at(index) == term

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends so is at least as up to date as this one (§5.4.1)."""
        return last_term > self.last_term or (
            last_term == self.last_term and last_index >= self.last_index
        )

    def last_at_most(self, index: int, term: int) -> tuple[int, int]:
        """The greatest index up to ``index`` whose term is at most ``term``, with its term.

        For probing hints. Where the search leaves the window, that index with term 0.
        """
        if not self.has_term(index):
            return index, 0
        for first, run_term in reversed(self.runs):
            if index < first:
                continue
            if run_term <= term:
                return index, run_term
            index = first - 1
        if self.base_term <= term:
            return index, self.base_term
        return index - 1, 0

    def entry(self, index: int) -> Entry:
        """The entry at ``index``, which must lie in the window."""
        position = index - self.origin
        chunk = position >> _SHIFT
        if chunk < len(self.chunks):
            return self.chunks[chunk][position & (_CHUNK - 1)]
        return self.tail[position - (len(self.chunks) << _SHIFT)]

    def chain_at(self, index: int) -> int:
        """The chain value at ``index``, compaction point included."""
        if index == self.last_index:
            return self.last_chain
        return self.base_chain if index == self.base_index else self.entry(index).chain

    def slice(self, first: int, stop: int) -> tuple[Entry, ...]:
        """Entries from ``first`` up to and excluding ``stop``; all must lie in the window."""
        if first >= stop:
            return ()
        low = first - self.origin
        high = stop - self.origin
        in_tail = len(self.chunks) << _SHIFT
        if low >= in_tail:
            return self.tail[low - in_tail : high - in_tail]
        entries: list[Entry] = []
        for chunk in range(low >> _SHIFT, min((high - 1) >> _SHIFT, len(self.chunks) - 1) + 1):
            start = chunk << _SHIFT
            entries += self.chunks[chunk][max(low - start, 0) : high - start]
        if high > in_tail:
            entries += self.tail[: high - in_tail]
        return tuple(entries)

    def page(self, first: int, stop: int, bytes_max: int) -> tuple[Entry, ...]:
        """Like ``slice``, but at most ``bytes_max`` encoded; at least one entry."""
        if first >= stop:
            return ()
        if self.size_bytes <= bytes_max:
            return self.slice(first, stop)
        size = 0
        for index in range(first, stop):
            size += self.entry(index).size_bytes
            if size > bytes_max:
                return self.slice(first, max(index, first + 1))
        return self.slice(first, stop)

    def entries(self) -> Iterator[Entry]:
        """Every entry in the window, in order."""
        return iter(self.slice(self.first_index, self.last_index + 1))

    # --- changing: each gives a new Log -------------------------------------------------------

    def propose(self, term: int, payloads: tuple[Payload, ...]) -> tuple[Log, tuple[Entry, ...]]:
        """Give payloads their places at the end; also the entries they became."""
        chain = self.last_chain
        entries: list[Entry] = []
        for index, payload in enumerate(payloads, self.last_index + 1):
            chain = chain_of(chain, term, index, payload.kind, payload.data)
            entries.append(Entry(term, index, payload.kind, payload.data, chain))
        placed = tuple(entries)
        return self.append(placed), placed

    def append(self, entries: tuple[Entry, ...]) -> Log:
        """Add entries directly after the last one."""
        if not entries:
            return self
        last = entries[-1]
        if entries[0].index != self.last_index + 1:
            raise InvariantError("entries do not follow the log's end")
        size = self.size_bytes + _encoded_bytes(entries)
        runs = self.runs
        if not runs or last.term != self.last_term:  # rarely: nearly always one term throughout
            term = runs[-1][1] if runs else 0
            for entry in entries:
                if entry.term != term:
                    ensure(entry.term > term, "I5: terms must not decrease along the log")
                    term = entry.term
                    runs = (*runs, (entry.index, term))
        tail = self.tail + entries
        chunks = self.chunks
        if len(tail) >= _CHUNK:
            full = len(tail) & -_CHUNK
            chunks = chunks + tuple(tail[i : i + _CHUNK] for i in range(0, full, _CHUNK))
            tail = tail[full:]
        # One copy of the dict and what differs: 0.4 us instead of 0.6 for a constructor call.
        fields = {**self.__dict__}
        fields["last_index"] = last.index
        fields["last_term"] = last.term
        fields["last_chain"] = last.chain
        fields["size_bytes"] = size
        fields["runs"] = runs
        fields["chunks"] = chunks
        fields["tail"] = tail
        log = _new(Log)
        _set_dict(log, "__dict__", fields)
        return log

    def truncate(self, from_index: int) -> Log:
        """Drop the entry at ``from_index`` and all after it (a conflicting suffix, §5.3)."""
        ensure(from_index > self.base_index, "a compacted entry would be truncated")
        last = from_index - 1
        if last >= self.last_index:
            return self
        dropped = _encoded_bytes(self.slice(from_index, self.last_index + 1))
        position = from_index - self.origin
        chunk = position >> _SHIFT
        if chunk < len(self.chunks):
            chunks, tail = self.chunks[:chunk], self.chunks[chunk][: position & (_CHUNK - 1)]
        else:
            chunks, tail = self.chunks, self.tail[: position - (len(self.chunks) << _SHIFT)]
        return Log(
            self.base_index,
            self.base_term,
            self.base_chain,
            last,
            self.term_at(last),
            self.chain_at(last),
            self.size_bytes - dropped,
            tuple(run for run in self.runs if run[0] <= last),
            self.origin,
            chunks,
            tail,
        )

    def compact(self, to_index: int) -> Log:
        """Forget entries up to and including ``to_index``, which becomes the compaction point."""
        if to_index <= self.base_index:
            return self
        ensure(to_index <= self.last_index, "a compaction beyond the log's end")
        dropped = _encoded_bytes(self.slice(self.first_index, to_index + 1))
        term, chain = self.term_at(to_index), self.chain_at(to_index)
        if to_index == self.last_index:
            return Log.starting_at(to_index, term, chain)
        first = to_index + 1
        whole = min((first - self.origin) >> _SHIFT, len(self.chunks))
        chunks, tail = self.chunks[whole:], self.tail
        # Blank what is dropped of the first chunk, so that its payloads are freed and places stay
        # put.
        rest = first - self.origin - (whole << _SHIFT)
        if chunks:
            chunks = ((_GONE,) * rest + chunks[0][rest:], *chunks[1:])
        else:
            tail = (_GONE,) * rest + tail[rest:]
        return Log(
            to_index,
            term,
            chain,
            self.last_index,
            self.last_term,
            self.last_chain,
            self.size_bytes - dropped,
            _runs_from(self.runs, first),
            self.origin + (whole << _SHIFT),
            chunks,
            tail,
        )


def _encoded_bytes(entries: tuple[Entry, ...]) -> int:
    if len(entries) == 1:
        return ENTRY_OVERHEAD_BYTES + len(entries[0].data)
    return ENTRY_OVERHEAD_BYTES * len(entries) + sum([len(entry.data) for entry in entries])


def _first_of_run(run: tuple[int, int]) -> int:
    return run[0]


def _runs_from(runs: tuple[tuple[int, int], ...], first: int) -> tuple[tuple[int, int], ...]:
    """The runs that reach ``first`` or lie after it, the first of them cut to start there."""
    start = bisect_right(runs, first, key=_first_of_run) - 1
    return ((first, runs[start][1]), *runs[start + 1 :])
