"""The next number as a function of the last: SplitMix64 (Steele, Lea, Flood 2014).

The generator's state lies in State, so the same inputs draw the same election timeouts on every
machine.
"""

from __future__ import annotations

from typing import Final

_MASK: Final = 2**64 - 1
_GAMMA: Final = 0x9E3779B97F4A7C15


def seeded(seed: int) -> int:
    """A generator state for a seed of any size.

    The seed is mixed: states that lie a multiple of the increment apart give one stream, shifted,
    and neighbours with such seeds would draw equal timeouts, and split their votes, for ever.
    """
    z = (seed * _GAMMA + 1) & _MASK
    z = ((z ^ (z >> 33)) * 0xFF51AFD7ED558CCD) & _MASK
    z = ((z ^ (z >> 33)) * 0xC4CEB9FE1A85EC53) & _MASK
    return z ^ (z >> 33)


def between(state: int, first: int, last: int) -> tuple[int, int]:
    """The following generator state, and a number from ``first`` to ``last`` inclusive."""
    state = (state + _GAMMA) & _MASK
    z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return state, first + (z ^ (z >> 31)) % (last - first + 1)
