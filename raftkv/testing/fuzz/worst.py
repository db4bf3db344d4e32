"""The inputs that cost most for their size: length bombs, nests, crowds, colliding keys.

Each is as large as the target ever gets, and right as far as the decoder has to read it. Those that
need most memory come first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice, product
from typing import Final

from raftkv.core.messages import (
    AppendEntries,
    AskTerm,
    ForwardProposal,
    Heartbeat,
    InstallSnapshot,
    PeerMessage,
    ReadIndexResponse,
)
from raftkv.core.types import Entry, EntryKind, Membership, Payload, Snapshot
from raftkv.encoding import CBOR_BYTES_MAX
from raftkv.kv.commands import encode as encode_command
from raftkv.kv.model import PutResult, TxnResult
from raftkv.kv.requests import TXN_DEPTH_MAX, DeleteOne, Expire, Txn
from raftkv.kv.results import encode_result
from raftkv.kv.sessions import KEPT_RESULT_BYTES_MAX
from raftkv.node.commands import encode_commands
from raftkv.testing.fuzz.targets import FRAME_BYTES_MAX
from raftkv.transport.codec import ITEMS_MAX, MESSAGES_MAX, encode_messages
from raftkv.transport.wire import encode_frame

_SNAPSHOT_ITEMS: Final = 8  # as the codec counts an announced snapshot


def _cbor() -> Iterator[bytes]:
    size = CBOR_BYTES_MAX

    def crowd(unit: bytes) -> bytes:
        count = (size - 3) // len(unit)
        return b"\x99" + min(count, 0xFFFF).to_bytes(2, "big") + unit * min(count, 0xFFFF)

    for unit in (
        b"\x80",
        b"\xa0",
        b"\x81\x80",
        b"\x62ab",
        b"\x42ab",
        b"\x19\x01\x00",
        b"\xa1\x60\xa0",
    ):
        yield crowd(unit)
    yield crowd(b"\x81" * 14 + b"\x80")  # nests, as deep as may be
    yield crowd(b"\xa1\x60" * 14 + b"\xa0")
    yield b"\x81" * size
    yield b"\xa1\x60" * (size // 2)
    # Arrays of -1 and -2, which have equal hashes: keys that all collide.
    keys = [
        b"\x90" + bytes(key) + b"\xf6" for key in islice(product((0x20, 0x21), repeat=16), 3600)
    ]
    yield b"\xb9" + len(keys).to_bytes(2, "big") + b"".join(keys)
    numbers = [b"\x1b" + (number << 44).to_bytes(8, "big") + b"\xf6" for number in range(6500)]
    yield b"\xb9" + len(numbers).to_bytes(2, "big") + b"".join(numbers)
    names = [b"\x64" + b"%04x" % number + b"\xf6" for number in range(10_000)]
    yield b"\xb9" + len(names).to_bytes(2, "big") + b"".join(names)
    yield from (bytes((major | 27,)) + b"\x3f" + b"\xff" * 7 for major in range(0, 256, 32))
    yield b"\x9f" * size  # indefinite lengths
    yield b"\x5f" + b"\x41\x00" * (size // 2 - 1) + b"\xff"
    yield b"\xc2\x59\xff\xf0" + b"\xff" * 0xFFF0  # a number of 65,520 bytes
    yield b"\xd8\x23" * (size // 2)  # tags of tags
    yield b"\x80" + bytes(size - 1)  # trailing bytes


def _messages() -> Iterator[bytes]:
    def of(one: PeerMessage, items: int = 1) -> bytes:
        return encode_messages([one] * min(MESSAGES_MAX, ITEMS_MAX // items))

    blank, wish = Entry(1, 1, EntryKind.NORMAL, b"ab", 7), Payload(EntryKind.NORMAL, b"ab")
    yield of(AppendEntries(1, 2, 3, 4, 5, 6, (blank,) * (ITEMS_MAX - 1)), ITEMS_MAX)
    yield of(ReadIndexResponse(1, 2, 3, 4, b"ab"))
    yield of(AskTerm(1, 2, b"ab"))
    yield of(Heartbeat(1, 2, 3, 4, 5, 6))
    yield of(AppendEntries(1, 2, 3, 4, 5, 6, ()))
    yield of(AppendEntries(1, 2, 3, 4, 5, 6, (blank,) * 63), 64)
    yield of(ForwardProposal(1, 2, (), 5))
    yield of(ForwardProposal(1, 2, (wish,) * (ITEMS_MAX - 1), 5), ITEMS_MAX)
    nobody = InstallSnapshot(1, 2, 3, Snapshot(4, 5, 6, Membership(()), b""))
    yield of(nobody, _SNAPSHOT_ITEMS)
    some = Membership((1, 2), (3, 4), (5, 6), (7, 8))
    yield of(InstallSnapshot(1, 2, 3, Snapshot(4, 5, 6, some, b"")), _SNAPSHOT_ITEMS + 8)
    crowd = Membership(tuple(range(2**62, 2**62 + ITEMS_MAX - _SNAPSHOT_ITEMS)))
    yield of(InstallSnapshot(1, 2, 3, Snapshot(4, 5, 6, crowd, b"")), ITEMS_MAX)
    # More than may come: refused before it is read.
    yield b"\x01" + encode_messages([nobody])[1:] * (FRAME_BYTES_MAX // 66)
    yield b"\x01" + encode_messages([Heartbeat(1, 2, 3, 4, 5, 6)])[1:] * (FRAME_BYTES_MAX // 49)
    first = bytearray(encode_messages([AppendEntries(1, 2, 3, 4, 5, 6, ())]))
    first[50:54] = b"\xff" * 4  # entries that are not there
    yield bytes(first)


def _frames() -> Iterator[bytes]:
    yield encode_frame(0, b"") * (64 * 1024 // 9)  # as many as a read of the socket brings
    yield b"\xff" * 64
    yield encode_frame(0, bytes(60 * 1024))


def _files() -> Iterator[bytes]:
    yield b"[" * 60_000 + b"\n"
    yield b'{"a":' * 10_000
    yield b"9" * (64 * 1024)
    yield b'[0, "a", Infinity, null]\n'
    yield b'[0, "a", 1, {"$": "bytes", "": []}]\n'
    yield b'{"format": 1, "level": "", "seed": Infinity}'
    run = {"format": 1, "level": "", "seed": 1, "steps": 1, "decisions": "*999999999999"}
    yield json.dumps(run).encode()


def _commands() -> Iterator[bytes]:
    yield encode_commands(1, 2, 3, [b""] * ITEMS_MAX)
    yield encode_commands(1, 2, 3, [])[:-4] + b"\xff" * 4


def _kv_commands() -> Iterator[bytes]:
    # A crowd that is refused; then what is taken, with as many parts, and as deep, as may be.
    yield encode_command(Expire(1, (7,) * ((FRAME_BYTES_MAX - 100) // 8)))
    several = tuple(DeleteOne(b"%d" % number) for number in range(60))
    yield encode_command(Txn(then=tuple(Txn(otherwise=several) for _ in range(16))))
    deep = Txn(then=several[:32])
    for _ in range(TXN_DEPTH_MAX - 1):
        deep = Txn(then=(*several[:10], deep))
    yield encode_command(deep)
    long = DeleteOne(b"k" * (FRAME_BYTES_MAX // 2 - 100))
    yield encode_command(Txn(then=(long, Txn(then=(long,)))))
    many = Txn(then=several)
    yield encode_command(Txn(then=(Txn(then=(many,) * 60),) * 60))


def _kv_results() -> Iterator[bytes]:
    size = KEPT_RESULT_BYTES_MAX
    level = encode_result(TxnResult(1, True, (PutResult(1),)))[: -len(encode_result(PutResult(1)))]
    yield level * (size // len(level))
    yield encode_result(TxnResult(1, True, (PutResult(1),) * (size // 13 - 2)))


WORST: Final[Mapping[str, Callable[[], Iterator[bytes]]]] = {
    "cbor": _cbor,
    "rosters": _cbor,
    "change notes": _cbor,
    "questions": lambda: (one[:2048] for one in _cbor()),
    "invitations": _cbor,
    "messages": _messages,
    "frames": _frames,
    "commands": _commands,
    "artifacts": _files,
    "histories": _files,
    "kv commands": _kv_commands,
    "kv results": _kv_results,
}
"""By the names of targets."""
