"""One PySyncObj member as a process of its own, told what to do by lines of JSON.

Its calls with a callback are the fastest it has: they come from its own thread, and each answer
makes the next call there.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from importlib import import_module
from typing import Protocol, cast

from benchmarks.commands import reply
from benchmarks.load import Result, key_of, result_of, value_of
from benchmarks.processes import Answer

_SUCCESS = 0
_WAIT_SECONDS = 60.0


class _Dict(Protocol):
    """A replicated dictionary: ReplDict of pysyncobj.batteries."""

    def set(
        self, key: bytes, value: bytes, *, callback: Callable[[object, int | None], None]
    ) -> None: ...

    def rawData(self) -> dict[bytes, bytes]: ...


class _SyncObj(Protocol):
    """The member."""

    def getStatus(self) -> dict[str, object]: ...

    def destroy(self) -> None: ...


class _Load:
    """A closed loop of callbacks."""

    def __init__(self, values: _Dict, run: int, clients: int, seconds: float) -> None:
        self._values = values
        self._run = run
        self._clients = clients
        self._latencies = array("d")
        self._failed = 0
        self._left = clients
        self._done = threading.Event()
        self._begin = time.perf_counter()
        self._end = self._begin + seconds

    def result(self) -> Result:
        """Run it to its end."""
        for client in range(self._clients):
            self._put(client, 0)
        self._done.wait()
        elapsed = time.perf_counter() - self._begin
        return result_of(self._latencies, self._clients, self._failed, elapsed)

    def _put(self, client: int, turn: int) -> None:
        asked = time.perf_counter()
        if asked >= self._end:
            self._left -= 1
            if not self._left:
                self._done.set()
            return
        answered = partial(self._answered, client, turn, asked)
        self._values.set(key_of(self._run, client, turn), value_of(turn), callback=answered)

    def _answered(
        self, client: int, turn: int, asked: float, result: object, reason: int | None
    ) -> None:
        if reason == _SUCCESS:
            self._latencies.append(time.perf_counter() - asked)
        else:
            self._failed += 1
        self._put(client, turn + 1)


class _Member:
    def __init__(self, own: str, others: Sequence[str], conf: dict[str, object]) -> None:
        package, batteries = import_module("pysyncobj"), import_module("pysyncobj.batteries")
        self._values = cast("_Dict", batteries.ReplDict())
        made = package.SyncObj(
            own, list(others), package.SyncObjConf(**conf), consumers=[self._values]
        )
        self._node = cast("_SyncObj", made)

    def status(self) -> Answer:
        status = self._node.getStatus()
        leader = status["leader"]
        return {
            "leader": None if leader is None else str(leader),
            "commit": status["commit_idx"],
            "applied": status["last_applied"],
        }

    def answer(self, command: Answer) -> Answer:
        """Do what a command says."""
        match command["do"]:
            case "status":
                return self.status()
            case "load":
                load = _Load(
                    self._values,
                    cast("int", command["run"]),
                    cast("int", command["clients"]),
                    cast("float", command["seconds"]),
                )
                return load.result().answer()
            case "verify":
                self._wait_for(cast("int", command["index"]))
                return self._digest()
            case other:
                raise ValueError(f"unknown command {other!r}")

    def _wait_for(self, index: int) -> None:
        limit = time.monotonic() + _WAIT_SECONDS
        while cast("int", self.status()["applied"]) < index:
            if time.monotonic() > limit:
                raise SystemExit(f"entry {index} is not applied after {_WAIT_SECONDS:g} s")
            time.sleep(0.02)

    def _digest(self) -> Answer:
        digest = blake2b()
        items = sorted(self._values.rawData().items())
        for key, value in items:
            digest.update(key + value)
        return {"count": len(items), "digest": digest.hexdigest()}

    def close(self) -> None:
        """End it."""
        self._node.destroy()


def main() -> None:
    """Arguments: own address, the others' addresses and the configuration as JSON."""
    own, others, conf = sys.argv[1:]
    member = _Member(own, json.loads(others), json.loads(conf))
    for line in sys.stdin:
        reply(member.answer(cast("Answer", json.loads(line))))
    member.close()


if __name__ == "__main__":
    main()
