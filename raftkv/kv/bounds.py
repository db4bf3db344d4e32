"""How much one command may touch, and how much it may find: the same bounds on every member.

A command is applied in one go, by each member, on the loop that also hears heartbeats; and again
when a member starts anew. What a command names itself is bounded by its size. What it means by a
span is bounded here: how many keys it deletes, before anything is written, at how many keys a
transaction looks, and how much of what it found its caller is told. So that the end of a lease
deletes no more either, a put that would attach too many keys to one is refused.

No setting: what is refused, and what sessions keep of it, must be the same on all members.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from raftkv.kv import rows
from raftkv.kv.engine import Slice
from raftkv.kv.model import KeyValue, Refusal, Refused
from raftkv.kv.requests import DeleteOne, DeleteSpan, Expire, KvCommand, Put, Revoke, Txn
from raftkv.kv.sizes import value_bytes_of
from raftkv.kv.values import load

REVISION_KEYS_MAX: Final = 20_000
"""Most keys that the spans of one command may delete together, as the store is before it; and most
keys that a lease may have, which are all deleted when it ends.

etcd has no such bounds. So many keys are deleted in 0.15 s, with values of 1 KiB in 0.4 s: far less
than an election takes. A key counts once, and once more for each whole KiB that it is long; one
that lies in two of the spans counts for both.
"""

RESULT_BYTES_MAX: Final = 32 * 1024 * 1024
"""What the results of one command may hold. Every member reads it as it applies the command, and
again when it starts anew: without a bound 128 ranges of everything would end them all, for good.
What more hears is kept in sessions, so that all members must have the same bound."""

LOOKED_KEYS_MAX: Final = 50_000
"""Most keys that the conditions and ranges of one transaction may look at together.

etcd has no such bound. A range looks at all keys of its span, to count them, whatever its limit.
Each KiB of their values that has to be read counts as another key.
"""

HELD_BYTES_MAX: Final = 8 * 1024 * 1024
"""When a slice holds more than that beside its commands, in results, in rows of what was deleted
and in values that puts keep, it ends before the next entry. Keys that were only looked at count,
too, for their time.

An entry is never cut. So once the commands of one entry have a slice hold more than that, further
ones in it that could add to it are refused, to be proposed again: whoever has many of them under
way finds them spread over more entries. What one command holds has its own bounds, above.
"""

_ITEM_BYTES: Final = 256  # what an item takes beside its key and value
_LOOK_BYTES: Final = 128  # as how many bytes a key counts that was looked at

Pair = tuple[bytes, bytes]
"""A key and the row of its version in force."""


def is_over(writes: Slice) -> bool:
    """Whether commands of this entry that may hold much must wait for another."""
    return writes.held_by_entry > HELD_BYTES_MAX


def may_hold(command: KvCommand) -> bool:
    """Whether the slice may have to hold much for it, whatever its own size."""
    match command:
        case Put():
            return command.previous or command.ignore_value
        case DeleteOne():
            return command.previous
        case DeleteSpan() | Txn() | Revoke() | Expire():
            return True
        case _:
            return False


def not_now() -> Refused:
    """What a command of an entry that :func:`is_over` is answered."""
    return Refused(
        "too many requests: what was proposed beside it found or deleted as much as one entry of"
        " the log may; it was not done: propose it again",
        Refusal.ENTRY_FULL,
    )


class Cover:
    """What the spans of one command may still delete: looked at before anything is written."""

    __slots__ = ("_bytes", "_keys")

    def __init__(self) -> None:
        self._keys = REVISION_KEYS_MAX
        self._bytes = RESULT_BYTES_MAX

    def find(self, writes: Slice, delete: DeleteSpan) -> list[Pair] | Refused:
        """The keys of the span, in order, with their rows; why it is refused if they are too many.

        It looks no further than the bound.
        """
        found: list[Pair] = []
        refusal: Refused | None = None
        for key, row in writes.scan_current(delete.span):
            self._keys -= rows.weight_of(key)
            if delete.previous:
                self._bytes -= _ITEM_BYTES + len(key) + value_bytes_of(writes, row)
            if self._keys < 0 or self._bytes < 0:
                refusal = _too_many() if self._keys < 0 else _too_much()
                break
            found.append((key, row))
        writes.hold(_LOOK_BYTES * len(found))
        return refusal or found


class Room:
    """What the results of one command may still hold, and at how many keys it may look for them."""

    __slots__ = ("left", "looks")

    def __init__(self) -> None:
        self.left = RESULT_BYTES_MAX
        self.looks = LOOKED_KEYS_MAX

    @property
    def used(self) -> int:
        """What the slice must hold for it."""
        return RESULT_BYTES_MAX - self.left + _LOOK_BYTES * (LOOKED_KEYS_MAX - self.looks)

    def previous(self, writes: Slice, found: Iterable[Pair]) -> tuple[KeyValue, ...]:
        """The versions found, as far as there is room: see :attr:`is_over`."""
        items: list[KeyValue] = []
        for key, row in found:
            if self.is_over:
                break
            items.append(load(writes, key, row))
            self.left -= _ITEM_BYTES + len(key) + len(items[-1].value)
        return tuple(items)

    @property
    def is_over(self) -> bool:
        """Whether it was not enough: what was found is not told."""
        return self.left < 0 or self.looks < 0


def not_told(revision: int) -> Refused:
    """What the caller hears instead of results for which there was no room."""
    return Refused(
        f"it was done, at revision {revision}, but its ranges looked at more than {LOOKED_KEYS_MAX}"
        f" keys, or they and previous=True found more than {RESULT_BYTES_MAX} bytes: read that"
        " outside of a transaction",
        Refusal.RESULT_NOT_KEPT,
        revision,
    )


def too_far() -> Refused:
    """What a transaction is answered whose conditions look at too many keys."""
    return Refused(
        f"request is too large: its conditions look at more than {LOOKED_KEYS_MAX} keys; nothing"
        " was done: compare smaller ranges, or a key that is put with each change in them",
        Refusal.TOO_LARGE,
    )


def _too_many() -> Refused:
    return Refused(
        f"request is too large: it would delete more than {REVISION_KEYS_MAX} keys in one revision;"
        " nothing was deleted: split it by start= and stop=, which a range with keys_only=True and"
        " a limit finds",
        Refusal.TOO_LARGE,
    )


def _too_much() -> Refused:
    return Refused(
        f"request is too large: what it would delete holds more than {RESULT_BYTES_MAX} bytes, too"
        " much for previous=True; nothing was deleted: split it, or read the keys before",
        Refusal.TOO_LARGE,
    )
