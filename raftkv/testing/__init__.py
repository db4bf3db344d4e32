"""Tools to try raftkv, and what you build on it: simulated clusters under faults, and checkers.

For a state machine, a store or a transport of yours, with pytest and Hypothesis
(``pip install 'raftkv[testing]'``):

- :mod:`~raftkv.testing.suites`: conformance suites to subclass, and ClusterMachine, which runs a
  state machine in a cluster that everything happens to and cuts failures down;
- :mod:`~raftkv.testing.plugin`: pytest's fixture ``raft_cluster``, for tests of milliseconds.

With nothing but raftkv:

- :mod:`~raftkv.testing.nodes`: SimCluster is a cluster of whole nodes in virtual time, with faults
  at hand, and run_virtual runs a coroutine there;
- :mod:`~raftkv.testing.histories`: check_linearizable says whether what clients were answered can
  be right. A History records each Operation; a Model (PureModel of a function, MachineModel of a
  state machine) says what is right; the answer is a Verdict, a NotLinearizableError, or an
  InconclusiveError, which is no pass;
- :mod:`~raftkv.testing.story`, :mod:`~raftkv.testing.viewer`: what happened, a Story from a
  StoryWriter: as_text gives lines, write_html a page that steps forwards and backwards through it.

How raftkv itself is tried; one seed is one run, the same in every process:

- :mod:`~raftkv.testing.choices`: every decision goes through Choices and is recorded as Decisions;
  SeededChoices draws them, ReplayedChoices repeats them;
- :mod:`~raftkv.testing.options`: what kind of world a seed draws, and how faulty (draw_options,
  Options, Faults; SAFE_WORLD has none);
- :mod:`~raftkv.testing.world`: a World of members, disks, machines, and what can happen to them;
- :mod:`~raftkv.testing.simulation`: a Simulation says when it happens, in simulated time, and the
  recovery after it; simulate, run and replay answer an Outcome with its Trace, and its Finding if
  something broke;
- :mod:`~raftkv.testing.invariants`: what must hold after every step: a Checker raises
  ViolationError. :mod:`~raftkv.testing.catalogue` lists it all, and who looks at it;
- :mod:`~raftkv.testing.marks`: what a campaign must have met to count as one;
  :mod:`~raftkv.testing.branches` sees the rare branches of the core among it;
- :mod:`~raftkv.testing.mutants`: bugs seeded on purpose, each of which must be noticed;
- :mod:`~raftkv.testing.shrink`: a failed run of any level, made small.

``python -m raftkv.testing simulate --seeds 0..100`` tries a hundred of them. The standard campaign
is ``simulate --level all --jobs 2``: 2,000 seeds of bare cores and 200 of whole nodes in minutes.

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
from raftkv.testing.nodes import SimCluster, run_virtual
from raftkv.testing.options import SAFE_WORLD, Faults, Options, draw_options
from raftkv.testing.simulation import Finding, Outcome, Simulation, replay, run, simulate
from raftkv.testing.story import Story, StoryWriter
from raftkv.testing.trace import Trace
from raftkv.testing.viewer import as_text, write_html
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
    "SimCluster",
    "Simulation",
    "Story",
    "StoryWriter",
    "Trace",
    "Verdict",
    "ViolationError",
    "World",
    "as_text",
    "check_linearizable",
    "draw_options",
    "replay",
    "run",
    "run_virtual",
    "simulate",
    "write_html",
]
