"""The command, and five seeded bugs that must be noticed: others after each change of the package.

``python -m raftkv.testing mutants`` tries all of them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import raftkv
from raftkv.testing.__main__ import main
from raftkv.testing.campaigns.ledger import load_ledger


@pytest.mark.campaign
@pytest.mark.timeout(240)
def test_five_seeded_bugs_are_noticed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.json"
    status = main(["mutants", "--rotate", "5", "--json", "--ledger", str(ledger)])
    told = json.loads(capsys.readouterr().out)
    assert (status, told["mutants"], told["killed"]) == (0, 5, 5), told["verdicts"]
    lines = load_ledger(ledger)["mutants"].values()
    assert [(one.cases, one.findings, one.figures) for one in lines] == [(1, 0, {"killed": 1})] * 5


def test_a_number_that_is_no_mutants_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mutants", "--only", "99"]) == 2
    assert capsys.readouterr().err == "there is no mutant 99\n"


def test_an_installed_package_has_no_mutants(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raftkv, "__file__", str(tmp_path / "raftkv" / "__init__.py"))
    assert main(["mutants"]) == 2
    assert "is no source checkout of raftkv with tests/mutants: clone" in capsys.readouterr().err
