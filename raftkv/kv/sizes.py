"""What the store is counted to hold: a figure that is the same on every member.

What a disk takes depends on the disk: on compression, on when RocksDB merges its files. A quota has
to be refused alike everywhere, so every version of a key and every event counts with its bytes and
a fixed overhead, from the command that makes it to the sweep that removes it. That is more than a
full disk has of it after compression, and about what memory and log see.

So does an outcome that a client session keeps, until it is answered or the session ends. That of a
plain put is eight bytes beside the hundred that the put itself counts, and is not counted.
"""

from __future__ import annotations

from typing import Final

from raftkv.kv import rows
from raftkv.kv.values import long_value
from raftkv.storage.base import Reader, Space

VERSION_BYTES: Final = 64
"""What a version of a key costs beside its key and value."""

EVENT_BYTES: Final = 32
"""What the event of a change costs beside its key."""

PUT_BYTES: Final = VERSION_BYTES + EVENT_BYTES
"""What a put costs beside its value and twice its key: a version and an event."""

OUTCOME_BYTES: Final = 32
"""What an outcome that a session keeps costs beside its bytes."""

_MACHINE: Final = Space.MACHINE


def value_bytes_of(reader: Reader, row: bytes) -> int:
    """How long the value of the version in ``row`` is. Raises StorageCorruptError if it is gone."""
    length = rows.value_bytes(row)
    if length is not None:
        return length
    return len(long_value(reader, rows.decode_version(row)))


def measure(reader: Reader) -> int:
    """The size of everything in ``reader``, row by row: what the head's figure must always be."""
    size = 0
    for row_key, row in reader.scan(_MACHINE, rows.CURRENT, rows.CURRENT_STOP):
        size += VERSION_BYTES + len(row_key) - len(rows.CURRENT) + value_bytes_of(reader, row)
    for row_key, row in reader.scan(_MACHINE, rows.HISTORY, rows.HISTORY_STOP):
        key = rows.key_of_history_prefix(rows.split_history_key(row_key)[0])
        version = rows.decode_ended(row)[1]
        size += VERSION_BYTES + len(key) + value_bytes_of(reader, version)
    for _, row in reader.scan(_MACHINE, rows.EVENTS, rows.EVENTS_STOP):
        size += sum(EVENT_BYTES + len(event.key) for event in rows.decode_events(row))
    for _, row in reader.scan(_MACHINE, rows.OUTCOMES, rows.OUTCOMES_STOP):
        size += OUTCOME_BYTES + len(row)
    return size
