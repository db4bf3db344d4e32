"""Sequential specifications: what one machine, asked one thing at a time, would answer.

A :class:`Model` is all that the search needs to judge a history. Here are some that any history can
be recorded for: registers, lists, any pure function, and any state machine of a user.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeAlias, TypeVar

from attrs import frozen

from raftkv.machine import Command, StateMachine
from raftkv.testing.histories.operations import A, Q

S = TypeVar("S", bound=Hashable)
"""A state: a value that never changes."""
M = TypeVar("M", bound=StateMachine[object])
Value: TypeAlias = bool | int | str | bytes | None


class Model(ABC, Generic[S, Q, A]):
    """A machine as a function: state and request give the next state and the answer."""

    @abstractmethod
    def initial(self) -> S:
        """The state before anything was asked."""

    @abstractmethod
    def step(self, state: S, request: Q) -> tuple[S, A]:
        """What ``request`` makes of ``state``, and its answer. Changes nothing by itself."""

    def same(self, expected: A, response: A | None) -> bool:
        """Whether a client that was answered ``response`` may have seen ``expected``."""
        return expected == response

    def is_judged(self, request: Q) -> bool:
        """Whether its answer must be linearizable at all; what need not be is left out."""
        return True

    def parts(self, requests: Sequence[Q]) -> Sequence[Hashable]:
        """For each request the part of the state that it touches, if parts are independent.

        A history is linearizable if that of each part is, and many short searches are far cheaper
        than a long one. By itself all is one part.
        """
        return [None] * len(requests)


class PureModel(Model[S, Q, A]):
    """A model from a first state and a pure function ``step(state, request)``.

    ``part`` names the part of the state that a request touches, if parts are independent.
    """

    def __init__(
        self,
        initial: S,
        step: Callable[[S, Q], tuple[S, A]],
        *,
        part: Callable[[Q], Hashable] = lambda _: None,
    ) -> None:
        self._initial = initial
        self._step = step
        self._part = part

    def initial(self) -> S:
        """The first state."""
        return self._initial

    def step(self, state: S, request: Q) -> tuple[S, A]:
        """What the function says."""
        return self._step(state, request)

    def parts(self, requests: Sequence[Q]) -> Sequence[Hashable]:
        """The part of each."""
        return [self._part(request) for request in requests]


class MachineModel(Model[tuple[bytes, ...], Q, A], Generic[Q, A, M]):
    """A user's own in-memory state machine as the model, asked on copies of it.

    ``machine`` makes a fresh one; ``ask(machine, request)`` applies a command to it or looks at
    it, and returns what a client would be answered. Copies are made with the machine's ``snapshot``
    and ``restore``, chunk by chunk: that is its state, and equal states should give equal
    snapshots.
    """

    def __init__(
        self,
        machine: Callable[[], M],
        ask: Callable[[M, Q], A],
        *,
        part: Callable[[Q], Hashable] = lambda _: None,
    ) -> None:
        self._make = machine
        self._ask = ask
        self._part = part

    def initial(self) -> tuple[bytes, ...]:
        """The snapshot of a fresh machine."""
        return tuple(self._make().snapshot())

    def step(self, state: tuple[bytes, ...], request: Q) -> tuple[tuple[bytes, ...], A]:
        """Ask a copy, and take its snapshot."""
        machine = self._make()
        machine.restore(state)
        answer = self._ask(machine, request)
        return tuple(machine.snapshot()), answer

    def parts(self, requests: Sequence[Q]) -> Sequence[Hashable]:
        """The part of each."""
        return [self._part(request) for request in requests]


def command_model(
    machine: Callable[[], StateMachine[A]],
) -> MachineModel[bytes, A, StateMachine[A]]:
    """The model of a machine whose requests are the bytes of its commands.

    Every command has index 1 here; a machine that looks at the index, or is read by other means
    than commands, needs a :class:`MachineModel` that says how.
    """

    def ask(one: StateMachine[A], data: bytes) -> A:
        return one.apply([Command(1, data)])[0]

    return MachineModel(machine, ask)


# --- what most textbooks speak of ---------------------------------------------------------------


@frozen(slots=True)
class Read:
    """Show what is under ``key``."""

    key: str = ""


@frozen(slots=True)
class Write:
    """Put ``value`` under ``key``; answered with None."""

    value: Value
    key: str = ""


@frozen(slots=True)
class Swap:
    """Put ``value`` under ``key`` if ``old`` is there; answered with whether it was."""

    old: Value
    value: Value
    key: str = ""


@frozen(slots=True)
class Append:
    """Put ``element`` at the end of the list under ``key``; answered with None."""

    element: Value
    key: str = ""


class RegisterModel(Model[Value, Read | Write | Swap, Value]):
    """Registers, each empty (None) at first."""

    def initial(self) -> Value:
        """Nothing."""
        return None

    def step(self, state: Value, request: Read | Write | Swap) -> tuple[Value, Value]:
        """What one register does."""
        match request:
            case Read():
                return state, state
            case Write(value):
                return value, None
            case Swap(old, value):
                return (value, True) if state == old else (state, False)

    def parts(self, requests: Sequence[Read | Write | Swap]) -> Sequence[Hashable]:
        """Each register by itself."""
        return [request.key for request in requests]


Elements: TypeAlias = tuple[Value, ...]


class ListModel(Model[Elements, Read | Append, Elements | None]):
    """Lists, each empty at first; a Read is answered with a tuple."""

    def initial(self) -> Elements:
        """An empty list."""
        return ()

    def step(self, state: Elements, request: Read | Append) -> tuple[Elements, Elements | None]:
        """What one list does."""
        match request:
            case Read():
                return state, state
            case Append(element):
                return (*state, element), None

    def parts(self, requests: Sequence[Read | Append]) -> Sequence[Hashable]:
        """Each list by itself."""
        return [request.key for request in requests]
