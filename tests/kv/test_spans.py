"""The index of spans finds what a look at every span finds, whatever was put in and taken out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raftkv.kv.model import EVERYTHING, Span, prefix_span
from raftkv.kv.spans import CHUNK_SPANS_MAX, LENGTHS_MAX, SpanIndex
from tests.kv.oracle import edges, keys, lies_in, spans

alone = keys.map(lambda key: Span(key, key + b"\0"))
any_span = st.one_of(spans, alone).filter(lambda span: not span.is_empty)


def check(index: SpanIndex[Span], there: set[Span], key: bytes) -> None:
    found = index.at(key)
    assert len(found) == len(set(found))
    assert set(found) == {span for span in there if lies_in(key, span)}


@given(st.lists(st.tuples(st.booleans(), any_span)), st.lists(keys | edges, min_size=1))
def test_it_finds_the_spans_that_hold_a_key(
    steps: list[tuple[bool, Span]], asked: list[bytes]
) -> None:
    index: SpanIndex[Span] = SpanIndex()
    there: set[Span] = set()
    for removes, span in steps:
        assert index.get(span) == (span if span in there else None)
        if span in there and removes:
            index.remove(span)
            there.remove(span)
        elif span not in there:
            index.put(span, span)
            there.add(span)
        assert len(index) == len(there)
        for key in asked:
            check(index, there, key)
    for span in there:
        index.remove(span)
    assert not len(index)
    assert not any(index.at(key) for key in asked)


def test_many_ranges_and_prefixes_of_many_lengths_are_found_as_well() -> None:
    index: SpanIndex[Span] = SpanIndex()
    ranges = [Span(b"%04d" % at, b"%04d" % (at + at % 7)) for at in range(4 * CHUNK_SPANS_MAX)]
    ranges += [Span(b"0100", b"02%02d" % at) for at in range(2 * CHUNK_SPANS_MAX)]
    prefixes = [prefix_span(b"p" * length) for length in range(1, 2 * LENGTHS_MAX)]
    there = {
        span for span in (*ranges, *prefixes, EVERYTHING, Span(b"0200", None)) if not span.is_empty
    }
    for span in sorted(there, key=lambda span: span.start[::-1]):
        index.put(span, span)
    asked = [b"%04d" % at for at in range(0, 5 * CHUNK_SPANS_MAX, 3)] + [b"p" * 40, b"p" * 99, b""]
    for key in asked:
        check(index, there, key)
    for span in sorted(there, key=lambda span: (span.start, span.stop or b"~"))[::2]:
        index.remove(span)
        there.remove(span)
    for key in asked:
        check(index, there, key)


def test_a_key_in_one_of_ten_thousand_prefixes_is_found_by_looking_at_few() -> None:
    index: SpanIndex[int] = SpanIndex()
    for number in range(10_000):
        index.put(prefix_span(b"%05d/" % number), number)
    assert index.at(b"04711/x") == [4711]
    assert len(index._prefixes) == 1  # pyright: ignore[reportPrivateUsage] - it says the cost
    assert not index._chunks  # pyright: ignore[reportPrivateUsage] - as above
