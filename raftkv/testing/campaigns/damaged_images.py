"""Snapshots cut short, mixed up, flipped, or of a newer format: refused, whatever else they hold.

What is refused never reaches the rows: a member keeps an arriving image aside until the last check
has passed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from random import Random

from raftkv.errors import StorageCorruptError, StorageFormatError
from raftkv.kv import image
from raftkv.machine import Row
from raftkv.storage.base import Space
from raftkv.storage.memory import MemoryStore
from raftkv.testing.campaigns.frame import Case, Facts, FindingError

DAMAGES_PER_IMAGE = 20
_ROWS_MAX = 300
_FORMAT_AT = 10  # behind the ten bytes that say what it is
Chunks = list[bytes]


def _image(random: Random) -> tuple[list[Row], Chunks]:
    """Rows, some of them long, and their image in chunks."""
    store = MemoryStore()
    batch = store.batch()
    for number in range(random.randint(1, _ROWS_MAX)):
        size = random.choice((0, 10, 100, 5_000)) if number % 50 else 300_000
        batch.put(Space.MACHINE, b"%06d" % number, random.randbytes(size))
    store.write(batch)
    rows, chunks = list(store.scan(Space.MACHINE)), list(image.dump(store))
    store.close()
    return rows, chunks


def _recut(chunks: Chunks, random: Random) -> Chunks:
    """The same stream, cut elsewhere: chunks need not be those of the sender."""
    stream = b"".join(chunks)
    places = sorted({0, len(stream), *(random.randrange(len(stream)) for _ in range(6))})
    return [stream[start:stop] for start, stop in pairwise(places)]


def _cut_short(chunks: Chunks, other: Chunks, random: Random) -> Chunks:
    stream = b"".join(chunks)
    return [stream[: random.randrange(len(stream))]]


def _without_one(chunks: Chunks, other: Chunks, random: Random) -> Chunks:
    gone = random.randrange(len(chunks))
    return chunks[:gone] + chunks[gone + 1 :]


def _one_twice(chunks: Chunks, other: Chunks, random: Random) -> Chunks:
    twice = random.randrange(len(chunks))
    return chunks[: twice + 1] + chunks[twice:]


def _two_swapped(chunks: Chunks, other: Chunks, random: Random) -> Chunks:
    first = random.randrange(len(chunks) - 1)
    return [*chunks[:first], chunks[first + 1], chunks[first], *chunks[first + 2 :]]


def _mixed(chunks: Chunks, other: Chunks, random: Random) -> Chunks:
    at = random.randrange(1, len(chunks))
    return chunks[:at] + other[min(at, len(other) - 1) :]


def _flipped(chunks: Chunks, other: Chunks, random: Random) -> Chunks:
    stream = bytearray(b"".join(chunks))
    bit = random.randrange(len(stream) * 8)
    stream[bit // 8] ^= 1 << bit % 8
    return _recut([bytes(stream)], random)


def _newer(chunks: Chunks, other: Chunks, random: Random) -> Chunks:
    stream = bytearray(b"".join(chunks))
    stream[_FORMAT_AT] += random.randint(1, 100)
    return [bytes(stream)]


_DAMAGES: Mapping[str, Callable[[Chunks, Chunks, Random], Chunks]] = {
    "cut short": _cut_short,
    "without a chunk": _without_one,
    "a chunk twice": _one_twice,
    "two chunks swapped": _two_swapped,
    "mixed with another image": _mixed,
    "a bit flipped": _flipped,
    "of a newer format": _newer,
}


def _restored(chunks: Chunks) -> list[Row]:
    """What a member would put in the place of its rows. Raises as the image's reader does."""
    found: list[Row] = []
    carry = b""
    for chunk in chunks:
        rows, carry = image.restore(chunk, carry)
        found += rows
    image.check_whole(carry)
    return found


def damage_images(case: Case) -> Facts:
    """One image, intact and then damaged in every way that there is."""
    random = case.random()
    rows, chunks = _image(random)
    _, other = _image(random)
    facts = Counter[str]()
    for whole in (chunks, _recut(chunks, random)):
        if _restored(whole) != rows:
            raise FindingError("an intact image gives other rows")
    for name, damaged in _damaged(chunks, other, random):
        try:
            found = _restored(damaged)
        except StorageFormatError:
            facts["of a newer format"] += 1
        except StorageCorruptError:
            if name == "of a newer format":
                raise FindingError("a newer format is called damage") from None
            facts["refused"] += 1
        else:
            raise FindingError(f"{name}: taken for whole, with {len(found)} of {len(rows)} rows")
    return facts


def _damaged(chunks: Chunks, other: Chunks, random: Random) -> Iterator[tuple[str, Chunks]]:
    names = sorted(_DAMAGES)
    for number in range(DAMAGES_PER_IMAGE):
        name = names[number % len(names)]
        yield name, _DAMAGES[name](chunks, other, random)
