"""Scenarios of our own, in the notation of the recorded traces: what no recorded run shows.

Each file begins with the claim it makes. Run with ``--rewrite`` after an intended change and review
the difference as one would review code.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.trace_file import parse_file
from tests.core.trace_run import check, traces_below
from tests.core.trace_run import rewrite as rewritten_file

_FOLDER = Path(__file__).parent / "scenarios"
_FILES = [path.name for path in traces_below(_FOLDER)]


@pytest.mark.parametrize("name", _FILES)
def test_the_scenario_goes_as_written(name: str, rewrite: bool) -> None:
    if rewrite and rewritten_file(_FOLDER / name):
        pytest.fail(f"{name} was rewritten: review what changed")
    check(_FOLDER / name)


@pytest.mark.parametrize("name", _FILES)
def test_the_scenario_says_what_it_shows(name: str) -> None:
    text = (_FOLDER / name).read_text(encoding="utf-8")
    assert text.startswith("# "), "a scenario begins with the claim it makes"
    assert len(parse_file(text)) > 2
