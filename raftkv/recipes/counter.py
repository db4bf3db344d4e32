"""A number that many add to, each addition exactly once or, by an exception, perhaps."""

from __future__ import annotations

import re
from typing import Final

from raftkv.errors import InvalidArgumentError
from raftkv.kv.client import Kv, op, when
from raftkv.kv.model import KeyValue

_INTEGER: Final = re.compile(rb"-?[0-9]{1,4000}")


class Counter:
    """An integer of any size under one key, as decimal text; 0 as long as the key does not exist.

    Additions of many clients at once are tried again until they meet the number unchanged, so one
    key bears some hundred additions a second; who needs more spreads them over several counters.
    """

    def __init__(self, kv: Kv, key: str | bytes) -> None:
        self._kv = kv
        self._key = key

    async def get(self) -> int:
        """The number now. Raises InvalidArgumentError if the key holds something else."""
        return self._number(await self._kv.get(self._key))

    async def add(self, amount: int = 1) -> int:
        """Add ``amount``, which may be negative; what the number became by that.

        Raises OutcomeUnknownError if the addition may or may not have happened.
        """
        if type(amount) is not int:
            raise InvalidArgumentError(f"the amount is an int, not {type(amount).__name__}")
        seen = await self._kv.get(self._key)
        while True:
            total = self._number(seen) + amount
            done = await self._kv.txn(
                when=[when.mod_revision(self._key) == (seen.mod_revision if seen else 0)],
                then=[op.put(self._key, b"%d" % total)],
                otherwise=[op.get(self._key)],
            )
            if done.succeeded:
                return total
            (found,) = done.results
            seen = found if isinstance(found, KeyValue) else None

    def _number(self, found: KeyValue | None) -> int:
        if found is None:
            return 0
        if not _INTEGER.fullmatch(found.value):
            raise InvalidArgumentError(
                f"the key {self._key!r} holds {found.value[:40]!r}, which is no number: delete it,"
                " or count under another key"
            )
        return int(found.value)
