"""The small examples run as they stand, whatever else runs on the machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

from tests.source import ROOT


def output_of(example: str, folder: Path) -> str:
    """What an example prints, run in an empty folder with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / example)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_with_threads_needs_no_port_of_its_own(tmp_path: Path) -> None:
    with closing(socket.socket()) as taken:
        with suppress(OSError):  # then another program has it
            taken.bind(("127.0.0.1", 7400))
            taken.listen()
        shown = output_of("threads.py", tmp_path)
    assert shown == "puts: 200 distinct revisions: 200\nstored: 200\n"
