"""A plugin of pytest that tells why a test failed: by its judgement, or by an accident.

pytest is only needed here, and here it is there: who runs the other commands need not have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import pytest

from raftkv.errors import InvariantError, StorageCorruptError
from raftkv.testing.mutants.judgement import in_words

_JUDGEMENTS: Final = (AssertionError, InvariantError, StorageCorruptError)


def judged(error: BaseException) -> BaseException | None:
    """The judgement in an error, in a group of errors, or behind one; None: an accident."""
    for one in _behind(error):
        if isinstance(one, _JUDGEMENTS):
            return one
        if isinstance(one, pytest.fail.Exception) and not str(one).startswith("Timeout"):
            return one
    return None


def _behind(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if any(one is other for other in seen):
            continue
        seen.append(one)
        yield one
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType] - of any kind
        waiting += [other for other in (one.__cause__, one.__context__) if other is not None]


class Watch:
    """The plugin: calls ``told`` with the id of each test that goes red, and why."""

    def __init__(self, told: Callable[[str, str, bool], None]) -> None:
        self._told = told
        self.red = 0
        self.judged = 0
        """How many of them by a judgement."""

    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> pytest.TestReport | None:
        """Look at each phase of each test; what becomes of the report is pytest's business."""
        error = None if call.excinfo is None else call.excinfo.value
        if error is None or isinstance(error, KeyboardInterrupt | pytest.skip.Exception):
            return None
        # Before and after the call stand fixtures: they prepare, they do not judge.
        judgement = judged(error) if call.when == "call" else None
        self.red += 1
        self.judged += judgement is not None
        self._told(item.nodeid, in_words(judgement or error), judgement is not None)
        return None
