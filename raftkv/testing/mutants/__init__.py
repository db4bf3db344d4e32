"""Bugs seeded on purpose: what the tests and the simulator must find, or their silence is nothing.

A mutant is a patch in ``tests/mutants`` with a header that says what it breaks and who is expected
to notice:

- :mod:`~raftkv.testing.mutants.patch`: reading and applying a patch;
- :mod:`~raftkv.testing.mutants.mutant`: a patch with its header, and all of them;
- :mod:`~raftkv.testing.mutants.worlds`: simulated worlds made for some of them;
- :mod:`~raftkv.testing.mutants.catchers`: the seeds, tests and searches that may notice;
- :mod:`~raftkv.testing.mutants.judgement` and ``watch``: what counts as noticing;
- :mod:`~raftkv.testing.mutants.worker`: tries them, as a process in a mutated copy of the tree;
- :mod:`~raftkv.testing.mutants.runner`: makes the copies and judges what the workers say;
- :mod:`~raftkv.testing.mutants.inprocess`: a mutant in this process, for the length of a ``with``.

``python -m raftkv.testing mutants`` needs a source checkout. It tries all of them and exits with 1
if one survives, or dies of anything but the judgement of a test or an invariant.
"""

from raftkv.testing.mutants.inprocess import broken
from raftkv.testing.mutants.mutant import Mutant, MutantError, checkout, load_mutants
from raftkv.testing.mutants.runner import Verdict, run_mutants

__all__ = [
    "Mutant",
    "MutantError",
    "Verdict",
    "broken",
    "checkout",
    "load_mutants",
    "run_mutants",
]
