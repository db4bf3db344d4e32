"""The core reproduces recorded runs of another implementation, file by file.

``RAFTKV_TRACES`` names the folder they lie in (by default beside the repository); ``none`` waives
them, for clones that come without.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.core.trace_run import check, traces_below

_ROOT = Path(__file__).parent.parent.parent
_NAMED = os.environ.get("RAFTKV_TRACES") or "../shared/conformance/etcd-raft"


def _folder() -> Path:
    """Seen from the repository, else from where pytest was started."""
    seen = (_ROOT / _NAMED).resolve()
    return seen if seen.is_dir() else Path(_NAMED).resolve()


_FOLDER = _folder()
_FILES = [str(path.relative_to(_FOLDER)) for path in traces_below(_FOLDER)]


def _parameters() -> list[object]:
    if _NAMED == "none":
        reason = "RAFTKV_TRACES=none: this clone comes without the recorded traces"
        return [pytest.param("", id="none", marks=pytest.mark.skip(reason))]
    return [*_FILES] or [pytest.param("", id="missing")]


@pytest.mark.parametrize("path", _parameters())
def test_the_recorded_run_is_reproduced(path: str) -> None:
    assert path, (
        f"no trace files below {_FOLDER}: let RAFTKV_TRACES name the folder that holds them, or say"
        " RAFTKV_TRACES=none to do without"
    )
    check(_FOLDER / path)
