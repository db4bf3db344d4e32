"""PORT: the state machine that raftkv replicates.

Two kinds. An in-memory machine (:class:`StateMachine`) holds its state in Python objects; after a
restart it is restored from the last stored snapshot and the log after it is applied again. An
on-disk machine (:class:`DurableStateMachine`) writes into the node's own batch, so that its rows,
the applied index and the log become durable together and nothing is applied twice.

Both must be deterministic: same commands, same results and state, on every member and for ever. No
clock, no chance, no iteration order of sets, no locale, no environment. ``apply`` runs on the
node's loop: a few milliseconds at most per call; the node hands over slices. An exception from
``apply`` or ``restore`` stops the node, on every member alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from attrs import frozen

from raftkv.storage.base import Batch, Reader, Store

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@frozen(slots=True)
class Command:
    """One command in its place: ``index`` of the entry that carries it and its bytes."""

    index: int
    data: bytes


@runtime_checkable
class StateMachine(Protocol[R_co]):
    """A machine whose state lives in memory."""

    def apply(self, commands: Sequence[Command]) -> Sequence[R_co]:
        """Apply in order; one result per command. Only the member that proposed sees its result."""
        ...

    def snapshot(self) -> Iterator[bytes]:
        """The state as chunks of at most 1 MiB.

        The iterator is drained before the next ``apply``.
        """
        ...

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the state by what ``snapshot`` produced, on this or another member."""
        ...


@runtime_checkable
class DurableStateMachine(Protocol[R_co]):
    """A machine whose state lives in the node's store, in the space ``machine``."""

    def open(self, store: Store) -> None:
        """Called once before anything else, after the store was opened or a snapshot installed."""
        ...

    def apply_durable(self, commands: Sequence[Command], batch: Batch) -> Sequence[R_co]:
        """Apply in order, writing rows into ``batch``; one result per command.

        The node adds the applied index to the same batch and writes it before any other call. Rows
        written by earlier commands of this call are not in the store yet.
        """
        ...

    def snapshot_durable(self, reader: Reader) -> Iterator[bytes]:
        """The state in ``reader`` (a frozen view of the store) as chunks of at most 1 MiB.

        Runs in a worker thread beside later ``apply_durable`` calls: touches nothing but
        ``reader``.
        """
        ...

    def restore_durable(self, chunks: Iterable[bytes], batch: Batch) -> None:
        """Replace the state: put all rows into ``batch``, in which the space is emptied."""
        ...


Machine = StateMachine[R] | DurableStateMachine[R]
"""Either kind."""

__all__ = ["Command", "DurableStateMachine", "Machine", "StateMachine"]
