"""Bad inputs made from valid ones. One seed makes one sequence of them, in every process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

from raftkv.testing.fuzz.trial import Target

_EDITS_MAX: Final = 4
_COPIES_MAX: Final = 64
_EDGES: Final = (2**7, 2**8, 2**15, 2**16, 2**31, 2**32, 2**63, 2**64)
_NUMBERS: Final = (0, 1, 2, *_EDGES, *(edge - 1 for edge in _EDGES))
_WIDTHS: Final = (1, 2, 4, 8)
# What CBOR makes of a first byte: containers and strings of every size, tags, simple values.
_CBOR: Final = bytes.fromhex("405f60787b7f80849b9fa0a4bbbfc0c2d8daf4f6f7f8f9fbff")


def mutations(target: Target, seed: int) -> Iterator[bytes]:
    """Without an end: changed valid inputs, most with their checksums made right again."""
    random = Random(f"{target.name}/{seed}")
    valid = (*target.valid(), *target.more())
    while True:
        data = bytearray(random.choice(valid))
        if random.random() < 0.1:
            data += random.choice(valid)
        for _ in range(random.randint(1, _EDITS_MAX)):
            _edit(random, data, valid)
        made = bytes(data[: target.bytes_max])
        if target.fix is not None and random.random() < 0.8:
            made = target.fix(made)
        yield made


def _edit(random: Random, data: bytearray, valid: Sequence[bytes]) -> None:
    """One change, anywhere."""
    at = random.randint(0, len(data))
    size = random.randint(0, min(16, len(data) - at))
    match random.randrange(9):
        case 0 if at < len(data):
            data[at] ^= 1 << random.randrange(8)
        case 1 if at < len(data):
            data[at] = random.randrange(256)
        case 2:
            del data[at:]
        case 3:
            del data[at : at + size]
        case 4:
            data[at:at] = random.randbytes(random.randint(1, 8))
        case 5:
            data[at:at] = data[at : at + size] * random.randint(1, _COPIES_MAX)
        case 6:
            _put_number(random, data, at)
        case 7:
            other = random.choice(valid)
            start = random.randint(0, len(other))
            data[at : at + size] = other[start : start + random.randint(1, 64)]
        case _:
            data[at : at + 1] = bytes((random.choice(_CBOR),)) * random.choice((1, 1, 2, 20))


def _put_number(random: Random, data: bytearray, at: int) -> None:
    """A number at the edge of some range, in place of what stands there."""
    width = random.choice(_WIDTHS)
    number = random.choice((*_NUMBERS, len(data), len(data) - at))
    number = max(0, number + random.choice((-1, 0, 0, 1))) % 256**width
    data[at : at + width] = number.to_bytes(width, random.choice(("little", "big")))
