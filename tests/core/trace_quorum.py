"""Driver of quorum files: single and joint majorities over given acknowledgements and votes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import frozen

from raftkv.core.quorum import (
    INFINITE,
    Vote,
    committed_jointly,
    vote_jointly,
)
from tests.core.trace_file import Directive, TraceFormatError

COMMANDS: Final = frozenset({"committed", "vote"})
_RESULTS: Final = {Vote.WON: "VoteWon", Vote.PENDING: "VotePending", Vote.LOST: "VoteLost"}
_VOTES: Final = {"y": True, "n": False}
_RAW_VOTES: Final = {"y": 2, "n": 1, "_": 0}
_UNKNOWN: Final = "_"


@frozen
class _Question:
    """The two halves, and the values given for their members."""

    incoming: tuple[int, ...]
    outgoing: tuple[int, ...]
    is_joint: bool
    values: tuple[str, ...]

    @property
    def voters(self) -> tuple[int, ...]:
        """Both halves in written order, each id once."""
        return tuple(dict.fromkeys((*self.incoming, *self.outgoing)))


class QuorumDriver:
    """Answers ``committed`` and ``vote``; keeps nothing between cases."""

    def handle(self, directive: Directive) -> str:
        """What the command prints."""
        commands: dict[str, Callable[[_Question], str]] = {"committed": _committed, "vote": _vote}
        command = commands.get(directive.command)
        if command is None:
            return "unknown command"
        return command(_question(directive))


def _question(directive: Directive) -> _Question:
    values = directive.values("votes" if directive.command == "vote" else "idx") or ()
    outgoing = directive.values("cfgj")
    if outgoing and "zero" in outgoing:
        if len(outgoing) != 1:
            raise TraceFormatError("cannot mix 'zero' into a configuration")
        outgoing = ()
        joint = True
    else:
        joint = outgoing is not None
    incoming = directive.values("cfg") or ()
    return _Question(_ids(incoming), _ids(outgoing or ()), joint, tuple(v for v in values if v))


def _ids(values: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(int(value) for value in values if value.strip())


def _mismatch(question: _Question, values: list[str]) -> str:
    voters = " ".join(f"{voter}:{{}}" for voter in sorted(question.voters))
    return f"error: mismatched input (explicit or _) for voters map[{voters}]: [{' '.join(values)}]"


def _vote(question: _Question) -> str:
    if len(question.values) != len(question.voters):
        return _mismatch(question, [str(_RAW_VOTES[value]) for value in question.values])
    votes = {
        voter: _VOTES[value]
        for voter, value in zip(question.voters, question.values, strict=True)
        if value != _UNKNOWN
    }
    result = vote_jointly(question.incoming, question.outgoing, votes)
    lines = [_RESULTS[result]]
    for name, incoming, outgoing in _variants(question):
        again = vote_jointly(incoming, outgoing, votes)
        if again is not result:
            lines.append(f"{_RESULTS[again]} <-- via {name}")
    return "\n".join(lines)


def _committed(question: _Question) -> str:
    if len(question.values) != len(question.voters):
        raw = ["0" if value == _UNKNOWN else value for value in question.values]
        return _mismatch(question, raw)
    acknowledged = {
        voter: int(value)
        for voter, value in zip(question.voters, question.values, strict=True)
        if value != _UNKNOWN
    }
    if 0 in acknowledged.values():
        raise TraceFormatError("an acknowledged index is never 0; write _ for none")
    result = committed_jointly(question.incoming, question.outgoing, acknowledged)
    lines = [_table(question.voters, acknowledged) + _index(result)]
    for name, incoming, outgoing in _variants(question):
        again = committed_jointly(incoming, outgoing, acknowledged)
        if again != result:
            lines.append(f"{_index(again)} <-- via {name}")
    lines += _overlayed(question, acknowledged, result)
    return "\n".join(lines)


def _variants(question: _Question) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Ways to ask the same again: halves swapped; alone: with an empty half, with itself."""
    incoming, outgoing = question.incoming, question.outgoing
    variants = [("symmetry", outgoing, incoming)]
    if not question.is_joint:
        variants += [
            ("zero-joint quorum", incoming, ()),
            ("self-joint quorum", incoming, incoming),
        ]
    return variants


def _overlayed(question: _Question, acknowledged: dict[int, int], result: int) -> list[str]:
    """What lies below the result may be lowered further without changing it."""
    lines: list[str] = []
    for voter, index in acknowledged.items():
        if index >= result:
            continue
        for lower in (index - 1, 0):
            changed = {**acknowledged, voter: lower}
            again = committed_jointly(question.incoming, question.outgoing, changed)
            if again != result:
                lines.append(f"{_index(again)} <-- overlaying {voter:x}->{lower}")
    return lines


def _index(index: int) -> str:
    return "∞" if index == INFINITE else str(index)


def _table(voters: tuple[int, ...], acknowledged: dict[int, int]) -> str:
    """One line per voter with a bar for its rank, and the head above them."""
    if not voters:
        return "<empty majority quorum>"
    width = len(voters)
    bars = _bars(voters, acknowledged)
    lines = [" " * (width + 4) + "idx"]
    for voter in sorted(voters):
        bar = "?" + " " * width
        if voter in acknowledged:
            bar = "x" * bars[voter] + ">" + " " * (width - bars[voter])
        lines.append(f"{bar} {acknowledged.get(voter, 0):5d}    (id={voter:x})")
    return "\n".join(lines) + "\n"


def _bars(voters: tuple[int, ...], acknowledged: dict[int, int]) -> dict[int, int]:
    """How many voters lie strictly below each."""
    ranked = sorted((acknowledged.get(voter, 0), voter) for voter in voters)
    bars: dict[int, int] = {}
    previous, bar = ranked[0][0], 0
    for position, (index, voter) in enumerate(ranked):
        if index > previous:
            bar = position
        bars[voter], previous = bar, index
    return bars
