"""Virtual time: what the loop does with time, order, owners and endings."""

from __future__ import annotations

import asyncio  # noqa: TID251 - the virtual loop is asyncio's
import logging
import threading
from collections.abc import AsyncGenerator
from contextvars import copy_context

import anyio
import pytest
from anyio.lowlevel import checkpoint

from raftkv.errors import UsageError
from raftkv.testing import Choices, ReplayedChoices, SeededChoices
from raftkv.testing.nodes.cancelled import CancelledAt
from raftkv.testing.nodes.loop import (
    OWNER,
    DeadlockError,
    LeftoverError,
    LivelockError,
    Owner,
    TimeLimitError,
    VirtualLoop,
    run_virtual,
    virtual_loop,
)

HOUR = 3600.0


def test_hours_pass_at_once() -> None:
    async def main() -> float:
        with anyio.move_on_after(1000 * HOUR):
            await anyio.sleep(999 * HOUR)
            await anyio.sleep(2 * HOUR)
        return anyio.current_time()

    assert run_virtual(main) == pytest.approx(1000 * HOUR)


def test_timers_come_in_the_order_of_their_times_and_then_of_their_setting() -> None:
    seen: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for name, delay in (("c", 2.0), ("a", 1.0), ("d", 2.0), ("b", 1.0)):
            loop.call_later(delay, seen.append, name)
        gone = loop.call_later(1.0, seen.append, "cancelled")
        gone.cancel()
        await anyio.sleep(3)

    run_virtual(main)
    assert seen == ["a", "b", "c", "d"]


def test_many_cancelled_timers_are_forgotten() -> None:
    async def main() -> int:
        loop = virtual_loop()
        for _ in range(5_000):
            loop.call_later(HOUR, print).cancel()
        return len(loop._timers)  # pyright: ignore[reportPrivateUsage] - memory is the claim

    assert run_virtual(main) < 1_000


def test_who_spins_until_a_deadline_gets_there() -> None:
    async def main() -> int:
        spins = 0
        until = anyio.current_time() + 0.001
        while anyio.current_time() < until:
            await checkpoint()
            spins += 1
        return spins

    assert 100 < run_virtual(main) <= 1_000


def test_a_deadlock_names_who_waits_and_where() -> None:
    async def waits_for_ever() -> None:
        await anyio.Event().wait()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waits_for_ever, name="the sleeper")

    with pytest.raises(DeadlockError, match=r"the sleeper in .*waits_for_ever") as caught:
        run_virtual(main)
    assert ["test_loop.py" in one for one in caught.value.waiting] == [True, True]


def test_who_sleeps_for_ever_is_in_a_deadlock_too() -> None:
    with pytest.raises(DeadlockError, match="run_virtual"):
        run_virtual(anyio.sleep_forever)


def test_a_livelock_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftkv.testing.nodes.loop._TURNS_MAX", 1_000)

    async def main() -> None:
        while True:
            await checkpoint()

    with pytest.raises(LivelockError):
        run_virtual(main)


def test_who_is_not_done_in_time_is_told_who_waits() -> None:
    async def main() -> None:
        virtual_loop().limit_ns = 60_000_000_000
        for _ in range(61):
            await anyio.sleep(1)

    with pytest.raises(TimeLimitError, match=r"60 virtual seconds .*\n  .*main \(test_loop.py"):
        run_virtual(main)


def test_a_task_that_is_left_is_an_error() -> None:
    async def main() -> None:
        asyncio.get_running_loop().create_task(anyio.sleep(HOUR), name="forgotten")

    with pytest.raises(LeftoverError, match="forgotten"):
        run_virtual(main)


def test_a_failure_that_nobody_hears_is_an_error() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        await anyio.sleep(1)

    with pytest.raises(LeftoverError, match="ZeroDivisionError"):
        run_virtual(main)


def test_a_thread_that_is_left_is_an_error() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait, name="stray")

    async def main() -> None:
        thread.start()

    try:
        with pytest.raises(LeftoverError, match="stray"):
            run_virtual(main)
    finally:
        over.set()
        thread.join()


def test_work_for_a_thread_is_refused() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(None, print)

    with pytest.raises(UsageError, match="no threads"):
        run_virtual(main)


def test_another_loop_is_no_virtual_one() -> None:
    async def main() -> None:
        virtual_loop()

    with pytest.raises(UsageError, match="run_virtual"):
        anyio.run(main, backend="asyncio")


# --- order ------------------------------------------------------------------------------------


def _order(choices: Choices, shuffle_permille: int) -> list[int]:
    seen: list[int] = []

    async def step(number: int) -> None:
        for _ in range(3):
            await checkpoint()
            seen.append(number)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(step, number)

    run_virtual(main, choices, shuffle_permille=shuffle_permille)
    return seen


def test_without_decisions_what_is_ready_runs_in_order() -> None:
    assert _order(ReplayedChoices(()), 1000) == [*range(6)] * 3


def test_seeds_shuffle_what_is_ready_and_repeat() -> None:
    orders = [_order(SeededChoices(seed), 500) for seed in range(20)]
    assert orders == [_order(SeededChoices(seed), 500) for seed in range(20)]
    assert len({tuple(order) for order in orders}) > 15
    assert all(sorted(order) == sorted([*range(6)] * 3) for order in orders)


def test_a_record_of_a_shuffle_gives_it_again() -> None:
    choices = SeededChoices(7)
    order = _order(choices, 1000)
    assert _order(ReplayedChoices(choices.decisions()), 1000) == order


# --- owners -----------------------------------------------------------------------------------


class _Ticking:
    """A task of an owner that ticks every virtual second."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.ticks: list[float] = []
        self.ended: list[str] = []
        self.owner = Owner("it")
        loop.own(self.owner)
        context = copy_context()
        context.run(OWNER.set, self.owner)
        loop.create_task(self._tick(loop), name="ticking", context=context)

    async def _tick(self, loop: VirtualLoop) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._inner)
                while True:
                    await anyio.sleep(1)
                    self.ticks.append(round(loop.time(), 2))
        finally:
            self.ended.append("outer")
            loop.call_soon(self.ended.append, "after the end")

    async def _inner(self) -> None:
        try:
            await anyio.sleep(HOUR)
        finally:
            self.ended.append("inner")
            await anyio.sleep(1)


def test_a_paused_owner_stands_still_and_catches_up() -> None:
    async def main() -> _Ticking:
        loop = virtual_loop()
        it = _Ticking(loop)
        await anyio.sleep(2.5)
        loop.pause(it.owner)
        await anyio.sleep(10)
        assert it.ticks == [1.0, 2.0]
        loop.resume(it.owner)
        await anyio.sleep(2)
        loop.kill(it.owner)
        return it

    it = run_virtual(main)
    assert it.ticks == [1.0, 2.0, 12.5, 13.5]


def test_nothing_of_a_killed_owner_runs_any_more(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def main() -> _Ticking:
        loop = virtual_loop()
        it = _Ticking(loop)
        await anyio.sleep(2.5)
        loop.kill(it.owner)
        await anyio.sleep(HOUR * 2)
        assert it.ticks == [1.0, 2.0]
        assert not it.ended
        return it

    it = run_virtual(main)
    assert "after the end" not in it.ended
    assert not caplog.records


def test_what_became_ready_just_before_the_end_does_not_run() -> None:
    seen: list[str] = []

    async def main() -> None:
        loop = virtual_loop()
        it = _Ticking(loop)
        context = copy_context()
        context.run(OWNER.set, it.owner)
        loop.call_soon(loop.kill, it.owner)
        loop.call_soon(seen.append, "too late", context=context)
        await anyio.sleep(1)

    run_virtual(main)
    assert not seen


def test_a_paused_owner_goes_on_in_the_order_in_which_things_became_ready() -> None:
    seen: list[int] = []

    async def main() -> None:
        loop = virtual_loop()
        it = _Ticking(loop)
        context = copy_context()
        context.run(OWNER.set, it.owner)
        loop.pause(it.owner)
        for number in range(5):
            loop.call_soon(seen.append, number, context=context)
        await anyio.sleep(1)
        assert not seen
        loop.resume(it.owner)
        await anyio.sleep(0.5)
        loop.kill(it.owner)

    run_virtual(main)
    assert seen == [*range(5)]


def test_a_killed_owner_that_was_paused_stays_dead() -> None:
    async def main() -> _Ticking:
        loop = virtual_loop()
        it = _Ticking(loop)
        await anyio.sleep(0.5)
        loop.pause(it.owner)
        await anyio.sleep(5)
        loop.kill(it.owner)
        loop.resume(it.owner)
        await anyio.sleep(5)
        return it

    assert not run_virtual(main).ticks


def test_timers_of_the_dead_do_not_hide_a_deadlock() -> None:
    async def main() -> None:
        loop = virtual_loop()
        it = _Ticking(loop)
        await anyio.sleep(0.5)
        loop.kill(it.owner)
        loop.limit_ns = 600_000_000  # time does not pass for them either
        await anyio.Event().wait()

    with pytest.raises(DeadlockError):
        run_virtual(main)


def test_an_owner_that_lives_on_is_left_over() -> None:
    async def main() -> None:
        _Ticking(virtual_loop())
        await anyio.sleep(1)

    with pytest.raises(LeftoverError, match="it: ticking"):
        run_virtual(main)


async def _numbers(seen: list[str]) -> AsyncGenerator[int]:
    try:
        yield 1
        yield 2
    finally:
        await anyio.sleep(1)
        seen.append("closed")


async def _first(seen: list[str]) -> None:
    async for _ in _numbers(seen):
        break
    await anyio.sleep(2)


def test_a_generator_that_is_left_half_way_is_closed_by_whose_it_is() -> None:
    seen: list[str] = []
    ours: list[str] = []

    async def main() -> None:
        loop = virtual_loop()
        owner = Owner("it")
        loop.own(owner)
        context = copy_context()
        context.run(OWNER.set, owner)
        loop.create_task(_first(seen), name="one", context=context)
        await _first(ours)
        await anyio.sleep(3)
        assert seen == ours == ["closed"]
        loop.create_task(_first(seen), name="two", context=context)
        await anyio.sleep(0.5)
        loop.kill(owner)
        await anyio.sleep(3)
        assert seen == ["closed"]

    run_virtual(main)


# --- cancellation -----------------------------------------------------------------------------


async def _five_awaits(log: list[int]) -> str:
    for number in range(4):
        await anyio.sleep(1)
        log.append(number)
    with anyio.CancelScope(shield=True):
        await anyio.sleep(1)
        log.append(4)
    return "done"


@pytest.mark.parametrize("edge", [False, True], ids=["scope", "task"])
def test_each_await_in_turn_is_cancelled(edge: bool) -> None:
    async def main() -> list[tuple[bool, int, str | None]]:
        found: list[tuple[bool, int, str | None]] = []
        for number in range(7):
            log: list[int] = []
            attempt = CancelledAt(lambda log=log: _five_awaits(log), number, edge=edge)
            await attempt
            found.append((attempt.was_cancelled, len(log), attempt.result))
            await anyio.sleep(1)
        return found

    shielded = (True, 4, None) if edge else (False, 5, "done")
    assert run_virtual(main) == [
        (False, 5, "done"),
        (True, 0, None),
        (True, 1, None),
        (True, 2, None),
        (True, 3, None),
        shielded,
        (False, 5, "done"),
    ]


def test_a_cancellation_from_elsewhere_is_not_swallowed() -> None:
    async def main() -> bool:
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_later(1.5, scope.cancel)
            await CancelledAt(lambda: _five_awaits([]), 0, edge=True)
        return scope.cancelled_caught

    assert run_virtual(main)


def test_a_cancellation_that_comes_too_late_hits_nobody_else() -> None:
    async def main() -> None:
        attempt = CancelledAt(checkpoint, 1, edge=True)
        await attempt
        await anyio.sleep(1)

    for seed in range(20):
        run_virtual(main, SeededChoices(seed), shuffle_permille=1000)
