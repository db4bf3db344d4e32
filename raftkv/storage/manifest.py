"""Whether batches are missing between RocksDB's tables and its write-ahead logs.

RocksDB notices a log file that is missing if its list of files, the MANIFEST, says that there was
one. But it takes a MANIFEST that ends early at a record's end, or an older copy of it, for the
truth: the tables written since then are removed as strangers, the logs they replaced are gone, and
the newer logs are replayed on top of the gap. Everything verifies, and rows are missing.

Sequence numbers tell. Each record of the MANIFEST has the newest one of its time, each batch in a
log the number it begins with. So a log may begin at most one after what the MANIFEST or an earlier
log knows; further on there is a gap. What cannot be parsed is not judged here: RocksDB verifies the
checksums of both, and refuses.

Both are files of records in blocks of 32 KiB. A record: checksum u32, length u16, type u8 (1 whole,
2 to 4 first to last piece), payload. A batch begins with its sequence number u64 and a count u32;
a record of the MANIFEST with fields of tag and value, the newest sequence number among the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final

from raftkv.storage.files import Files

_MANIFEST: Final = re.compile(r"MANIFEST-[0-9]{1,20}")
_LOG: Final = re.compile(r"[0-9]{1,20}\.log")
_BLOCK_BYTES: Final = 32 * 1024
_READ_BYTES: Final = 32 * _BLOCK_BYTES
_RECORD: Final = Struct("<IHB")
_BATCH: Final = Struct("<QI")
_WHOLE: Final = 1
_FIRST: Final = 2
_LAST: Final = 4
_SEQUENCE_TAG: Final = 4
# Fields that may come before: numbers, and bytes with their length. Anything else comes after.
_NUMBER_TAGS: Final = frozenset({2, 3, 9, 10, 203})
_BYTES_TAGS: Final = frozenset({1, 8193})


def missing_batches(store: Path, files: Files) -> str | None:
    """What is missing, for a human; None if nothing is, as far as can be told. Raises OSError."""
    known = newest_sequence(store, files)
    if known is None:
        return None
    # By number, which has six digits at first and more later on.
    logs = [name for name in files.names(store) if _LOG.fullmatch(name) is not None]
    for name in sorted(logs, key=lambda name: int(name.removesuffix(".log"))):
        found = _span(store / name, files)
        if found is None:
            continue
        first, last = found
        if first > known + 1:
            return (
                f"{store / name} begins with write {first}, but the files before it end with write"
                f" {known}: what lies between is missing"
            )
        known = max(known, last)
    return None


def newest_sequence(store: Path, files: Files) -> int | None:
    """The newest sequence number that the current MANIFEST knows of."""
    name = (files.read(store / "CURRENT") or b"").decode(errors="replace").strip()
    if _MANIFEST.fullmatch(name) is None:
        return None
    newest: int | None = None
    pieces = b""
    for kind, payload in _records(store / name, files):
        pieces = payload if kind in (_WHOLE, _FIRST) else pieces + payload
        number = _sequence_of(pieces) if kind in (_WHOLE, _LAST) else None
        if number is not None:
            newest = max(newest or 0, number)
    return newest


def _span(wal: Path, files: Files) -> tuple[int, int] | None:
    """First and last sequence number of a write-ahead log; None if it holds no batch."""
    first = last = None
    for kind, payload in _records(wal, files):
        if kind not in (_WHOLE, _FIRST):
            continue
        if len(payload) < _BATCH.size:
            break
        number, count = _BATCH.unpack_from(payload)
        first = number if first is None else first
        last = number + max(count, 1) - 1
    return None if first is None or last is None else (first, last)


def _records(path: Path, files: Files) -> Iterator[tuple[int, bytes]]:
    """Kind and payload of each record and piece of one, up to what cannot be one."""
    start = 0
    while True:
        content = files.read(path, start, _READ_BYTES)
        if not content:
            return
        for block in range(0, len(content), _BLOCK_BYTES):
            position, end = block, min(block + _BLOCK_BYTES, len(content))
            while end - position >= _RECORD.size:
                _, size, kind = _RECORD.unpack_from(content, position)
                position += _RECORD.size
                if not _WHOLE <= kind <= _LAST or size > end - position:
                    return
                yield kind, content[position : position + size]
                position += size
        start += len(content)


def _sequence_of(edit: bytes) -> int | None:
    """The newest sequence number in a record of the MANIFEST."""
    position = 0
    try:
        while True:
            tag, position = _varint(edit, position)
            if tag == _SEQUENCE_TAG:
                return _varint(edit, position)[0]
            if tag in _NUMBER_TAGS:
                _, position = _varint(edit, position)
            elif tag in _BYTES_TAGS:
                size, position = _varint(edit, position)
                position += size
            else:
                return None
    except IndexError:
        return None


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
