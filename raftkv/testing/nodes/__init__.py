"""Whole nodes in virtual time: the code that ships, on simulated machines, from one seed.

- :mod:`~raftkv.testing.nodes.loop`: an event loop whose time is virtual;
- :mod:`~raftkv.testing.nodes.runtime`: clocks, chance and workers of one process;
- :mod:`~raftkv.testing.nodes.network`: what becomes of the frames between them;
- :mod:`~raftkv.testing.nodes.process`: a member that is paused, killed and started again;
- :mod:`~raftkv.testing.nodes.cluster`: all of that together, :class:`SimCluster`.
"""

from raftkv.testing.nodes.cluster import Conditions, SimCluster
from raftkv.testing.nodes.loop import DeadlockError, LeftoverError, run_virtual
from raftkv.testing.nodes.network import Weather
from raftkv.testing.nodes.runtime import CrashedError, Pace

__all__ = [
    "Conditions",
    "CrashedError",
    "DeadlockError",
    "LeftoverError",
    "Pace",
    "SimCluster",
    "Weather",
    "run_virtual",
]
