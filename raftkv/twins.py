"""How an object that lives in a node's loop is used from threads: a twin with the same methods."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial, wraps
from typing import Concatenate, Final, Generic, ParamSpec, TypeVar

from raftkv.node.members import Members
from raftkv.recipes import Barrier, Counter, Election, Lock, Queue
from raftkv.recipes.store import Kv
from raftkv.runtime.hosting import Portal

Inner = TypeVar("Inner")
P = ParamSpec("P")
T = TypeVar("T")


CHANGES_NOTHING: Final[frozenset[Callable[..., object]]] = frozenset(
    {
        Kv.get,
        Kv.range,
        Kv.count,
        Kv.keep_alive,
        Kv.time_to_live,
        Kv.leases,
        Kv.hash,
        Kv.alarms,
        Members.promoted,
        Lock.holder,
        Election.leader,
        Counter.get,
        Barrier.wait,
        Queue.count,
    }
)
"""Methods of which a caller has nothing to fear if the node ends meanwhile; all others write."""


class Twin(Generic[Inner]):
    """Something that lives in the node's loop, for threads."""

    def __init__(self, portal: Portal, inner: Inner) -> None:
        self._portal = portal
        self._inner = inner


def without_await(
    method: Callable[Concatenate[Inner, P], Coroutine[object, object, T]],
) -> Callable[Concatenate[Twin[Inner], P], T]:
    """The method of the same name, arguments and meaning that returns what is awaited there."""

    @wraps(method)
    def call(self: Twin[Inner], *args: P.args, **kwargs: P.kwargs) -> T:
        portal, inner = self._portal, self._inner  # pyright: ignore[reportPrivateUsage] - a method
        run = portal.look if method in CHANGES_NOTHING else portal.call
        return run(partial(method, inner, *args, **kwargs))

    return call


@contextmanager
def entered(portal: Portal, context: Callable[[], AbstractAsyncContextManager[T]]) -> Generator[T]:
    """Enter and leave there, by a task of its own, a context that is made there."""

    async def made() -> AbstractAsyncContextManager[T]:
        return context()

    with portal.wrap_async_context_manager(portal.look(made)) as given:
        yield given
