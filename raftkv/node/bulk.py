"""Frames of the bulk lane: told apart by their first byte and handed to who registered for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Final

from raftkv.errors import ConfigError

_log = logging.getLogger("raftkv.node")

# The numbers are on the wire: they never change.
SNAPSHOTS: Final = range(1, 10)
REPAIR: Final = range(20, 30)
STATE_HASHES: Final = range(30, 40)
MEMBERSHIP: Final = range(40, 50)
QUESTIONS: Final = range(50, 60)

BulkHandler = Callable[[int, bytes], Coroutine[object, object, None] | None]
"""Takes (peer, frame) in the loop's turn, a few milliseconds at most. It must not raise for what
a peer can send. What it returns is awaited before the next frame, if it is not None.
"""


class BulkFrames:
    """Who handles which kind of frame. Loop thread only."""

    def __init__(self) -> None:
        self._handlers: list[BulkHandler | None] = [None] * 256
        self.name_of: Callable[[int], str] = str
        """What to call a member in the log."""

    def register(self, kinds: range, handler: BulkHandler) -> None:
        """Have frames whose first byte is in ``kinds`` given to ``handler`` from now on.

        Raises ConfigError if another handler has one of them.
        """
        if any(self._handlers[kind] is not None for kind in kinds):
            raise ConfigError(f"bulk frames of kinds {kinds.start}-{kinds.stop - 1} are taken")
        for kind in kinds:
            self._handlers[kind] = handler

    async def handle(self, peer: int, frame: bytes) -> None:
        """Give the frame to its handler; one that nobody knows is dropped."""
        handler = self._handlers[frame[0]] if frame else None
        if handler is None:
            _log.warning(
                "a bulk frame of member %s, of kind %s, is dropped: nobody here knows it",
                self.name_of(peer),
                frame[0] if frame else "none",
            )
            return
        pending = handler(peer, frame)
        if pending is not None:
            await pending
