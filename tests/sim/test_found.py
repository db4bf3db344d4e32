"""Runs that broke an invariant once, shrunk: they must not break any again.

``python -m raftkv.testing simulate --save DIR`` records a failed run, ``shrink`` makes it small,
and the small one comes to ``found``, before the repair. Unlike a seed it stays the same run when
other worlds are drawn. Those called ``mutant-N`` broke it in a core with seeded bug N only.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from raftkv.testing.artifact import load
from raftkv.testing.choices import ReplayedChoices
from raftkv.testing.levels import LEVELS

FOUND = sorted(Path(__file__).with_name("found").glob("*.json"))


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_what_once_broke_does_not_break_again(path: Path) -> None:
    kept = load(path)
    outcome = LEVELS[kept.level].run(ReplayedChoices(kept.decisions), kept.steps)
    assert outcome.finding is None, f"{outcome.finding}; python -m raftkv.testing replay {path}"
    assert outcome.steps
