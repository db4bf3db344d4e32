"""Every type that a user meets in a signature can be imported from a place that is for users."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import cast, get_args, get_origin, get_type_hints

import pytest

from raftkv.kv import model, requests

# Where types may be imported from; each lists them in ``__all__``.
PLACES = (
    "raftkv",
    "raftkv.blocking",
    "raftkv.core",
    "raftkv.kv",
    "raftkv.recipes",
    "raftkv.runtime",
    "raftkv.storage",
    "raftkv.transport",
)

# What a State is made of: looked at through its properties, and made by the core alone.
OPAQUE = ("raftkv.core.state",)
# How the parts of a node speak to each other; ``open_node`` and ``kv`` use it, applications do not.
INTERNAL = {"raftkv.kv.rows.Head", "raftkv.node.audience.Audience"}


def offered() -> dict[str, object]:
    """All names for users."""
    found: dict[str, object] = {}
    for place in PLACES:
        module = importlib.import_module(place)
        for name in cast("list[str]", vars(module)["__all__"]):
            found[f"{place}.{name}"] = getattr(module, name)
    return found


def ours(hint: object) -> Iterator[type[object]]:
    """The classes of raftkv that a hint names."""
    for part in get_args(hint):
        yield from _each(part)
    plain = get_origin(hint) or hint
    if isinstance(plain, type) and plain.__module__.partition(".")[0] == "raftkv":
        yield cast("type[object]", plain)


def _each(part: object) -> Iterator[type[object]]:
    if isinstance(part, list | tuple):
        for one in cast("Iterable[object]", part):
            yield from ours(one)
    else:
        yield from ours(part)


def named(thing: object) -> Iterator[type[object]]:
    """The classes of raftkv in the signature of a function, or the fields of a class."""
    known = {**vars(requests), **vars(model)}  # where strings stand for types that name each other
    for hint in get_type_hints(cast("Callable[..., object]", thing), localns=known).values():
        yield from ours(hint)


def methods(kind: type[object]) -> Iterator[object]:
    for name in dir(kind):
        member = inspect.getattr_static(kind, name)
        if isinstance(member, property):
            member = member.fget
        if not name.startswith("_") and inspect.isfunction(member):
            yield member


def unreachable(roots: Iterable[object]) -> dict[str, str]:
    """Classes in the signatures of what can be reached that no place offers, and where."""
    roots = [*roots]
    public = {id(one) for one in roots}
    lacking: dict[str, str] = {}
    seen: set[object] = set()
    waiting = [one for one in roots if inspect.isfunction(one) or isinstance(one, type)]
    while waiting:
        thing = waiting.pop()
        if thing in seen or not thing.__module__.startswith("raftkv"):
            continue
        seen.add(thing)
        parts = [thing, *methods(thing)] if isinstance(thing, type) else [thing]
        for part in parts:
            for kind in named(part):
                full = f"{kind.__module__}.{kind.__qualname__}"
                if kind.__module__ in OPAQUE or full in INTERNAL:
                    continue
                if id(kind) not in public:
                    lacking[full] = getattr(part, "__qualname__", "?")
                waiting.append(kind)
    return lacking


def test_every_type_in_a_public_signature_can_be_imported() -> None:
    lacking = unreachable(offered().values())
    assert not lacking, "\n".join(f"{name}, in {where}" for name, where in lacking.items())


def test_what_is_offered_in_two_places_is_the_same() -> None:
    by_name: dict[str, list[object]] = {}
    for full, value in offered().items():
        by_name.setdefault(full.rpartition(".")[2], []).append(value)
    both = {"PutResult", "KeyValue", "Store", "Batch", "Held", "Compare"}
    for name in both:
        assert len(by_name[name]) == 2
        assert by_name[name][0] is by_name[name][1]


@pytest.mark.parametrize("name", ["Storage", "Transport", "Runtime"])
def test_a_port_that_nobody_offers_is_missed(name: str) -> None:
    rest = [one for full, one in offered().items() if not full.endswith(f".{name}")]
    assert any(full.endswith(f".{name}") for full in unreachable(rest))
