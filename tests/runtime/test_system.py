"""The real clocks, doorbells, promises and workers, on both backends."""

from __future__ import annotations

import os
import threading

import anyio
import anyio.lowlevel
import pytest

from raftkv.errors import ClosedError
from raftkv.runtime.hosting import HostThread
from raftkv.runtime.system import SystemClock, system_runtime


async def test_sleeping_never_ends_before_its_time() -> None:
    clock = SystemClock()
    for _ in range(20):
        until = clock.monotonic_ns() + 200_000
        await clock.sleep_until(until)
        assert clock.monotonic_ns() >= until
    await clock.sleep_until(0)


def test_the_clocks_are_the_kernels() -> None:
    clock = SystemClock()
    assert clock.boottime_ns() >= clock.monotonic_ns() - 1_000_000_000
    assert clock.wall_ns() > 1_700_000_000 * 10**9


def test_chance_stays_below_its_bound_and_tokens_differ() -> None:
    rng = system_runtime().rng
    assert {rng.below(3) for _ in range(200)} == {0, 1, 2}
    assert rng.below(1) == 0
    assert len({rng.token(16) for _ in range(100)}) == 100


async def test_a_doorbell_rung_before_the_wait_is_heard_once() -> None:
    waker = system_runtime().waker()
    waker.set()
    waker.set()
    await waker.wait()
    with anyio.move_on_after(0.01) as scope:
        await waker.wait()
    assert scope.cancelled_caught


async def test_a_doorbell_wakes_who_waits_again_and_again() -> None:
    waker = system_runtime().waker()
    heard = 0

    async def listen() -> None:
        nonlocal heard
        for _ in range(5):
            await waker.wait()
            heard += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        while heard < 5:
            waker.set()
            await anyio.lowlevel.checkpoint()


async def test_a_doorbell_that_rings_all_the_time_lets_others_run() -> None:
    waker = system_runtime().waker()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        for _ in range(100):
            waker.set()
            await waker.wait()
        tasks.cancel_scope.cancel()
    assert turns > 20


async def test_a_promise_gives_its_value_or_its_error() -> None:
    runtime = system_runtime()
    kept, broken, early = runtime.promise(), runtime.promise(), runtime.promise()
    early.set_result("early")

    async def keep() -> None:
        kept.set_result(7)
        broken.set_exception(KeyError("broken"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep)
        assert await kept == 7
    with pytest.raises(KeyError):
        await broken
    assert await early == "early"
    assert kept.done()


async def test_a_promise_whose_waiter_was_cancelled_is_done() -> None:
    promise = system_runtime().promise()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                await promise

            tasks.start_soon(wait)
            await anyio.lowlevel.checkpoint()
            scope.cancel()
    assert promise.done()


async def test_a_worker_runs_jobs_in_order_in_one_thread_and_reports_on_the_loop() -> None:
    worker = system_runtime().workers.worker("test")
    home = threading.get_ident()
    threads: list[int] = []
    outcomes: list[int | BaseException] = []
    reported = anyio.Event()

    def done(outcome: int | BaseException) -> None:
        assert threading.get_ident() == home
        outcomes.append(outcome)
        if len(outcomes) == 5:
            reported.set()

    def job(number: int) -> int:
        threads.append(threading.get_ident())
        return number

    for number in range(5):
        worker.submit(lambda number=number: job(number), done)
    await reported.wait()
    assert outcomes == [0, 1, 2, 3, 4]
    assert len({*threads}) == 1
    assert threads[0] != home
    await worker.close()


async def test_what_a_job_raises_reaches_who_asked() -> None:
    worker = system_runtime().workers.worker("test")

    def fail() -> None:
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        await worker.run(fail)
    await worker.close()


async def test_cancelling_who_waits_for_a_job_does_not_cancel_the_job() -> None:
    worker = system_runtime().workers.worker("test")
    go, done = threading.Event(), threading.Event()

    def job() -> None:
        go.wait()
        done.set()

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run, job)
            await anyio.lowlevel.checkpoint()
            scope.cancel()
    go.set()
    await worker.close()
    assert done.is_set()


async def test_a_closed_worker_takes_no_job_and_leaves_no_thread() -> None:
    worker = system_runtime().workers.worker("test-close")
    await worker.close()
    await worker.close()
    with pytest.raises(ClosedError):
        worker.submit(lambda: None, lambda _: None)
    assert "raftkv-test-close" not in {thread.name for thread in threading.enumerate()}


async def test_a_worker_outlives_a_loop_that_is_gone() -> None:
    left: list[object] = []

    def host() -> None:
        async def main() -> None:
            left.append(system_runtime().workers.worker("orphan"))

        anyio.run(main)

    thread = threading.Thread(target=host)
    thread.start()
    thread.join()
    (worker,) = left
    # Nobody is left to be told; the thread ends instead of waiting for ever.
    worker.submit(lambda: None, lambda _: None)  # type: ignore[attr-defined]
    for found in threading.enumerate():
        if found.name == "raftkv-orphan":
            found.join(timeout=10)
            assert not found.is_alive()


async def test_the_environment_tells_processes_threads_and_loops_apart() -> None:
    environment = system_runtime().environment
    assert environment.pid() == os.getpid()
    assert environment.thread_id() == threading.get_ident()
    here = environment.loop()
    assert here is not None
    assert environment.loop() is here
    elsewhere: list[object] = []
    thread = threading.Thread(target=lambda: elsewhere.append(environment.loop()))
    thread.start()
    thread.join()
    assert elsewhere == [None]


async def test_a_host_thread_runs_calls_on_a_loop_of_its_own() -> None:
    environment = system_runtime().environment
    here = environment.loop()

    async def there() -> object:
        await anyio.lowlevel.checkpoint()
        return environment.loop()

    async def fail() -> None:
        raise KeyError("over there")

    with pytest.raises(RuntimeError, match="not started"):
        _ = HostThread("test").portal
    with HostThread("test") as thread:
        found = await thread.run(there)
        assert found is not None
        assert found is not here
        with pytest.raises(KeyError, match="over there"):
            await thread.run(fail)
        with anyio.move_on_after(0.01) as scope:
            await thread.run(anyio.sleep_forever)
        assert scope.cancelled_caught
    with pytest.raises(ClosedError, match="test is closed"):
        await thread.run(there)
