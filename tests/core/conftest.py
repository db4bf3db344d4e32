"""``pytest tests/core --rewrite`` writes what scenarios print into their files, to be reviewed."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--rewrite``."""
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="replace the expected output in tests/core/scenarios by what is printed now",
    )


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    """Whether expected output is to be rewritten.

    The option is unknown where pytest was started elsewhere and met this file late.
    """
    return bool(request.config.getoption("--rewrite", default=False))
