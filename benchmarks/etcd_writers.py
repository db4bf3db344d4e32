"""A writer at each member of an etcd cluster, in one client process told what to do by JSON."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import cast

import anyio

from benchmarks.commands import commands, reply
from benchmarks.etcd_client import EtcdClient, EtcdError
from benchmarks.load import Writers

_AGAIN_SECONDS = 0.01


class Link:
    """A connection to one member, made again whenever it breaks."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._client: EtcdClient | None = None

    async def put(self, key: bytes, value: bytes) -> None:
        """Put and wait for the acknowledgement. Raises EtcdError at once if not connected."""
        if self._client is None:
            raise EtcdError("not connected")
        await self._client.put(key, value)

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            with suppress(OSError, anyio.EndOfStream, anyio.BrokenResourceError, EtcdError):
                async with await anyio.connect_tcp("127.0.0.1", self._port) as stream:
                    client = self._client = EtcdClient(stream, f"127.0.0.1:{self._port}")
                    with suppress(ExceptionGroup):  # the connection broke
                        await client.run()
            self._client = None
            await anyio.sleep(_AGAIN_SECONDS)


async def _serve(ports: dict[str, int]) -> None:
    async with anyio.create_task_group() as tasks:
        links = {name: Link(port) for name, port in ports.items()}
        for link in links.values():
            tasks.start_soon(link.run)
        writers: dict[str, Writers] = {}
        async for command in commands():
            name = cast("str", command["at"])
            match command["do"]:
                case "write":
                    writers[name] = Writers(
                        links[name].put,
                        (EtcdError,),
                        prefix=cast("str", command["prefix"]),
                        clients=cast("int", command["clients"]),
                        patience_seconds=cast("float", command["patience_seconds"]),
                    )
                    tasks.start_soon(writers[name].run)
                    reply({})
                case "first":
                    reply({"at": writers[name].first_since(cast("float", command["since"]))})
                case "rest":
                    writers[name].stop()
                    reply({"count": writers[name].count, "failed": writers[name].failed})
                case other:
                    raise ValueError(f"unknown command {other!r}")
        tasks.cancel_scope.cancel()


def main() -> None:
    """Argument: the client port of each member, as JSON."""
    anyio.run(_serve, json.loads(sys.argv[1]))


if __name__ == "__main__":
    main()
