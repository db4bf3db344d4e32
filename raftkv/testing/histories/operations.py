"""A history: what clients asked for, what they were answered, and in which order of time.

An operation is one call of one client. Between ``call_at`` and ``return_at`` it took effect, at one
moment: that is what *linearizable* means, and what the checkers of this package decide. A client
runs one operation at a time, or several; nothing depends on it.

:class:`History` records operations as they happen. By itself it numbers calls and answers in their
order, which is the finest time there is inside one process and reads no clock. Clients in several
processes need a clock that all of them share: ``History(now=time.monotonic_ns)``.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Generic, Self, TypeVar, cast

from attrs import evolve, frozen

from raftkv.errors import Error, InvalidArgumentError, UsageError
from raftkv.testing.histories.plain import from_plain, to_plain

Q = TypeVar("Q")
"""What clients ask for."""
A = TypeVar("A")
"""What they are answered."""


class Outcome(Enum):
    """How an operation ended for its client."""

    OK = "ok"
    FAILED = "failed"
    """Surely not done, says the error."""
    UNKNOWN = "unknown"
    """Perhaps done, now or later: the error says so, or nobody is left to say."""


@frozen(slots=True)
class Operation(Generic[Q, A]):
    """One call of one client; times are whole numbers of any one clock, equal ones concurrent."""

    client: str
    call_at: int
    return_at: int | None
    """None if the client never heard anything; of no meaning if the outcome is unknown."""
    request: Q
    response: A | None
    """What it was answered, if the outcome is OK (None may be an answer, too)."""
    outcome: Outcome = Outcome.OK

    def __str__(self) -> str:
        until = "" if self.return_at is None else self.return_at
        shown = f"{self.client} [{self.call_at}..{until}] {self.request}"
        return f"{shown} -> {self.response if self.outcome is Outcome.OK else self.outcome.value}"


class History(Generic[Q, A]):
    """Operations in the order of their calls; a recorder, and a list to read."""

    __slots__ = ("_count", "_now", "_operations")

    def __init__(
        self, operations: Iterable[Operation[Q, A]] = (), *, now: Callable[[], int] | None = None
    ) -> None:
        self._operations = list(operations)
        latest = max((max(one.call_at, one.return_at or 0) for one in self._operations), default=0)
        self._count = latest
        self._now = now

    def __len__(self) -> int:
        return len(self._operations)

    def __iter__(self) -> Iterator[Operation[Q, A]]:
        return iter(self._operations)

    @property
    def operations(self) -> Sequence[Operation[Q, A]]:
        """All of them; who has not returned yet counts as unknown."""
        return self._operations

    def call(self, client: str, request: Q) -> int:
        """A client asks for something, now. Returns the number to end it with."""
        one = Operation[Q, A](client, self._moment(), None, request, None, Outcome.UNKNOWN)
        self._operations.append(one)
        return len(self._operations) - 1

    def done(self, number: int, response: A) -> None:
        """The operation of that number was answered, now."""
        self._end(number, Outcome.OK, response)

    def raised(self, number: int, error: BaseException) -> None:
        """It ended in an error, now; the error says whether it may have happened.

        Errors of raftkv say so in ``may_have_happened``; after any other, a cancellation for one,
        nobody knows.
        """
        surely_not = isinstance(error, Error) and not error.may_have_happened
        self._end(number, Outcome.FAILED if surely_not else Outcome.UNKNOWN, None)

    async def record(self, client: str, request: Q, work: Awaitable[A]) -> A:
        """Await ``work`` and note how it ended; its errors are noted and raised again."""
        number = self.call(client, request)
        try:
            response = await work
        except BaseException as error:
            self.raised(number, error)
            raise
        self.done(number, response)
        return response

    def save(self, path: Path) -> None:
        """Write it as JSON, one line for each operation.

        Requests and responses are JSON values, bytes, tuples, and classes made of them by attrs or
        dataclasses. Raises InvalidArgumentError for anything else.
        """
        with path.open("w", encoding="utf-8") as file:
            for one in self._operations:
                words = [one.client, one.call_at, one.return_at, one.outcome.value]
                line = [*words, to_plain(one.request), to_plain(one.response)]
                file.write(json.dumps(line, ensure_ascii=True) + "\n")

    @classmethod
    def load(cls, path: Path, types: Iterable[type] = ()) -> Self:
        """Read what :meth:`save` wrote; ``types`` are the classes of requests and responses.

        A last line that a crash cut short is left out. Raises InvalidArgumentError for a file that
        is no history, or of classes that are not among ``types``.
        """
        known = {one.__name__: one for one in types}
        met: list[Operation[Q, A]] = []
        lines = path.read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines[:-1], 1):
            try:
                client, call_at, return_at, outcome, request, response = json.loads(line)
                one = Operation(
                    str(client),
                    int(call_at),
                    None if return_at is None else int(return_at),
                    cast("Q", from_plain(request, known)),
                    cast("A | None", from_plain(response, known)),
                    Outcome(outcome),
                )
            except (ValueError, TypeError, KeyError) as error:
                raise InvalidArgumentError(
                    f"line {number} of {path} is no operation ({error}); was it written by"
                    " History.save, and does types= name its classes?"
                ) from error
            met.append(one)
        return cls(met)

    def _moment(self) -> int:
        self._count += 1
        return self._count if self._now is None else self._now()

    def _end(self, number: int, outcome: Outcome, response: A | None) -> None:
        one = self._operations[number]
        if one.return_at is not None:
            raise UsageError(f"operation {number} ended already: {one}")
        self._operations[number] = evolve(
            one, return_at=self._moment(), outcome=outcome, response=response
        )
