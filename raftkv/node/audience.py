"""Who is told, on the loop, when there is something new to read in an on-disk machine's rows."""

from __future__ import annotations

from typing import Protocol


class Audience(Protocol):
    """One listener of a node, given to ``Node.tell``.

    An exception of ``rows_written`` stops the node, as one of the machine does.
    """

    def rows_written(self) -> None:
        """What the machine applied is in the store, or an image took the place of its rows.

        Called after every slice, in order, between two others: a few milliseconds at most.
        """
        ...

    def ended(self) -> None:
        """The node stops or is closed: nothing more will be written. ``Node.check`` says why."""
        ...
