"""Callers who wait: for their command to be applied here, or for a read to become linearizable.

A waiter is one small object and one promise; there is no task, timer or stream per request.
Deadlines are swept by ticks. A caller who is cancelled abandons its wait, never its proposal.

Until its command is handed to raft a waiter stands in the *queue*, and an error says that nothing
happened. From then on it is *in flight* under its sequence, until its command is applied on this
member. A leader change alters nothing: the command may be committed by the next leader, and is
never sent again, so the waiter stays until its deadline and then hears that the outcome is unknown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Final

from raftkv.errors import (
    DeadlineError,
    Error,
    InvalidArgumentError,
    NodeStoppedError,
    OutcomeUnknownError,
    RemovedError,
)
from raftkv.runtime.base import Promise

_BOOT_SHIFT: Final = 40


def checked_timeout(timeout: float) -> float:
    """The timeout of a call, if it is one. Raises InvalidArgumentError."""
    # Exact types: True is an int, and no time. The comparison refuses NaN as well.
    if type(timeout) not in (float, int) or not timeout >= 0:
        raise InvalidArgumentError(
            f"timeout must be a number of seconds, 0 or more, not {timeout!r}"
        )
    return timeout


class Waiter:
    """One caller: what it wants, by when, and whom to wake."""

    __slots__ = ("data", "deadline_ns", "promise")

    def __init__(self, data: bytes, deadline_ns: int, promise: Promise[object]) -> None:
        self.data = data
        self.deadline_ns = deadline_ns
        self.promise = promise

    def fail(self, error: BaseException) -> None:
        """Wake the caller with an error, unless it is gone."""
        if not self.promise.done():
            self.promise.set_exception(error)


class Queue:
    """Commands that have not left yet. Bounded by its owner."""

    def __init__(self) -> None:
        self._waiting: deque[Waiter] = deque()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiter: Waiter) -> None:
        """To the end."""
        self._waiting.append(waiter)
        self.size_bytes += len(waiter.data)

    def put_back(self, waiters: Sequence[Waiter]) -> None:
        """To the front, in order: they could not leave after all."""
        self._waiting.extendleft(reversed(waiters))
        self.size_bytes += sum(len(waiter.data) for waiter in waiters)

    def take(self, commands_max: int, bytes_max: int) -> list[Waiter]:
        """The next waiters to share an entry, at least one; who is gone is dropped."""
        waiting = self._waiting
        taken: list[Waiter] = []
        size = 0
        while waiting and len(taken) < commands_max:
            length = len(waiting[0].data)
            if taken and size + length > bytes_max:
                break
            waiter = waiting.popleft()
            self.size_bytes -= length
            if not waiter.promise.done():
                taken.append(waiter)
                size += length
        return taken

    def sweep(self, now_ns: int, reason: str) -> None:
        """Tell those whose deadline has passed that nothing happened."""
        if not any(waiter.deadline_ns <= now_ns for waiter in self._waiting):
            return
        kept: deque[Waiter] = deque()
        for waiter in self._waiting:
            if waiter.deadline_ns > now_ns:
                kept.append(waiter)
                continue
            self.size_bytes -= len(waiter.data)
            waiter.fail(DeadlineError(f"the deadline passed and nothing was proposed: {reason}"))
        self._waiting = kept

    def fail_all(self, error: Error) -> None:
        """Nothing will leave any more."""
        for waiter in self._waiting:
            waiter.fail(error)
        self._waiting.clear()
        self.size_bytes = 0


class InFlight:
    """Commands handed to raft, by sequence."""

    def __init__(self, member: int, boot: int) -> None:
        self.member = member
        self.boot = boot
        self._waiters: dict[int, Waiter] = {}
        # Numbers never come again in a later boot either: what a leader answers late to a proposal
        # of an earlier one must not be taken for an answer to one of ours.
        self._next = (boot << _BOOT_SHIFT) + 1
        self.size_bytes = 0
        # (earliest deadline, first sequence, count) of each group: swept without one timer each.
        self._deadlines: list[tuple[int, int, int]] = []
        # First sequence of each proposal that nothing is known of yet -> its number of commands.
        self._groups: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    @property
    def next_sequence(self) -> int:
        """The number of the next command."""
        return self._next

    def add(self, waiters: Sequence[Waiter]) -> int:
        """Number the commands of one entry, consecutively; the first number."""
        first, count = self._next, len(waiters)
        self._next += count
        self._waiters.update(zip(range(first, first + count), waiters, strict=True))
        self.size_bytes += sum(len(waiter.data) for waiter in waiters)
        earliest = min(waiter.deadline_ns for waiter in waiters)
        heappush(self._deadlines, (earliest, first, count))
        return first

    def reserve(self) -> int:
        """A number for a request of another kind, which no command will have."""
        self._next += 1
        return self._next - 1

    def group(self, first: int, count: int) -> None:
        """Sequences from ``first`` on are one proposal, refused or taken as a whole."""
        self._groups[first] = count

    def take_back(self, first: int) -> list[Waiter]:
        """Those still waiting of a proposal that was refused; their numbers are not used again."""
        count = self._groups.pop(first, 0)
        found = (self._waiters.pop(number, None) for number in range(first, first + count))
        waiters = [waiter for waiter in found if waiter is not None]
        self.size_bytes -= sum(len(waiter.data) for waiter in waiters)
        return waiters

    def resolve(self, first: int, results: Iterable[object]) -> None:
        """The commands from ``first`` on were applied here, with these results."""
        self._groups.pop(first, None)
        pop = self._waiters.pop
        for sequence, result in enumerate(results, first):
            waiter = pop(sequence, None)
            if waiter is None:
                continue  # its deadline passed
            self.size_bytes -= len(waiter.data)
            promise = waiter.promise
            if not promise.done():
                promise.set_result(result)

    def sweep(self, now_ns: int) -> None:
        """Tell those whose deadline has passed that their command may or may not happen."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now_ns:
            _, first, count = heappop(deadlines)
            later: list[int] = []
            for sequence in range(first, first + count):
                waiter = self._waiters.get(sequence)
                if waiter is None:
                    continue
                if waiter.deadline_ns > now_ns:
                    later.append(waiter.deadline_ns)
                    continue
                del self._waiters[sequence]
                self.size_bytes -= len(waiter.data)
                waiter.fail(self._unknown(sequence, "the deadline passed"))
            if later:
                heappush(deadlines, (min(later), first, count))
            else:
                self._groups.pop(first, None)

    def fail_all(self, reason: str, cause: BaseException | None) -> None:
        """The node ends: nobody here will see what becomes of these commands."""
        for sequence, waiter in self._waiters.items():
            error = self._unknown(sequence, reason)
            error.__cause__ = cause
            waiter.fail(error)
        self._waiters.clear()
        self._deadlines.clear()
        self._groups.clear()
        self.size_bytes = 0

    def _unknown(self, sequence: int, what: str) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"{what} before command {sequence} was applied here: it may or may not happen;"
            " read before trying again",
            (self.member, self.boot, sequence),
        )


class Reads:
    """Reads on their way: all that begin in one turn share one question to the leader.

    A question that is lost or dropped is asked anew, which for a read is always safe.
    """

    def __init__(self, boot_token: bytes) -> None:
        # Contexts differ between all starts of all members, those of an old copy of a directory
        # too: a late answer never meets another question.
        self._prefix = boot_token
        self._asked_count = 0
        self._new: dict[bool, list[Waiter]] = {False: [], True: []}
        self._asked: dict[bytes, tuple[int, bool, list[Waiter]]] = {}
        self._confirmed: deque[tuple[int, list[Waiter]]] = deque()
        self.count = 0

    @property
    def has_new(self) -> bool:
        """Whether there is a question to ask."""
        return bool(self._new[False] or self._new[True])

    def add(self, waiter: Waiter, *, lease: bool) -> None:
        """A read begins."""
        self._new[lease].append(waiter)
        self.count += 1

    def ask(self, *, lease: bool, now_ns: int) -> bytes | None:
        """The context of the question for every new read of the kind; None if there is none."""
        waiters = [waiter for waiter in self._new[lease] if not waiter.promise.done()]
        self.count -= len(self._new[lease]) - len(waiters)
        self._new[lease] = []
        if not waiters:
            return None
        self._asked_count += 1
        context = self._prefix + self._asked_count.to_bytes(8, "little")
        self._asked[context] = (now_ns, lease, waiters)
        return context

    def confirm(self, context: bytes, index: int) -> None:
        """The reads behind the context are linearizable once ``index`` is applied."""
        asked = self._asked.pop(context, None)
        if asked is not None:
            self._confirmed.append((index, asked[2]))

    def drop(self, context: bytes) -> None:
        """The question will not be answered: it is asked anew with the next ones."""
        asked = self._asked.pop(context, None)
        if asked is not None:
            self._new[asked[1]].extend(asked[2])

    def resolve(self, applied: int) -> None:
        """Wake every read whose index is applied."""
        confirmed = self._confirmed
        # Answers of different leaders need not come in order of index: look at all of them.
        for _ in range(len(confirmed)):
            index, waiters = confirmed.popleft()
            if index > applied:
                confirmed.append((index, waiters))
                continue
            self.count -= len(waiters)
            for waiter in waiters:
                if not waiter.promise.done():
                    waiter.promise.set_result(index)

    def sweep(self, now_ns: int, again_ns: int, reason: str) -> None:
        """End reads whose deadline has passed; ask again what was asked before ``again_ns``."""
        for context in [key for key, (asked, _, _) in self._asked.items() if asked <= again_ns]:
            self.drop(context)
        places = [self._new[False], self._new[True]]
        places += [waiters for _, _, waiters in self._asked.values()]
        places += [waiters for _, waiters in self._confirmed]
        for waiters in places:
            late = [waiter for waiter in waiters if waiter.deadline_ns <= now_ns]
            if not late:
                continue
            waiters[:] = [waiter for waiter in waiters if waiter.deadline_ns > now_ns]
            self.count -= len(late)
            for waiter in late:
                waiter.fail(
                    DeadlineError(f"the deadline passed before the read could be: {reason}")
                )

    def fail_all(self, error: Error) -> None:
        """No read will be answered any more."""
        for waiters in (
            *self._new.values(),
            *(waiters for _, _, waiters in self._asked.values()),
            *(waiters for _, waiters in self._confirmed),
        ):
            for waiter in waiters:
                waiter.fail(error)
        self._new = {False: [], True: []}
        self._asked.clear()
        self._confirmed.clear()
        self.count = 0


def stopped(cause: BaseException | None, what: str) -> NodeStoppedError:
    """What callers hear of a node that ended."""
    error = RemovedError(what) if isinstance(cause, RemovedError) else NodeStoppedError(what)
    error.__cause__ = cause
    return error


__all__ = ["InFlight", "Queue", "Reads", "Waiter", "stopped"]
