"""One member becomes three while the application goes on writing, and one again.

Run it: ``python examples/grow.py``. The members run in one process here and talk over loopback; in
production each is a process on a machine of its own, and everything else stays as it is.
"""

from __future__ import annotations

import socket
import tempfile
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import anyio

import raftkv


async def member(
    directory: str, name: str, address: str, join: list[str], done: anyio.Event
) -> None:
    """What runs on a machine that joins: until it is removed, or all is done."""
    with suppress(raftkv.RemovedError):
        async with raftkv.open_node(Path(directory, name), name=name, join=join) as node:
            await node.ready()
            print(f"{name} at {address} has caught up")
            await done.wait()


async def write(node: raftkv.Node[raftkv.KvResult], done: anyio.Event) -> None:
    """The application: it notices nothing."""
    count = 0
    while not done.is_set():
        await node.kv.put("counter", str(count))
        count += 1
    print("the application went on writing throughout:", count > 50)


async def main() -> None:
    """Grow to three members, and shrink to one."""
    addresses = {name: free_address() for name in ("n1", "n2", "n3")}
    done = anyio.Event()
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        tasks = await stack.enter_async_context(anyio.create_task_group())
        first = await stack.enter_async_context(
            raftkv.open_node(Path(directory, "n1"), name="n1", cluster={"n1": addresses["n1"]})
        )
        await first.ready()
        tasks.start_soon(write, first, done)
        for name in ("n2", "n3"):
            await first.members.add(name, addresses[name])
            tasks.start_soon(member, directory, name, addresses[name], [addresses["n1"]], done)
            await first.members.promoted(name)
        print("voters:", [one.name for one in first.members.list() if one.is_voter])

        for name in ("n3", "n2"):
            await first.members.remove(name)
        print("voters:", [one.name for one in first.members.list() if one.is_voter])
        done.set()


def free_address() -> str:
    """A port on loopback that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


if __name__ == "__main__":
    anyio.run(main)
