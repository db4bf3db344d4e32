"""A failed run as one file: everything needed to run it again, and to read what happened."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, cast

from attrs import frozen

from raftkv.testing.choices import Decisions, decode_decisions, encode_decisions
from raftkv.testing.finding import Outcome

_FORMAT: Final = 1
_LINES_MAX: Final = 500


class ArtifactError(ValueError):
    """The file is no recorded run that this version can read."""


@frozen
class Artifact:
    """A recorded run."""

    level: str
    """L1: bare cores; L2: whole nodes. Decisions of one mean nothing to the other."""
    seed: int
    steps: int
    """Of the safety phase, as asked for."""
    decisions: Decisions
    invariant: str
    broken: str
    step: int
    options: str
    """For the reader; the decisions tell them too."""
    trace: tuple[str, ...]


def artifact(
    seed: int, steps: int, outcome: Outcome, trace: Iterable[str], *, level: str = "L1"
) -> Artifact:
    """What to keep of a run that drew its own options."""
    finding = outcome.finding
    return Artifact(
        level=level,
        seed=seed,
        steps=steps,
        decisions=outcome.decisions,
        invariant=finding.invariant if finding else "",
        broken=finding.broken if finding else "",
        step=finding.step if finding else outcome.steps,
        options=str(outcome.options),
        trace=tuple(trace)[-_LINES_MAX:],
    )


def save(path: Path, kept: Artifact) -> None:
    """Write it as JSON."""
    fields = {
        "format": _FORMAT,
        "level": kept.level,
        "seed": kept.seed,
        "steps": kept.steps,
        "invariant": kept.invariant,
        "broken": kept.broken,
        "step": kept.step,
        "options": kept.options,
        "decisions": encode_decisions(kept.decisions),
        "trace": kept.trace,
    }
    path.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Artifact:
    """Read it back. Raises ArtifactError if it is none, OSError if it cannot be read."""
    try:
        fields = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
        if fields["format"] != _FORMAT:
            raise ArtifactError(f"{path}: format {fields['format']} is not known here")
        return Artifact(
            level=str(fields["level"]),
            seed=int(fields["seed"]),
            steps=int(fields["steps"]),
            decisions=decode_decisions(fields["decisions"]),
            invariant=str(fields["invariant"]),
            broken=str(fields["broken"]),
            step=int(fields["step"]),
            options=str(fields["options"]),
            trace=tuple(fields["trace"]),
        )
    except ArtifactError:
        raise
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ArtifactError(f"{path} is no recorded run: {error}") from error
