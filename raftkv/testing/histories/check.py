"""The one call that most tests need: whether a history is linearizable."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast, overload

from raftkv.machine import StateMachine
from raftkv.testing.histories.kv import KvOperation, Written
from raftkv.testing.histories.kv_model import KvModel
from raftkv.testing.histories.models import Model, S, command_model
from raftkv.testing.histories.operations import A, Operation, Q
from raftkv.testing.histories.revisions import check_revisions
from raftkv.testing.histories.search import STEPS_MAX, search
from raftkv.testing.histories.verdict import Judgement, Verdict


@overload
def check_linearizable(
    history: Iterable[KvOperation],
    model: None = None,
    *,
    log: Iterable[Written] | None = None,
    steps_max: int = STEPS_MAX,
) -> Verdict: ...
@overload
def check_linearizable(
    history: Iterable[Operation[bytes, A]],
    model: Callable[[], StateMachine[A]],
    *,
    steps_max: int = STEPS_MAX,
) -> Verdict: ...
@overload
def check_linearizable(
    history: Iterable[Operation[Q, A]], model: Model[S, Q, A], *, steps_max: int = STEPS_MAX
) -> Verdict: ...
def check_linearizable(
    history: Iterable[Operation[Q, A]],
    model: Model[S, Q, A] | Callable[[], StateMachine[A]] | None = None,
    *,
    log: Iterable[Written] | None = None,
    steps_max: int = STEPS_MAX,
) -> Verdict:
    """Check that a history could come from one machine that does one thing at a time.

    ``model`` says what that machine answers: a :class:`~raftkv.testing.histories.models.Model`, or
    the class of your own in-memory state machine, if requests are the bytes of its commands.
    Without a model the history is one of the KV, judged by the revisions in its answers and, where
    unknown outcomes leave a doubt and no committed ``log`` is given, by search.

    Returns the verdict with its figures. Raises NotLinearizableError, which shows the operations
    that contradict each other, or InconclusiveError if ``steps_max`` steps of search did not
    suffice: that is no pass. Both are AssertionErrors.
    """
    if isinstance(model, Model):
        by = cast("Model[S, Q, A]", model)
        return search(history, by, steps_max=steps_max).check()
    if model is not None:
        asked = cast("Iterable[Operation[bytes, A]]", history)
        return search(asked, command_model(model), steps_max=steps_max).check()
    met = list(cast("Iterable[KvOperation]", history))
    verdict = check_revisions(met, log)
    if verdict.judgement is Judgement.INCONCLUSIVE and log is None:
        verdict = search(met, KvModel(revisions=True), steps_max=steps_max)
    return verdict.check()
