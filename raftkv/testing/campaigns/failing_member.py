"""A member whose disk will fail: what it still says once it has stopped is noted for the driver.

Otherwise it is :mod:`~raftkv.testing.campaigns.member`. The verdict is a JSON object in a file of
its own: when its context was left, and what each call answered that was tried afterwards.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, cast

import anyio

import raftkv
from raftkv.kv import KvMachine
from raftkv.testing.campaigns.member import Json, Member, open_diary

STOPPED_STATUS: Final = 7
"""How the process ends if its node stopped by itself."""
_TRY_SECONDS: Final = 0.5


class _Failing:
    """One member of this process, and what it was opened with."""

    def __init__(self, given: Json) -> None:
        self._given = given
        self._machine = KvMachine()
        self._node: raftkv.Node[raftkv.KvResult] | None = None

    def _open(self, machine: KvMachine) -> AbstractAsyncContextManager[object]:
        given = self._given
        settings = raftkv.Settings(**cast("dict[str, int]", given["settings"]))
        return raftkv.open_node(
            Path(str(given["directory"])),
            name=str(given["name"]),
            cluster=cast("dict[str, str]", given["cluster"]),
            machine=machine,
            insecure=True,
            settings=settings,
        )

    async def run(self) -> Json | None:
        """Serve until told to stop, or until the node stops by itself: then the verdict."""
        try:
            async with self._open(self._machine) as opened:
                node = cast("raftkv.Node[raftkv.KvResult]", opened)
                self._node = node
                diary = open_diary(str(self._given["history"]))
                await Member(node, self._machine, diary, self._given).serve()
        except raftkv.NodeStoppedError as stopped:
            return {
                "stopped_ns": time.monotonic_ns(),
                "why": f"{stopped} ({stopped.__cause__!r})",
                "tries": {name: await _tried(call) for name, call in self._calls().items()},
            }
        return None

    def _calls(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        node, machine = self._node, self._machine
        if node is None:
            return {}  # it stopped before it served
        kv, limit = raftkv.Kv(node, machine), _TRY_SECONDS

        async def rows() -> object:
            return machine.state_hash()

        async def reopened() -> object:
            async with self._open(KvMachine()):
                return "opened"

        return {
            "put": lambda: kv.put("k0", "after the failure", timeout=limit),
            "get": lambda: kv.get("k0", timeout=limit),
            "lease get": lambda: kv.get("k0", lease=True, timeout=limit),
            "serializable get": lambda: kv.get("k0", serializable=True, timeout=limit),
            "range": lambda: kv.range(prefix="", timeout=limit),
            "read": lambda: node.read(timeout=limit),
            "rows of the store": rows,
            "opening again": reopened,
        }


async def _tried(call: Callable[[], Awaitable[object]]) -> str:
    """The name of the error that a call raised, or what it answered, which it should not."""
    try:
        answer = await call()
    except raftkv.Error as error:
        return type(error).__name__
    except Exception as error:
        return f"foreign: {error!r}"
    return f"answered: {answer!r:.100}"


def main() -> int:
    """One argument: everything about the member, as JSON."""
    given = cast("Json", json.loads(sys.argv[1]))
    verdict = anyio.run(_Failing(given).run, backend=str(given.get("backend", "asyncio")))
    if verdict is None:
        return 0
    Path(str(given["verdict"])).write_text(json.dumps(verdict), encoding="utf-8")
    return STOPPED_STATUS


if __name__ == "__main__":
    sys.exit(main())
