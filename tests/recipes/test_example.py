"""The example of what the recipes are for runs, and finds all as promised."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.source import ROOT


def test_the_example_survives_the_loss_of_who_was_elected(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / "coordination.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    first, second = [line.removesuffix(" leads") for line in lines if line.endswith(" leads")]
    assert {first, second} == {"n2", "n3"}
    assert f"{first} is cut off from the others" in lines
    assert lines[-1] == "every job was done once, and none is left: True"
