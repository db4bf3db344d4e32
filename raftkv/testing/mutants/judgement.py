"""What counts as noticing: the judgement of a test or an invariant, never an accident.

A mutant that dies of a name that does not exist, of a timeout or of whatever a test stumbles over
on the way has shown nothing about the tests. So only these count: an assertion that failed (the
invariants' ViolationError is one), a test that says so by ``pytest.fail`` or ``pytest.raises``, and
the package's own checks for what must never be: InvariantError and StorageCorruptError, also behind
an error that they caused. How a test is judged stands in :mod:`raftkv.testing.mutants.watch`.
"""

from __future__ import annotations

import re
from typing import Final

from attrs import frozen

_INVARIANT: Final = re.compile(r"[IS]\d+[a-z]?|InvariantError")
_ACCIDENT: Final = re.compile(
    r"\b(Name|UnboundLocal|Attribute|Type|Key|Index|Import|ModuleNotFound|Syntax|Recursion)Error:"
)
_WORDS_MAX: Final = 300


@frozen
class Sighting:
    """Something went red: who saw it, what it said, and whether that is a judgement."""

    catcher: str
    """What to run to see it again, as a header would name it."""
    what: str
    is_judged: bool
    seconds: float
    """Since the first catcher began."""


def is_judgement(invariant: str, broken: str) -> bool:
    """Whether what a simulation found is the judgement of an invariant.

    Else it names an error's class; or what is broken is that a node stopped, of such an error.
    """
    return _INVARIANT.fullmatch(invariant) is not None and _ACCIDENT.search(broken) is None


def in_words(error: BaseException) -> str:
    """The kind of an error and the first lines of what it says."""
    text = " ".join(str(error).split())[:_WORDS_MAX]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
