"""Whole nodes in virtual time: the code that ships, on simulated machines, from one seed.

- :mod:`~raftkv.testing.nodes.loop`: an event loop whose time is virtual;
- :mod:`~raftkv.testing.nodes.runner`: the same for several calls, from code that is not async;
- :mod:`~raftkv.testing.nodes.cancelled`: a cancellation at each await in turn;
- :mod:`~raftkv.testing.nodes.runtime`: clocks, chance and workers of one process;
- :mod:`~raftkv.testing.nodes.network`: what becomes of the frames between them;
- :mod:`~raftkv.testing.nodes.process`: a member that is paused, killed and started again;
- :mod:`~raftkv.testing.nodes.cluster`: all of that together, :class:`SimCluster`;
- :mod:`~raftkv.testing.nodes.run`: such a cluster under faults, with clients and invariants, from a
  seed; what a seed draws is in :mod:`~raftkv.testing.nodes.options`, what is done to it in
  :mod:`~raftkv.testing.nodes.nemesis`, and what must hold in :mod:`~raftkv.testing.nodes.checks`
  and :mod:`~raftkv.testing.nodes.liveness`;
- who uses the key-value store there: :mod:`~raftkv.testing.nodes.clients`,
  :mod:`~raftkv.testing.nodes.watchers`, :mod:`~raftkv.testing.nodes.leasing`; what they are told is
  held against :mod:`~raftkv.testing.nodes.chronicle`;
- :mod:`~raftkv.testing.nodes.cancel`: operations that are cancelled wherever they can be.
"""

from raftkv.testing.nodes.cancelled import CancelledAt
from raftkv.testing.nodes.cluster import Conditions, SimCluster
from raftkv.testing.nodes.loop import (
    DeadlockError,
    LeftoverError,
    LivelockError,
    TimeLimitError,
    run_virtual,
)
from raftkv.testing.nodes.network import Weather
from raftkv.testing.nodes.runner import VirtualRunner
from raftkv.testing.nodes.runtime import CrashedError, Pace

__all__ = [
    "CancelledAt",
    "Conditions",
    "CrashedError",
    "DeadlockError",
    "LeftoverError",
    "LivelockError",
    "Pace",
    "SimCluster",
    "TimeLimitError",
    "VirtualRunner",
    "Weather",
    "run_virtual",
]
