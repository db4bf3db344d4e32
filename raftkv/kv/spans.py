"""Which spans a key lies in, at a cost that does not grow with the number of spans.

Applications watch single keys and prefixes, and now and then a range. A single key is found in a
dictionary, and so is a prefix, by the beginnings of the key that are as long as any prefix there
is. What is left stands in order of its start and stop, in chunks that know the greatest end among
theirs: a chunk whose spans all end before the key is passed over at once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from operator import attrgetter
from typing import Final, Generic, TypeVar

from raftkv.kv.model import Span, prefix_stop

T = TypeVar("T")

LENGTHS_MAX: Final = 32
"""Prefixes of so many different lengths are found by their beginnings; others count as ranges."""

CHUNK_SPANS_MAX: Final = 128


def _order(span: Span) -> tuple[bytes, bool, bytes]:
    """By start, then stop: thousands may share a start, and each must be found at once."""
    return span.start, span.stop is None, span.stop or b""


class _Chunk:
    """Spans next to each other in their order, and how far the farthest reaches."""

    __slots__ = ("first", "lowest", "spans", "stop")

    def __init__(self, spans: list[Span]) -> None:
        self.spans = spans
        self.lowest = _order(spans[0])
        self.first = b""
        self.stop: bytes | None = b""
        self.measure()

    def measure(self) -> None:
        """The spans have changed."""
        self.first = self.spans[0].start
        self.lowest = _order(self.spans[0])
        self.stop = b""
        for span in self.spans:
            if span.stop is None:
                self.stop = None
                return
            self.stop = max(self.stop, span.stop)


_lowest: Final = attrgetter("lowest")


class SpanIndex(Generic[T]):
    """A value for each span, and the values of all spans that a key lies in."""

    def __init__(self) -> None:
        self._values: dict[Span, T] = {}
        self._keys: dict[bytes, T] = {}
        self._prefixes: dict[int, dict[bytes, T]] = {}  # by their length
        self._chunks: list[_Chunk] = []

    def __len__(self) -> int:
        return len(self._values)

    def get(self, span: Span) -> T | None:
        """The value of ``span``, or None."""
        return self._values.get(span)

    def put(self, span: Span, value: T) -> None:
        """Give ``span``, which must not be empty, a value; it must have none."""
        self._values[span] = value
        start = span.start
        if span.stop == start + b"\0":
            self._keys[start] = value
        elif prefix_stop(start) == span.stop and self._holds(len(start)):
            self._prefixes.setdefault(len(start), {})[start] = value
        else:
            self._insert(span)

    def remove(self, span: Span) -> None:
        """Take ``span`` and its value out; it must be there."""
        del self._values[span]
        start = span.start
        prefixes = self._prefixes.get(len(start), {})
        if span.stop == start + b"\0":
            del self._keys[start]
        elif prefix_stop(start) == span.stop and start in prefixes:
            del prefixes[start]
            if not prefixes:
                del self._prefixes[len(start)]
        else:
            self._discard(span)

    def at(self, key: bytes) -> list[T]:
        """The values of all spans that ``key`` lies in, in no order that means anything."""
        value = self._keys.get(key)
        found = [] if value is None else [value]
        for length, prefixes in self._prefixes.items():
            value = prefixes.get(key[:length])
            if value is not None:
                found.append(value)
        for chunk in self._chunks:
            if chunk.first > key:
                break
            if chunk.stop is not None and chunk.stop <= key:
                continue
            for span in chunk.spans:
                if span.start > key:
                    break
                if span.stop is None or key < span.stop:
                    found.append(self._values[span])
        return found

    def _holds(self, length: int) -> bool:
        return length in self._prefixes or len(self._prefixes) < LENGTHS_MAX

    def _insert(self, span: Span) -> None:
        chunks = self._chunks
        if not chunks:
            chunks.append(_Chunk([span]))
            return
        chunk = chunks[place := self._place(span)]
        insort(chunk.spans, span, key=_order)
        if len(chunk.spans) > CHUNK_SPANS_MAX:
            half = len(chunk.spans) // 2
            chunks.insert(place + 1, _Chunk(chunk.spans[half:]))
            del chunk.spans[half:]
        chunk.measure()

    def _discard(self, span: Span) -> None:
        chunk = self._chunks[place := self._place(span)]
        del chunk.spans[bisect_left(chunk.spans, _order(span), key=_order)]
        if chunk.spans:
            chunk.measure()
        else:
            del self._chunks[place]

    def _place(self, span: Span) -> int:
        """The chunk that holds ``span``, or would."""
        return max(0, bisect_right(self._chunks, _order(span), key=_lowest) - 1)
