"""All worlds that a small cluster of bare cores can reach, each judged.

``step`` and ``ready`` are pure, so all that is open in a cluster is what happens next: a timeout, a
proposal, a message that arrives or is lost, a write that becomes durable, a crash. A
:class:`~raftkv.testing.explore.scope.Scope` says how often each may happen, and everything that can
follow is tried, on the shipped core:

- :mod:`~raftkv.testing.explore.scope` and ``scopes``: what is explored; ``guide`` leads to where;
- :mod:`~raftkv.testing.explore.local` and ``driver``: one member, and what an input makes of it;
- :mod:`~raftkv.testing.explore.normal`: what makes no difference (clocks, counters), left out;
- :mod:`~raftkv.testing.explore.laws`: what must hold;
- :mod:`~raftkv.testing.explore.space`: worlds as tuples of numbers, every transition computed once;
- :mod:`~raftkv.testing.explore.rename` and ``symmetry``: worlds that differ in names alone are one;
- :mod:`~raftkv.testing.explore.search` and ``walks``: breadth first, or deep down;
- :mod:`~raftkv.testing.explore.retell` and ``kept``: a path as a story, judged again by the
  simulator.

What is left out of the worlds: time (so leases and quorum checks are off, and any timeout may come
at any moment), messages that overtake each other on one link, disks that lose what they had, and
machines that apply late. The simulator has all of these, by chance; here is everything of less.

``python -m raftkv.testing explore`` explores the scopes A, B and C.
"""

from raftkv.testing.explore.guide import Guide
from raftkv.testing.explore.scope import Scope
from raftkv.testing.explore.scopes import SCOPES
from raftkv.testing.explore.search import Broken, Explored, Limits, explore
from raftkv.testing.explore.walks import walk_all

__all__ = ["SCOPES", "Broken", "Explored", "Guide", "Limits", "Scope", "explore", "walk_all"]
