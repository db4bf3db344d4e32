"""When leases are up, as their keeper has it. Every method is told what time it is.

What is promised to clients is ``ttl`` from the last renewal on. A keeper ends a lease later than
that by a thousandth of ``ttl``, so that clocks may drift by 500 ppm each, and by an election
timeout where it was promised by another keeper before it. It never ends one earlier: a clock that
stands still, as during suspend, makes leases longer.

What a next keeper would give a lease (``stored``) is what the last checkpoint says, or all of
``ttl``. So where a checkpoint says less, a renewal must take that back before it is acknowledged.
Who renews in time, at a third of ``ttl``, never has a checkpoint.

One entry of a heap for each lease says when to look at it next. A renewal leaves it where it is: it
only moves what will be seen then.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

from raftkv.kv.leases import Granted

_SECOND: Final = 1_000_000_000
_STEP_MIN_NS: Final = 2 * _SECOND
_DRIFT_PARTS: Final = 1000
_GONE_MAX: Final = 1024


class Kept:
    """One lease of a keeper."""

    __slots__ = ("checkpoints", "grace_ns", "id", "is_ending", "is_gone", "stored_ns", "ttl_ns",
                 "until_ns")  # fmt: skip

    def __init__(self, lease: int, ttl_ns: int, until_ns: int, grace_ns: int) -> None:
        self.id = lease
        self.ttl_ns = ttl_ns
        self.until_ns = until_ns  # promised so far
        self.grace_ns = grace_ns
        self.stored_ns = ttl_ns  # what a next keeper would give
        self.checkpoints = 0  # how many were proposed since the last was taken back for good
        self.is_ending = False  # it is up, and that is being proposed
        self.is_gone = False

    @property
    def up_ns(self) -> int:
        """When it is to be ended."""
        return self.until_ns + self.grace_ns + self.ttl_ns // _DRIFT_PARTS

    def remaining_ns(self, now_ns: int) -> int:
        """What is promised from now on; 0 if nothing is any more."""
        return max(0, self.until_ns - now_ns)


class Deadlines:
    """All leases of a keeper, in the term of one leader. Times are nanoseconds of one clock."""

    def __init__(self, checkpoint_ns: int) -> None:
        """``checkpoint_ns``: so much passes at most before what remains is to be written down."""
        self._checkpoint_ns = checkpoint_ns
        self._leases: dict[int, Kept] = {}
        self._heap: list[tuple[int, int, Kept]] = []
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._leases)

    def get(self, lease: int) -> Kept | None:
        """The lease, or None."""
        return self._leases.get(lease)

    @property
    def entries(self) -> int:
        """How many entries the heap has, those of leases that are gone included."""
        return len(self._heap)

    # --- leases come and go -----------------------------------------------------------------------

    def load(self, found: Granted, now_ns: int, grace_ns: int) -> None:
        """One that an earlier keeper had: its time begins anew, unless it is known already.

        Of one that is known, for its grant was applied after the election, an earlier keeper may
        have left a checkpoint behind that grant.
        """
        left_ns = found.left * _SECOND
        known = self._leases.get(found.id)
        kept = known or Kept(found.id, found.ttl * _SECOND, now_ns + left_ns, grace_ns)
        if found.remaining:
            kept.stored_ns = left_ns
            kept.checkpoints += 1
        if known is None:
            self._add(kept)

    def granted(self, lease: int, ttl: int, now_ns: int) -> None:
        """A new one, be it under an id that another had."""
        self.ended(lease)
        self._add(Kept(lease, ttl * _SECOND, now_ns + ttl * _SECOND, 0))

    def ended(self, lease: int) -> None:
        """It was revoked, or its end was decided."""
        kept = self._leases.pop(lease, None)
        if kept is not None:
            kept.is_gone = True

    def drop(self, kept: Kept) -> None:
        """Forget this one, and not one that was granted under its id meanwhile."""
        if not kept.is_gone:
            self.ended(kept.id)

    # --- renewing ---------------------------------------------------------------------------------

    def renew(self, kept: Kept, now_ns: int) -> None:
        """All of its time is promised anew, from now on; for one without a checkpoint."""
        kept.until_ns = max(kept.until_ns, now_ns + kept.ttl_ns)
        kept.grace_ns = 0

    def taken_back(self, kept: Kept, checkpoints: int) -> None:
        """The checkpoint is gone, if none was proposed since there were so many."""
        if kept.checkpoints == checkpoints:
            kept.checkpoints = 0
            kept.stored_ns = kept.ttl_ns

    # --- time passes ------------------------------------------------------------------------------

    def look(self, now_ns: int, limit: int) -> tuple[list[Kept], list[Kept], bool]:
        """Which leases are up, which want a checkpoint, and whether there are more to look at.

        Looks at ``limit`` at most. Those that are up are ``is_ending`` from here on and are not
        told again; those that want a checkpoint are told again later if they get none.
        """
        up: list[Kept] = []
        low: list[Kept] = []
        heap = self._heap
        for _ in range(limit):
            if not heap or heap[0][0] > now_ns:
                return up, low, False
            kept = heappop(heap)[2]
            if kept.is_gone:
                continue
            if kept.up_ns <= now_ns:
                kept.is_ending = True
                up.append(kept)
                continue
            if self._low_ns(kept) <= now_ns:
                low.append(kept)
                self._push(kept, min(kept.up_ns, now_ns + _SECOND))
            else:
                self._push(kept, self._next_ns(kept))
        return up, low, bool(heap) and heap[0][0] <= now_ns

    def checkpoint(self, kept: Kept, now_ns: int) -> int:
        """A checkpoint of it is proposed now: with how many seconds, which are at least one."""
        seconds = max(1, -(-kept.remaining_ns(now_ns) // _SECOND))
        kept.stored_ns = seconds * _SECOND
        kept.checkpoints += 1
        return seconds

    def _low_ns(self, kept: Kept) -> int:
        """When so much of it has passed that a checkpoint is due."""
        step = max(_STEP_MIN_NS, min(self._checkpoint_ns, kept.ttl_ns // 2))
        if kept.stored_ns <= step:
            return kept.up_ns  # what is left is soon over
        return kept.until_ns - kept.stored_ns + step

    def _next_ns(self, kept: Kept) -> int:
        return min(kept.up_ns, self._low_ns(kept))

    def _add(self, kept: Kept) -> None:
        self._leases[kept.id] = kept
        self._push(kept, self._next_ns(kept))

    def _push(self, kept: Kept, at_ns: int) -> None:
        self._numbers += 1
        heap = self._heap
        if len(heap) > 2 * len(self._leases) + _GONE_MAX:
            # Leases that are revoked long before their time would stay here until then.
            heap[:] = [entry for entry in heap if not entry[2].is_gone]
            heapify(heap)
        heappush(heap, (at_ns, self._numbers, kept))
