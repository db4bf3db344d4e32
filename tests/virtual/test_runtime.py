"""The simulated Runtime keeps its port: workers, clocks, chance, promises, as one process has."""

from __future__ import annotations

import anyio
import pytest

from raftkv.errors import ClosedError
from raftkv.runtime.base import Runtime
from raftkv.testing import Choices, ReplayedChoices, SeededChoices
from raftkv.testing.nodes import CrashedError, Pace, run_virtual
from raftkv.testing.nodes.loop import virtual_loop
from raftkv.testing.nodes.process import Host, Looker, Process
from raftkv.testing.nodes.runtime import SimClock, SimRng

MS = 1_000_000


def process(
    choices: Choices | None = None, pace: Pace | None = None, *, pid: int = 1, buggy: int = 0
) -> Process[object]:
    loop = virtual_loop()
    host = Host(
        name="n1",
        loop=loop,
        choices=choices or ReplayedChoices(()),
        clock=SimClock(loop),
        pace=pace or Pace(),
        looker=Looker(),
        buggify_permille=buggy,
    )
    return Process(host, pid)


# --- workers ----------------------------------------------------------------------------------


def test_a_worker_does_its_jobs_in_order_each_in_its_time() -> None:
    async def main() -> list[tuple[str, int]]:
        one = process(pace=Pace(wal_ns=(2 * MS,)))
        worker = one.runtime.workers.worker("wal")
        seen: list[tuple[str, int]] = []

        def job(name: str) -> str:
            seen.append((f"does {name}", one.runtime.clock.monotonic_ns() // MS))
            return name

        def told(name: object) -> None:
            seen.append((f"told {name}", one.runtime.clock.monotonic_ns() // MS))

        worker.submit(lambda: job("a"), told)
        worker.submit(lambda: job("b"), told)
        assert not seen, "nothing happens within submit"
        await worker.close()
        return seen

    assert run_virtual(main) == [("does a", 2), ("told a", 2), ("does b", 4), ("told b", 4)]


def test_a_job_is_told_of_in_a_later_turn_than_it_is_done_in() -> None:
    async def main() -> tuple[int, int]:
        turns: list[int] = []
        worker = process().runtime.workers.worker("wal")
        loop = virtual_loop()
        worker.submit(lambda: turns.append(loop.turns), lambda _outcome: turns.append(loop.turns))
        await worker.close()
        return turns[0], turns[1]

    done, told = run_virtual(main)
    assert told > done


def test_two_workers_work_at_the_same_time() -> None:
    async def main() -> float:
        runtime = process(pace=Pace(wal_ns=(5 * MS,), other_ns=(5 * MS,))).runtime
        async with anyio.create_task_group() as tasks:
            for name in ("wal", "snapshot"):
                tasks.start_soon(runtime.workers.worker(name).run, lambda: None)
        return anyio.current_time()

    assert run_virtual(main) == pytest.approx(0.005, abs=0.0001)


def test_what_a_job_raises_is_its_outcome() -> None:
    async def main() -> None:
        worker = process().runtime.workers.worker("wal")
        with pytest.raises(ZeroDivisionError):
            await worker.run(lambda: 1 // 0)
        assert await worker.run(lambda: 7) == 7

    run_virtual(main)


def test_who_is_cancelled_abandons_the_wait_and_not_the_job() -> None:
    async def main() -> list[int]:
        worker = process(pace=Pace(wal_ns=(50 * MS,))).runtime.workers.worker("wal")
        seen: list[int] = []
        with anyio.move_on_after(0.01):
            await worker.run(lambda: seen.append(1))
        assert not seen
        await worker.close()
        return seen

    assert run_virtual(main) == [1]


def test_a_closed_worker_takes_no_job_and_closes_twice() -> None:
    async def main() -> None:
        worker = process().runtime.workers.worker("wal")
        await worker.close()
        await worker.close()
        with pytest.raises(ClosedError, match="wal"):
            worker.submit(lambda: 1, lambda _outcome: None)

    run_virtual(main)


def test_a_crash_finds_a_job_before_or_behind_its_effect() -> None:
    def effect(choices: Choices) -> bool:
        async def main() -> bool:
            one = process(choices, Pace(wal_ns=(10 * MS,), early_permille=500))
            done: list[str] = []
            one.runtime.workers.worker("wal").submit(
                lambda: done.append("job"), lambda _outcome: done.append("told")
            )
            await anyio.sleep(0.005)
            one.kill()
            await anyio.sleep(1)
            assert "told" not in done
            return "job" in done

        return run_virtual(main)

    assert not effect(ReplayedChoices(()))
    assert {effect(SeededChoices(seed)) for seed in range(10)} == {True, False}


def test_a_slow_disk_is_slow_for_as_long_as_it_is() -> None:
    async def main() -> list[float]:
        one = process(pace=Pace(wal_ns=(MS,)))
        worker = one.runtime.workers.worker("wal")
        times: list[float] = []

        def slow(_name: str) -> int:
            return 900 * MS

        for extra in (None, slow, None):
            one.workers.extra_ns = extra
            await worker.run(lambda: None)
            times.append(round(anyio.current_time(), 2))
        return times

    assert run_virtual(main) == [0.0, 0.9, 0.9]


# --- clocks, chance, promises -----------------------------------------------------------------


def test_who_sleeps_wakes_at_the_time_and_not_before() -> None:
    async def main() -> None:
        clock = process().runtime.clock
        for until in (1_000, 7 * MS, 10**12):
            await clock.sleep_until(until)
            assert until <= clock.monotonic_ns() <= until + 10_000
        before = clock.monotonic_ns()
        await clock.sleep_until(5)
        assert clock.monotonic_ns() - before <= 10_000

    run_virtual(main)


def test_a_clock_that_is_slowed_down_under_a_sleeper_wakes_it_late() -> None:
    async def main() -> float:
        one = process()
        clock = one.host.clock
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clock.sleep_until, 1_000 * MS)
            await anyio.sleep(0.5)
            clock.run_at(500_000_000)
        assert clock.monotonic_ns() >= 1_000 * MS
        return anyio.current_time()

    assert run_virtual(main) == pytest.approx(1.5, abs=0.001)


def test_chance_repeats_by_seed_and_differs_by_process() -> None:
    def drawn(*seed: int | str) -> list[int]:
        rng = SimRng(*seed)  # pyright: ignore[reportArgumentType] - a seed, then names
        return [rng.below(1000) for _ in range(20)]

    assert drawn(1, "n1", 1) == drawn(1, "n1", 1)
    assert len({*map(tuple, (drawn(1, "n1", 1), drawn(1, "n2", 1), drawn(2, "n1", 1)))}) == 3
    token = SimRng(1, "n1").token(20)
    assert len(token) == 20
    assert token == SimRng(1, "n1").token(20) != bytes(20)


def test_a_process_knows_itself_and_its_loop() -> None:
    async def main() -> None:
        environment = process(pid=7).runtime.environment
        assert environment.pid() == 7
        assert environment.runs(environment.loop())
        assert not environment.runs(object())
        assert environment.thread_id() == process(pid=8).runtime.environment.thread_id()

    run_virtual(main)


def test_misbehaviour_is_decided() -> None:
    def times(runtime: Runtime) -> int:
        return sum(runtime.buggify("somewhere") for _ in range(200))

    async def main() -> tuple[int, int, int]:
        return (
            times(process().runtime),
            times(process(ReplayedChoices(()), buggy=500).runtime),
            times(process(SeededChoices(1), buggy=500).runtime),
        )

    never, unasked, often = run_virtual(main)
    assert (never, unasked) == (0, 0)
    assert 60 < often < 140


def test_promises_of_a_killed_process_are_broken_and_no_new_ones_made() -> None:
    async def main() -> None:
        one = process()
        made = [one.runtime.promise() for _ in range(1_000)]
        for promise in made[:-1]:
            promise.set_result(None)
        one.kill()
        with pytest.raises(CrashedError, match="n1 was killed"):
            await made[-1]
        with pytest.raises(ClosedError, match="ask another"):
            one.runtime.promise()

    run_virtual(main)
