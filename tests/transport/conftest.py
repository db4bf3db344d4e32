"""The transport's log as something to wait for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import anyio
import pytest


class LogLines(logging.Handler):
    """What the transport logged; tests wait until a line is there."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []
        self._changed: anyio.Event | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        if self._changed is not None:
            self._changed.set()

    def loud(self) -> list[str]:
        """What an operator sees with default settings."""
        return [r.getMessage() for r in self.records if r.levelno >= logging.WARNING]

    def having(self, *parts: str) -> list[str]:
        return [line for line in self.loud() if all(part in line for part in parts)]

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed = anyio.Event()
            await self._changed.wait()

    async def until_line(self, *parts: str) -> None:
        await self.until(lambda: bool(self.having(*parts)))


@pytest.fixture
def lines() -> Iterator[LogLines]:
    """The transport's log from here on. No line may ever carry a stack."""
    handler = LogLines()
    logger = logging.getLogger("raftkv.transport")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert all(record.exc_info is None for record in handler.records)
    assert all("\n" not in record.getMessage() for record in handler.records)
