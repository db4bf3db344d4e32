"""A history: what clients asked for, what they were answered, and in which order of time.

An operation is one call of one client. Between ``call_at`` and ``return_at`` it took effect, at one
moment: that is what *linearizable* means, and what the checkers of this package decide. A client
runs one operation at a time, or several; nothing depends on it.

:class:`History` records operations as they happen. By itself it numbers calls and answers in their
order, which is the finest time there is inside one process and reads no clock. Clients in several
processes need a clock that all of them share: ``History(now=time.monotonic_ns)``.

In a file a history has two lines of JSON for each operation: ``[number, client, time, request]``
as it is called and ``[number, outcome, time, response]`` once it has ended. So one can be written
while it happens, by a process that is killed; what was never answered then counts as unknown.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Final, Generic, Self, TypeVar, cast

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


_PENDING: Final = Outcome.UNKNOWN
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    RecursionError,
)


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

    __slots__ = ("_count", "_note", "_now", "_operations")

    def __init__(
        self,
        operations: Iterable[Operation[Q, A]] = (),
        *,
        now: Callable[[], int] | None = None,
        note: Callable[[bytes], object] | None = None,
    ) -> None:
        """``note`` is given each line of its file as it is recorded."""
        self._operations = list(operations)
        self._note = note
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
        one = Operation[Q, A](client, self._moment(), None, request, None, _PENDING)
        self._operations.append(one)
        number = len(self._operations) - 1
        if self._note is not None:
            self._note(_call_line(number, one))
        return number

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
        """Write it as lines of JSON.

        Requests and responses are JSON values, bytes, tuples, and classes made of them by attrs or
        dataclasses. Raises InvalidArgumentError for anything else.
        """
        with path.open("wb") as file:
            for number, one in enumerate(self._operations):
                file.write(_call_line(number, one))
                if one.return_at is not None or one.outcome is not Outcome.UNKNOWN:
                    file.write(_end_line(number, one))

    @classmethod
    def load(cls, path: Path, types: Iterable[type] = ()) -> Self:
        """Read what :meth:`save` wrote; ``types`` are the classes of requests and responses.

        A last line that a crash cut short is left out. Raises InvalidArgumentError for a file that
        is no history, or of classes that are not among ``types``.
        """
        known = {one.__name__: one for one in types}
        met: dict[object, Operation[Q, A]] = {}
        lines = path.read_bytes().split(b"\n")
        for place, line in enumerate(lines[:-1], 1):
            try:
                number, who, time, said = json.loads(line)
                if number not in met:
                    request = cast("Q", from_plain(said, known))
                    called_at = int(cast("int", time))
                    one = Operation[Q, A](str(who), called_at, None, request, None, _PENDING)
                else:
                    response = cast("A | None", from_plain(said, known))
                    one = evolve(
                        met[number], return_at=time, response=response, outcome=Outcome(who)
                    )
            except _UNREADABLE as error:
                raise InvalidArgumentError(
                    f"line {place} of {path} is of no history ({error}); was it written by History,"
                    " and does types= name its classes?"
                ) from error
            met[number] = one
        return cls(met.values())

    def _moment(self) -> int:
        self._count += 1
        return self._count if self._now is None else self._now()

    def _end(self, number: int, outcome: Outcome, response: A | None) -> None:
        one = self._operations[number]
        if one.return_at is not None:
            raise UsageError(f"operation {number} ended already: {one}")
        ended = evolve(one, return_at=self._moment(), outcome=outcome, response=response)
        self._operations[number] = ended
        if self._note is not None:
            self._note(_end_line(number, ended))


def _call_line(number: int, one: Operation[Q, A]) -> bytes:
    return _line([number, one.client, one.call_at, to_plain(one.request)])


def _end_line(number: int, one: Operation[Q, A]) -> bytes:
    return _line([number, one.outcome.value, one.return_at, to_plain(one.response)])


def _line(words: list[object]) -> bytes:
    return json.dumps(words, ensure_ascii=True).encode() + b"\n"
