"""Where the value of a version is: in its row, or, if it is long, in a row of its own."""

from __future__ import annotations

from typing import Final

from raftkv.errors import StorageCorruptError
from raftkv.kv import rows
from raftkv.kv.model import KeyValue
from raftkv.storage.base import Reader, Space

_MACHINE: Final = Space.MACHINE


def load(reader: Reader, key: bytes, row: bytes) -> KeyValue:
    """The version of ``key`` in ``row``, its value fetched from its own row if it is a long one.

    Raises StorageCorruptError if that is gone.
    """
    found = rows.key_value(key, row)
    if found is not None:
        return found
    version = rows.decode_version(row)
    value = long_value(reader, version)
    return KeyValue(
        key, value, version.create_revision, version.mod_revision, version.version, version.lease
    )


def long_value(reader: Reader, version: rows.Version) -> bytes:
    """The value of a long version. Raises StorageCorruptError if it is gone."""
    value = reader.get(_MACHINE, rows.value_key(version.mod_revision, version.sub))
    if value is None:
        raise StorageCorruptError(
            f"the KV value written at revision {version.mod_revision}.{version.sub} is missing; "
            "remove this member's data directory and let it join again, or restore a backup"
        )
    return value
