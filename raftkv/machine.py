"""PORT: the state machine that raftkv replicates.

Two kinds. An in-memory machine (:class:`StateMachine`) holds its state in Python objects; after a
restart it is restored from the last stored snapshot and the log after it is applied again. An
on-disk machine (:class:`DurableStateMachine`) writes into the node's own batch, so that its rows,
the applied index and the log become durable together and nothing is applied twice. Its image is
taken from a frozen view of the store while it goes on, and one that arrives lies aside until whole.

Both must be deterministic: same commands, same results and state, on every member and for ever. No
clock, no chance, no iteration order of sets, no locale, no environment. Members compare their
states every few minutes (``raftkv.node.hashes``), so what an on-disk machine writes must not depend
on how the node sliced the commands, and equal states should give equal snapshots. ``apply`` runs on
the node's loop: a few milliseconds at most per call; the node hands over slices. An exception from
``apply``, ``open`` or ``restore`` stops the node, from ``apply`` on every member alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar, overload, runtime_checkable

from attrs import frozen

from raftkv.storage.base import Batch, Reader, Store

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


Row = tuple[bytes, bytes]
"""Key and value of an on-disk machine's row."""


@frozen(slots=True)
class Command:
    """One command in its place: ``index`` of the entry that carries it and its bytes."""

    index: int
    data: bytes


class Early(Sequence[R_co]):
    """Results of fewer commands than were given to an on-disk machine: all before some entry.

    What comes behind them had no effect yet, and is given again once the batch is written.
    """

    __slots__ = ("_results",)

    def __init__(self, results: Sequence[R_co]) -> None:
        self._results = results

    def __len__(self) -> int:
        return len(self._results)

    @overload
    def __getitem__(self, index: int) -> R_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[R_co]: ...
    def __getitem__(self, index: int | slice) -> R_co | Sequence[R_co]:
        return self._results[index]


@runtime_checkable
class StateMachine(Protocol[R_co]):
    """A machine whose state lives in memory."""

    def apply(self, commands: Sequence[Command]) -> Sequence[R_co]:
        """Apply in order; one result per command. Only the member that proposed sees its result."""
        ...

    def snapshot(self) -> Iterator[bytes]:
        """The state as chunks of at most 1 MiB.

        The iterator is drained before the next ``apply``, a few chunks in each turn of the loop:
        commands that are committed meanwhile wait, and the state is never held twice.
        """
        ...

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the state by what ``snapshot`` produced, on this or another member.

        One call on the node's loop: what takes longer than an election timeout makes the member
        miss heartbeats, as a state of some 100 MiB does. Larger ones belong on disk.
        """
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

        A machine that holds much by then may stop before the first command of an entry
        (``Command.index``) other than the first: it returns the results so far as :class:`Early`.
        """
        ...

    def snapshot_durable(self, reader: Reader) -> Iterator[bytes]:
        """The state in ``reader`` (a frozen view of the store) as chunks of at most 1 MiB.

        Runs in a worker thread beside later ``apply_durable`` calls: touches nothing but
        ``reader``.
        """
        ...

    def restore_durable(self, chunk: bytes, carry: bytes) -> tuple[Sequence[Row], bytes]:
        """The rows in an image's next chunk, and what the call for the chunk after it must know.

        ``carry`` is what the call before returned; empty for the first chunk. The chunks are those
        of ``snapshot_durable``, on this or another member, in order. It looks at nothing but its
        arguments and changes nothing: the node keeps the rows aside until the image is complete,
        puts them in the place of all others at once, and calls ``open``. An image may arrive over
        hours and several restarts; the machine applies commands meanwhile, from its old rows.

        Runs on the node's loop. Raise for a chunk that is damaged or that only a newer version
        reads: the image is refused then, and the state stays what it was.
        """
        ...

    def check_restored(self, carry: bytes) -> None:
        """All chunks were given: raise if they were no whole image, which is refused then."""
        ...


Machine = StateMachine[R] | DurableStateMachine[R]
"""Either kind."""

__all__ = ["Command", "DurableStateMachine", "Early", "Machine", "Row", "StateMachine"]
