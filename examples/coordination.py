"""Coordination: a lease, an election, a lock and a watch, in one small application.

Run it: ``python examples/coordination.py``. Two workers announce themselves by keys on leases; one
of them is elected and hands out jobs; both do them, under locks. Then the elected one is cut off:
its leases run out, it stops by itself, and the other one takes over. A monitor sees it all by a
watch. Exits with 1 if a job was done twice or never.

All are members in one process here, as in ``quickstart.py``; in production each is a process of its
own with ``raftkv.open_node``, and everything else stays as it is.
"""

from __future__ import annotations

import sys

import anyio

import raftkv
from raftkv import EventKind, op, when

JOBS = 4
TTL_SECONDS = 5  # longer than electing a new leader takes: else everybody's leases go with it


class Monitor:
    """What a watch tells of the store, kept up to date: nothing is missed, and nothing polled."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}
        self._changed = anyio.Event()

    async def run(self, kv: raftkv.Kv) -> None:
        """Read what is there, then follow what happens from the next revision on."""
        found = await kv.range(prefix="app/")
        self.keys = {item.key.decode(): item.value.decode() for item in found.items}
        async with kv.watch(prefix="app/", start=found.revision + 1) as changes:
            async for change in changes:
                for event in change.events:
                    key = event.kv.key.decode()
                    if event.kind is EventKind.PUT:
                        self.keys[key] = event.kv.value.decode()
                    else:
                        del self.keys[key]
                self._changed.set()
                self._changed = anyio.Event()

    def below(self, prefix: str) -> dict[str, str]:
        """The keys that begin with a prefix, without it."""
        return {
            key.removeprefix(prefix): value
            for key, value in self.keys.items()
            if key.startswith(prefix)
        }

    async def boss_other_than(self, name: str | None) -> str:
        """Wait until another one was elected."""
        while self.keys.get("app/boss") in (None, name):
            await self._changed.wait()
        return self.keys["app/boss"]

    async def until(self, prefix: str, keys: set[str]) -> None:
        """Wait until exactly these keys are below a prefix."""
        while set(self.below(prefix)) != keys:
            await self._changed.wait()


async def work(node: raftkv.Node[raftkv.KvResult]) -> None:
    """One worker: it announces itself, does jobs, and stands for election, until it is cut off."""
    try:
        async with node.kv.lease(TTL_SECONDS) as lease, anyio.create_task_group() as tasks:
            # The key goes with the lease, so that it says who is alive, not who was once.
            await node.kv.put(f"app/alive/{node.name}", "yes", lease=lease)
            tasks.start_soon(lead, node)
            async with node.kv.watch(prefix="app/todo/", start=1, deletes=False) as changes:
                async for change in changes:
                    for event in change.events:
                        await do(node, event.kv.key.decode().removeprefix("app/todo/"))
    except* raftkv.Error:
        # Its leases could not be proven alive any more: what it did was cancelled.
        print(node.name, "stopped")


async def do(node: raftkv.Node[raftkv.KvResult], job: str) -> None:
    """Do a job, once: the lock saves double work, the conditions make it safe."""
    async with node.kv.lock(f"locks/{job}", ttl=TTL_SECONDS) as held:
        await node.kv.txn(
            when=[held.is_mine, when.absent(f"app/done/{job}")],
            then=[op.put(f"app/done/{job}", node.name), op.delete(f"app/todo/{job}")],
        )


async def lead(node: raftkv.Node[raftkv.KvResult]) -> None:
    """Wait to be elected, then hand out jobs: void if another one leads already."""
    async with node.kv.election("boss", ttl=TTL_SECONDS).campaign(node.name) as leadership:
        jobs = [op.put(f"app/todo/{job}", b"") for job in jobs_of(node.name)]
        await node.kv.txn(when=[leadership.is_mine], then=[op.put("app/boss", node.name), *jobs])
        print(node.name, "leads")
        try:
            await anyio.sleep_forever()
        finally:
            print(node.name, "leads no more")


def jobs_of(boss: str) -> set[str]:
    """The jobs that a leader hands out."""
    return {f"{boss}-{number}" for number in range(JOBS)}


async def main() -> int:
    """Run it all; 0 if everything was as promised."""
    is_right = False
    async with raftkv.open_cluster(None, size=3) as cluster, anyio.create_task_group() as tasks:
        await cluster.leader()
        watching, *working = cluster.nodes
        monitor = Monitor()
        tasks.start_soon(monitor.run, watching.kv)
        for node in working:
            tasks.start_soon(work, node)
        with anyio.fail_after(40):
            await monitor.until("app/alive/", {node.name for node in working})
            first = await monitor.boss_other_than(None)
            await monitor.until("app/done/", jobs_of(first))
            print("the jobs of", first, "are done")

            lost = cluster.node(first)
            rest = [node for node in cluster.nodes if node is not lost]
            cluster.network.partition([lost.id], [node.id for node in rest])
            print(first, "is cut off from the others")
            await monitor.until("app/alive/", {node.name for node in working if node is not lost})
            second = await monitor.boss_other_than(first)
            await monitor.until("app/done/", jobs_of(first) | jobs_of(second))
            print("the jobs of", second, "are done")

            done = await watching.kv.range(prefix="app/done/")
            todo = await watching.kv.count(prefix="app/todo/")
        cluster.network.heal()
        tasks.cancel_scope.cancel()
        is_right = todo == 0 and all(item.version == 1 for item in done.items)
    print("every job was done once, and none is left:", is_right)
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(anyio.run(main))
