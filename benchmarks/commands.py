"""The children's side: commands as lines of JSON on standard input, answers on standard output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from typing import cast

import anyio

from benchmarks.processes import Answer


async def commands() -> AsyncIterator[Answer]:
    """Each command, until the input ends."""
    rest = b""
    while True:
        await anyio.wait_readable(sys.stdin)
        data = os.read(sys.stdin.fileno(), 65536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield cast("Answer", json.loads(line))


def reply(answer: Answer) -> None:
    """Answer the command."""
    print(json.dumps(answer), flush=True)
