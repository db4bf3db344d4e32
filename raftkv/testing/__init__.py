"""Tools to try raftkv, shipped to users: clusters simulated under faults, and what must hold.

One seed is one run, the same in every process:

- :mod:`~raftkv.testing.choices`: every decision goes through ``choose``, and is recorded;
- :mod:`~raftkv.testing.options`: what kind of world a seed draws, and how faulty (swarm testing);
- :mod:`~raftkv.testing.world`: members, disks, machines, and what can happen to them;
- :mod:`~raftkv.testing.simulation`: when it happens, in simulated time, and the recovery after it;
- :mod:`~raftkv.testing.invariants`: what must hold after every step;
  :mod:`~raftkv.testing.catalogue` lists it all, and who looks at it;
- :mod:`~raftkv.testing.marks`: what a campaign must have met to count as one;
  :mod:`~raftkv.testing.branches` sees the rare branches of the core among it;
- :mod:`~raftkv.testing.mutants`: bugs seeded on purpose, each of which must be noticed;
- :mod:`~raftkv.testing.shrink`: a failed run of any level, made small;
- :mod:`~raftkv.testing.histories`: whether what clients were answered is linearizable;
- :mod:`~raftkv.testing.story`, :mod:`~raftkv.testing.viewer`: what happened, as lines of text or as
  a page that steps forwards and backwards through it.

``python -m raftkv.testing simulate --seeds 0..100`` tries a hundred of them.

:mod:`raftkv.testing.campaigns` breaks real processes and disks instead: ``crash``, ``members`` and
others are commands beside ``simulate``; :mod:`raftkv.testing.fuzz` feeds hostile bytes to all that
decodes any; ``report`` says what all runs amount to.
"""

from raftkv.testing.choices import Choices, Decisions, ReplayedChoices, SeededChoices
from raftkv.testing.histories import (
    History,
    InconclusiveError,
    MachineModel,
    Model,
    NotLinearizableError,
    Operation,
    PureModel,
    Verdict,
    check_linearizable,
)
from raftkv.testing.invariants import Checker, ViolationError
from raftkv.testing.options import SAFE_WORLD, Faults, Options, draw_options
from raftkv.testing.simulation import Finding, Outcome, Simulation, replay, run, simulate
from raftkv.testing.trace import Trace
from raftkv.testing.world import World

__all__ = [
    "SAFE_WORLD",
    "Checker",
    "Choices",
    "Decisions",
    "Faults",
    "Finding",
    "History",
    "InconclusiveError",
    "MachineModel",
    "Model",
    "NotLinearizableError",
    "Operation",
    "Options",
    "Outcome",
    "PureModel",
    "ReplayedChoices",
    "SeededChoices",
    "Simulation",
    "Trace",
    "Verdict",
    "ViolationError",
    "World",
    "check_linearizable",
    "draw_options",
    "replay",
    "run",
    "simulate",
]
