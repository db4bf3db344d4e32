"""SIGKILL of a writer: nothing acknowledged is lost, nothing invented, and it opens again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = int(os.environ.get("RAFTKV_KILLS", "30"))


@pytest.mark.campaign
@pytest.mark.timeout(60 + 3 * KILLS)
def test_a_member_killed_at_any_moment_keeps_what_it_promised(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.storage.killing", "--kills", str(KILLS)]
    run = subprocess.run(
        [*command, "--seed", os.environ.get("RAFTKV_KILL_SEED", "1"), "--directory", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["killed"] == KILLS
    # Kills that hit nothing prove nothing: a quarter must fall amid a write or a flush.
    assert result["inside"] >= KILLS // 4, result
