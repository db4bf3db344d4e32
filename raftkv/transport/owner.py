"""The task group that ``serve`` of an adapter owns."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import cast

import anyio
from anyio.abc import TaskGroup


@asynccontextmanager
async def owned_tasks() -> AsyncGenerator[TaskGroup]:
    """Tasks that end with the block; what one of them raises, the block raises.

    A failure comes out as itself, not wrapped into an exception group, so that the caller of
    ``serve`` can catch it by its class. Of several the first counts: the others follow from it.
    """
    try:
        async with anyio.create_task_group() as tasks:
            try:
                yield tasks
            finally:
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        leaves = [*_leaves(group)]
        for leaf in leaves:
            if isinstance(leaf, Exception) or len(leaves) == 1:
                raise leaf from leaf.__cause__
        raise  # several cancellations: they belong to the scopes outside


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(cast("BaseExceptionGroup[BaseException]", error))
        else:
            yield error
