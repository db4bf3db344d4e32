"""What a checker says of a history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

from attrs import field, frozen

from raftkv.testing.histories.operations import A, Operation, Q

_SHOWN_MAX = 20
_SHOWN_CHARACTERS_MAX = 300


class Judgement(Enum):
    """Whether a history can be right."""

    RIGHT = "linearizable"
    WRONG = "not linearizable"
    INCONCLUSIVE = "inconclusive"
    """The checker gave up, or was told too little: that is no pass."""


class NotLinearizableError(AssertionError):
    """No order of the operations explains what clients were answered; ``verdict`` says why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict


class InconclusiveError(AssertionError):
    """A checker could not decide; ``verdict`` says what it lacked."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict


@frozen
class Verdict:
    """A judgement with its reasons."""

    judgement: Judgement
    checker: str
    """Which checker says so."""
    what: str = ""
    """What is wrong, or what was lacking, in a sentence."""
    operations: tuple[Operation[object, object], ...] = ()
    """The operations that contradict each other: as few as the checker could find."""
    facts: Mapping[str, int] = field(factory=dict[str, int])
    """What it looked at, as numbers."""

    @property
    def is_right(self) -> bool:
        """Whether the history passed."""
        return self.judgement is Judgement.RIGHT

    def check(self) -> Verdict:
        """Itself if the history passed; else NotLinearizableError or InconclusiveError."""
        if self.judgement is Judgement.WRONG:
            raise NotLinearizableError(self)
        if self.judgement is Judgement.INCONCLUSIVE:
            raise InconclusiveError(self)
        return self

    def __str__(self) -> str:
        lines = [f"{self.judgement.value} ({self.checker})" + (self.what and f": {self.what}")]
        for one in self.operations[:_SHOWN_MAX]:
            text = str(one)
            cut = text[:_SHOWN_CHARACTERS_MAX]
            lines.append(f"  {cut}{'' if cut == text else ' ...'}")
        if len(self.operations) > _SHOWN_MAX:
            lines.append(f"  and {len(self.operations) - _SHOWN_MAX} more")
        return "\n".join(lines)


def wrong(checker: str, what: str, operations: Iterable[Operation[Q, A] | None] = ()) -> Verdict:
    """The history cannot be right, because of these operations (each once, None for nobody)."""
    return Verdict(Judgement.WRONG, checker, what, _unique(operations))


def undecided(
    checker: str, what: str, operations: Iterable[Operation[Q, A] | None] = ()
) -> Verdict:
    """The checker cannot say."""
    return Verdict(Judgement.INCONCLUSIVE, checker, what, _unique(operations))


def right(checker: str, facts: Mapping[str, int]) -> Verdict:
    """The history passed."""
    return Verdict(Judgement.RIGHT, checker, facts=facts)


def _unique(
    operations: Iterable[Operation[Q, A] | None],
) -> tuple[Operation[object, object], ...]:
    met: dict[int, Operation[object, object]] = {}
    for one in operations:
        if one is not None:
            met[id(one)] = Operation(
                one.client, one.call_at, one.return_at, one.request, one.response, one.outcome
            )
    return tuple(sorted(met.values(), key=lambda one: one.call_at))
