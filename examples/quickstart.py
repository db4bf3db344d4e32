"""The README's lines: three members in one process, and the database they are.

Run it: ``python examples/quickstart.py``. ``open_cluster`` is for development and tests; an
application opens one node per process with ``raftkv.open_node``, as ``three_nodes.py`` does.
"""

from __future__ import annotations

import tempfile

import anyio

import raftkv


async def main() -> None:
    """Put, read, list, delete, and survive the loss of the leader."""
    with tempfile.TemporaryDirectory() as directory:
        async with raftkv.open_cluster(directory, size=3) as cluster:
            leader = await cluster.leader()
            put = await leader.kv.put("config/mode", b"dark")
            print("stored on a majority at revision", put.revision)

            follower = next(node for node in cluster.nodes if node is not leader)
            mode = await follower.kv.get("config/mode")
            print("read anywhere, never stale:", mode.value if mode else None)

            await follower.kv.put("config/size", b"large")
            listed = await leader.kv.range(prefix="config/")
            print("listed:", [item.key.decode() for item in listed.items])

            deleted = await leader.kv.delete("config/size")
            print("deleted:", deleted.deleted)


if __name__ == "__main__":
    anyio.run(main)
