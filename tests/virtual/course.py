"""A short life of a cluster under all faults, and everything that happened in it as one number.

``python -m tests.virtual.course SEED`` prints the number: two processes must agree.
"""

from __future__ import annotations

import sys
from hashlib import blake2b

import anyio

from raftkv.core import Input, State
from raftkv.errors import Error
from raftkv.kv import KvResult
from raftkv.testing import Choices, SeededChoices
from raftkv.testing.nodes import Conditions, Pace, SimCluster, Weather, run_virtual

MS = 1_000_000
ROUGH = Conditions(
    weather=Weather(
        latency_ns=(100_000, 200_000, MS, 5 * MS, 40 * MS),
        lost=20,
        reset=3,
        flipped=3,
        doubled=20,
        late=20,
        replayed=20,
    ),
    pace=Pace(wal_ns=(250_000, 3 * MS, 20 * MS), early_permille=300),
    clock_parts=(1_000_000_000, 1_050_000_000, 950_000_000),
)


class Course:
    """What happened, as lines; hashed as they come."""

    def __init__(self) -> None:
        self.hash = blake2b(digest_size=16)
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        self.lines.append(line)
        self.hash.update(line.encode() + b"\n")


async def _writes(cluster: SimCluster[KvResult], course: Course, client: int) -> None:
    for number in range(12):
        nodes = cluster.nodes
        if nodes:
            name = sorted(nodes)[cluster.choices.choose(len(nodes))]
            try:
                done = await nodes[name].kv.put(f"k{number % 3}", b"%d" % client, timeout=1.0)
                course.add(f"{cluster.loop.now_ns} client {client} {name} {done.revision}")
            except Error as error:
                course.add(f"{cluster.loop.now_ns} client {client} {name} {type(error).__name__}")
        await anyio.sleep(0.05 * cluster.choices.choose(8))


async def _breaks(cluster: SimCluster[KvResult]) -> None:
    choices = cluster.choices
    for _ in range(4):
        await anyio.sleep(0.1 * (1 + choices.choose(8)))
        name = cluster.names[choices.choose(3)]
        match choices.choose(4):
            case 0:
                with cluster.isolate(name):
                    await anyio.sleep(1.5)
            case 1:
                with cluster.pause(name, asleep=bool(choices.choose(2))):
                    await anyio.sleep(1.5)
            case 2:
                async with cluster.crash(name, is_told=bool(choices.choose(2))):
                    await anyio.sleep(0.4)
            case _:
                with cluster.cut(name, cluster.names[(cluster.names.index(name) + 1) % 3]):
                    await anyio.sleep(1.5)


async def _live(choices: Choices, course: Course) -> None:
    async with SimCluster(choices, conditions=ROUGH) as cluster:

        def stepped(name: str, _before: State, given: Input, after: State) -> None:
            course.add(f"{cluster.loop.now_ns} {name} {given!r} {after.term} {after.commit}")

        cluster.on_step.append(stepped)
        async with anyio.create_task_group() as tasks:
            for client in range(3):
                tasks.start_soon(_writes, cluster, course, client)
            tasks.start_soon(_breaks, cluster)


def course_of(choices: Choices, shuffle_permille: int = 300) -> Course:
    course = Course()
    run_virtual(lambda: _live(choices, course), choices, shuffle_permille=shuffle_permille)
    return course


if __name__ == "__main__":
    sys.stdout.write(course_of(SeededChoices(int(sys.argv[1]))).hash.hexdigest())
