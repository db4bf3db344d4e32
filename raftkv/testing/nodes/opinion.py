"""A second opinion on what clients of the KV were told: a search that knows of no revisions.

The checker by revisions (:mod:`~raftkv.testing.histories.revisions`) believes what answers say of
themselves. This one looks at values alone and tries orders, so it shares no mistake with it. What a
search costs grows fast with clients and operations: of small histories it is made in full, of
others not, and one that comes to no end in its steps says so. Neither counts as a pass.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from raftkv.errors import InvalidArgumentError
from raftkv.testing.histories.kv import KvHistory
from raftkv.testing.histories.kv_model import KvModel
from raftkv.testing.histories.search import search
from raftkv.testing.histories.verdict import Judgement, Verdict

CLIENTS_MAX: Final = 8
OPERATIONS_MAX: Final = 300
"""Of the keys that are judged together."""
STEPS_MAX: Final = 20_000

SEARCHED: Final = "history searched"
INCONCLUSIVE: Final = "search inconclusive"
TOO_LARGE: Final = "search too large"


def second_opinion(history: KvHistory, clients: int, marks: Counter[str]) -> Verdict | None:
    """Judge a history by search, and mark what came of it; None if it is too large to be searched.

    A history that the model cannot judge, because it compares revisions, counts as too large.
    """
    model = KvModel()
    try:
        judged = [one.request for one in history if model.is_judged(one.request)]
        longest = max(Counter(model.parts(judged)).values(), default=0)
        if clients > CLIENTS_MAX or longest > OPERATIONS_MAX:
            marks[TOO_LARGE] += 1
            return None
        verdict = search(history, model, steps_max=STEPS_MAX)
    except InvalidArgumentError:
        marks[TOO_LARGE] += 1
        return None
    marks[INCONCLUSIVE if verdict.judgement is Judgement.INCONCLUSIVE else SEARCHED] += 1
    return verdict
