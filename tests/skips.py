"""Under CI a skip fails, unless ``skips.txt`` lists it: a test that does not run proves nothing.

A hook of pytest that ``conftest.py`` takes in. Expected failures count as skips.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from attrs import frozen

LIST = Path(__file__).with_name("skips.txt")


@frozen
class Exemption:
    """One line of the list: which tests may be skipped, when, and why."""

    pattern: str
    condition: str
    reason: str

    def covers(self, test: str, environment: Mapping[str, str]) -> bool:
        """Whether a test of this id may be skipped here."""
        kind, _, what = self.condition.partition(" ")
        if kind == "env":
            name, _, value = what.partition("=")
            holds = environment.get(name) == value
        elif kind == "lacks":
            holds = os.geteuid() != 0 if what == "root" else not os.path.exists(what)
        else:
            holds = shutil.which(what, path=environment.get("PATH", "")) is None
        return holds and fnmatchcase(test, self.pattern)


def read(lines: Iterable[str]) -> list[Exemption]:
    """The exemptions in a list. Raises ValueError for a line that says too little."""
    exemptions: list[Exemption] = []
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        pattern, condition, reason = (part.strip() for part in line.split("|", 2))
        if condition.partition(" ")[0] not in {"env", "lacks", "missing"} or not reason:
            raise ValueError(f"an exemption needs a condition and a reason: {line!r}")
        exemptions.append(Exemption(pattern, condition, reason))
    return exemptions


def verdict(
    test: str, why: str, exemptions: Iterable[Exemption], environment: Mapping[str, str]
) -> str | None:
    """The failure that a skip becomes; None where it may stand."""
    if not environment.get("CI"):
        return None
    if any(exemption.covers(test, environment) for exemption in exemptions):
        return None
    return f"{test} was skipped under CI ({why}); make it run, or list it in {LIST.name}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn an unlisted skip of a test into a failure."""
    report = yield
    _judge(report, item.nodeid)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn an unlisted skip of a whole file into a failure."""
    report = yield
    _judge(report, collector.nodeid)
    return report


def _judge(report: pytest.TestReport | pytest.CollectReport, test: str) -> None:
    if report.outcome != "skipped":
        return
    expected = getattr(report, "wasxfail", None)
    if expected is not None:
        why = f"expected failure {expected}".strip()
    else:
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    message = verdict(test, why, read(LIST.read_text().splitlines()), os.environ)
    if message:
        report.outcome = "failed"
        report.longrepr = message
        if expected is not None:
            del report.__dict__["wasxfail"]  # else it would be counted as an expected failure
