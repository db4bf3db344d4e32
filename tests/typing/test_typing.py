"""Types are API: what pyright is told about the public names is checked by pyright.

The files beside this one hold ``assert_type`` and lines that must be errors; a needless
``pyright: ignore`` is an error too, so an ``Any`` that crept in is found.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source import ROOT

_HERE = Path(__file__).parent
# Pyright starts slowly on a busy machine.
pytestmark = pytest.mark.timeout(300)


def complaints(folder: Path, *paths: Path) -> list[str]:
    """What pyright, strict, has against copies of the files in an empty folder."""
    for path in paths:
        shutil.copy(path, folder)
    settings = {
        "typeCheckingMode": "strict",
        "reportUnnecessaryTypeIgnoreComment": "error",
        "pythonVersion": "3.11",
        "extraPaths": [str(ROOT)],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(paths), report
    return [
        f"{Path(one['file']).name}:{one['range']['start']['line'] + 1}: {one['message']}"
        for one in report["generalDiagnostics"]
    ]


def test_type_checkers_see_what_is_promised(tmp_path: Path) -> None:
    found = complaints(tmp_path, *sorted(_HERE.glob("*_types.py")))
    assert not found, "\n" + "\n".join(found)


def test_a_broken_promise_is_found(tmp_path: Path) -> None:
    checked = tmp_path / "checked"
    checked.mkdir()
    broken = tmp_path / "broken_types.py"
    broken.write_text(
        "from typing import Any, assert_type\n"
        "from raftkv import core\n"
        "def wrong(state: core.State, vague: Any) -> None:\n"
        "    assert_type(state.term, str)\n"
        "    core.step(vague, vague)  # pyright: ignore[reportArgumentType]\n"
    )
    found = complaints(checked, broken)
    assert len(found) == 2
    assert '"assert_type" mismatch' in found[0]
    assert "Unnecessary" in found[1]
