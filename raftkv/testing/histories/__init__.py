"""Histories of clients, and whether what they were answered can be right.

Record a :class:`History` in a test, or load one, and ask :func:`check_linearizable`: with a model
of your own machine, or without one for the KV. Beneath it are three checkers that share no code:

- :mod:`~raftkv.testing.histories.revisions`: the KV, by the revisions in its answers; linear;
- :mod:`~raftkv.testing.histories.search`: any model, by trying orders; exact, within bounds;
- :mod:`~raftkv.testing.histories.appends`: lists, by cycles of what depends on what.

:mod:`~raftkv.testing.histories.kv` has the KV's requests,
:mod:`~raftkv.testing.histories.models` what else can be checked.
"""

from raftkv.testing.histories.appends import check_appends
from raftkv.testing.histories.check import check_linearizable
from raftkv.testing.histories.kv_model import KvModel
from raftkv.testing.histories.models import ListModel, MachineModel, Model, PureModel, RegisterModel
from raftkv.testing.histories.operations import History, Operation, Outcome
from raftkv.testing.histories.revisions import check_revisions
from raftkv.testing.histories.search import search
from raftkv.testing.histories.verdict import (
    InconclusiveError,
    Judgement,
    NotLinearizableError,
    Verdict,
)

__all__ = [
    "History",
    "InconclusiveError",
    "Judgement",
    "KvModel",
    "ListModel",
    "MachineModel",
    "Model",
    "NotLinearizableError",
    "Operation",
    "Outcome",
    "PureModel",
    "RegisterModel",
    "Verdict",
    "check_appends",
    "check_linearizable",
    "check_revisions",
    "search",
]
