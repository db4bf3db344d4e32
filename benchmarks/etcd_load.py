"""The client side of the etcd benchmark, in a process of its own like every etcd client."""

from __future__ import annotations

import json
import sys
import time

import anyio

from benchmarks.etcd_client import EtcdClient, EtcdError
from benchmarks.load import Result, closed_loop


async def _run(host: str, port: int, run: int, clients: int, seconds: float) -> Result:
    async with await anyio.connect_tcp(host, port) as stream, anyio.create_task_group() as tasks:
        client = EtcdClient(stream, f"{host}:{port}")
        tasks.start_soon(client.run)
        await client.put(b"bench-warm-up", b"")
        result = await closed_loop(
            client.put, (EtcdError,), run=run, clients=clients, seconds=seconds
        )
        tasks.cancel_scope.cancel()
        return result
    raise EtcdError("the connection ended before the load did")


def main() -> None:
    """Arguments: host, port, run, clients, seconds. Prints one JSON object."""
    host, port, run, clients, seconds = sys.argv[1:]
    result = anyio.run(_run, host, int(port), int(run), int(clients), float(seconds))
    print(json.dumps({**result.answer(), "client_cpu_seconds": time.process_time()}))


if __name__ == "__main__":
    main()
