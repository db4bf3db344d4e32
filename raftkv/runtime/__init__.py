"""The world as ports: clock, chance, threads, tasks, environment.

Only ``system`` touches the real ones. Every other module gets them as a
:class:`~raftkv.runtime.base.Runtime`, so that a simulator can run the same code in virtual time.

The ports are imported from here, and ``system_runtime``, which makes the real world: evolve it to
replace a part, and give it to ``open_node(runtime=)``.
"""

from __future__ import annotations

from raftkv.runtime.base import (
    Clock,
    Environment,
    Observer,
    Promise,
    Rng,
    Runtime,
    Spawner,
    Waker,
    Worker,
    Workers,
)
from raftkv.runtime.system import system_runtime

__all__ = [
    "Clock",
    "Environment",
    "Observer",
    "Promise",
    "Rng",
    "Runtime",
    "Spawner",
    "Waker",
    "Worker",
    "Workers",
    "system_runtime",
]
