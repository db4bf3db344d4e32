"""The scorecard: what the ledger amounts to, row by row, with where each figure comes from.

A row of which the ledger holds nothing says *not run*; nothing is estimated. Where older lines of a
ledger have no figures yet, their cases stand in (a case of ``crash`` kills at least once).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from attrs import frozen

from raftkv.testing.campaigns.ledger import Ledger, Line

NOT_RUN: Final = "not run"
NOT_COUNTED: Final = "not counted"
_DAY_SECONDS: Final = 86_400
_YEAR_DAYS: Final = 365.25


@frozen
class Row:
    """One row: a name, its figure (None: the ledger has nothing), and words for both."""

    name: str
    value: float | None
    text: str
    sources: tuple[str, ...] = ()
    """Which lines of the ledger it was summed over, each with its share."""


def scorecard(ledger: Ledger, limits: Sequence[str] | None) -> tuple[Row, ...]:
    """All rows, always the same and in the same order. ``limits``: open ones; None: no list."""
    return (
        _sum("simulated cluster time", ledger, "simulated seconds", _time_text),
        _sum("faults injected", ledger, "faults"),
        _cases("seeds", ledger, "simulate"),
        _sum("steps of cores", ledger, "steps"),
        _sum("histories checked", ledger, "histories"),
        _sum("operations checked", ledger, "operations"),
        _inconclusive(ledger),
        _mutants(ledger),
        _states(ledger),
        _at_least("kill -9 cycles", ledger, _KILLING, "kills"),
        _at_least("power cuts", ledger, _CUTTING, "cuts"),
        *_flips(ledger),
        _cases("fuzz inputs", ledger, "fuzz"),
        _greatest("longest loop stall", ledger, "loop stall ms max"),
        _findings(ledger),
        _limits(limits),
    )


def read_limits(path: Path) -> tuple[str, ...] | None:
    """The open known limits in a file, one on a line that is no comment; None: no such file."""
    if not path.exists():
        return None
    lines = map(str.strip, path.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


# --- rows -------------------------------------------------------------------------------------


def _number_text(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ")


def _time_text(seconds: float) -> str:
    days = seconds / _DAY_SECONDS
    if days >= _YEAR_DAYS / 10:
        return f"{days / _YEAR_DAYS:.2f} years"
    if days >= 2:
        return f"{days:.1f} days"
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"


def _lines(ledger: Ledger, campaign: str | None = None) -> Iterator[tuple[str, Line]]:
    for name, parts in ledger.items():
        if campaign in (None, name):
            for part, line in parts.items():
                yield f"{name} {part}", line


def _row(
    name: str,
    found: Sequence[tuple[str, float]],
    text: Callable[[float], str] = _number_text,
    before: str = "",
) -> Row:
    if not found:
        return Row(name, None, NOT_RUN)
    value = sum(figure for _, figure in found)
    sources = tuple(f"{part} {text(figure)}" for part, figure in found)
    return Row(name, value, before + text(value), sources)


def _sum(
    name: str, ledger: Ledger, figure: str, text: Callable[[float], str] = _number_text
) -> Row:
    found = [
        (part, line.figures[figure]) for part, line in _lines(ledger) if figure in line.figures
    ]
    return _row(name, found, text)


def _inconclusive(ledger: Ledger) -> Row:
    name = "histories given up as inconclusive"
    row = _sum(name, ledger, "inconclusive")
    judged = any("histories" in line.figures for _, line in _lines(ledger))
    # Who counts histories and none as given up has judged them all.
    return Row(name, 0, "0") if judged and row.value is None else row


def _cases(name: str, ledger: Ledger, campaign: str) -> Row:
    return _row(name, [(part, line.cases) for part, line in _lines(ledger, campaign)])


_KILLING: Final = ("crash store", "crash store-failpoints", "crash cluster", "crash cluster-points")
_CUTTING: Final = ("power store", "power cluster")


def _at_least(name: str, ledger: Ledger, parts: Sequence[str], figure: str) -> Row:
    # Every case of these does it at least once; lines from before figures were kept hold cases.
    found = [
        (part, max(line.figures.get(figure, 0), line.cases))
        for part, line in _lines(ledger)
        if part in parts
    ]
    return _row(name, found, before="at least ")


def _states(ledger: Ledger) -> Row:
    found = [
        (part, line.figures["states max"])
        for part, line in _lines(ledger, "explore")
        if "states max" in line.figures
    ]
    return _row("distinct states explored", found)


def _greatest(name: str, ledger: Ledger, figure: str) -> Row:
    found = [
        (line.figures[figure], part) for part, line in _lines(ledger) if figure in line.figures
    ]
    if not found:
        return Row(name, None, NOT_RUN)
    value, part = max(found)
    return Row(name, value, f"{value:,.1f} ms", (part,))


def _mutants(ledger: Ledger) -> Row:
    name = "mutants killed"
    lines = list(_lines(ledger, "mutants"))
    if not lines:
        return Row(name, None, NOT_RUN)
    alive = [part for part, line in lines if not line.figures.get("killed")]
    killed = len(lines) - len(alive)
    return Row(name, killed, f"{killed} of {len(lines)}", tuple(f"alive: {part}" for part in alive))


_FLIPS_HARMLESS: Final = ("identical", "equal")
_FLIPS_REPAIRED: Final = ("quarantined", "equal after a stop")
_FLIPS_REFUSED: Final = ("refused", "stopped")


def _flips(ledger: Ledger) -> Iterator[Row]:
    yield _sum_of("bits flipped", ledger, lambda name: name == "flips")
    for name, outcomes in (
        ("… without effect", _FLIPS_HARMLESS),
        ("… repaired, or to be repaired by peers", _FLIPS_REPAIRED),
        ("… refused", _FLIPS_REFUSED),
    ):
        yield _sum_of(name, ledger, lambda one, of=outcomes: one.rpartition(": ")[2] in of)
    yield _row(
        "… wrong, short, or an error of no type of ours",
        [(part, line.findings) for part, line in _lines(ledger, "flip")],
    )


def _sum_of(name: str, ledger: Ledger, wanted: Callable[[str], bool]) -> Row:
    lines = list(_lines(ledger, "flip"))
    found: list[tuple[str, float]] = []
    for part, line in lines:
        # Each bit of a store is judged twice: opened alone, and as one of three members.
        figures = [value for one, value in line.figures.items() if wanted(one)]
        if figures:
            found.append((part, sum(figures)))
    if lines and not any(line.figures for _, line in lines):
        cases = sum(line.cases for _, line in lines)
        return Row(name, None, NOT_COUNTED, (f"{cases} cases without figures",))
    if lines and not found:
        return Row(name, 0, "0")
    return _row(name, found)


def _findings(ledger: Ledger) -> Row:
    # Findings of the past stay in the ledger, also when what they found is mended.
    found = [(part, line.findings) for part, line in _lines(ledger) if line.findings]
    if not found and ledger:
        return Row("findings ever entered", 0, "0")
    return _row("findings ever entered", found)


def _limits(limits: Sequence[str] | None) -> Row:
    name = "open known limits"
    if limits is None:
        return Row(name, None, "no list")
    return Row(name, len(limits), str(len(limits)), tuple(limits))
