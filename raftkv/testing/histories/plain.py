"""Values of classes as JSON values, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Final, cast

import attrs

from raftkv.errors import InvalidArgumentError

_CLASS: Final = "$"  # the key that makes a JSON object a value of another type


def to_plain(value: object) -> object:
    """``value`` in JSON's types. Raises InvalidArgumentError if it has no such form."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if isinstance(value, bytes):
        return {_CLASS: "bytes", "": value.decode("latin-1")}
    if isinstance(value, list):
        return [to_plain(one) for one in cast("list[object]", value)]
    if isinstance(value, tuple):
        return {_CLASS: "tuple", "": [to_plain(one) for one in cast("tuple[object, ...]", value)]}
    if isinstance(value, dict):
        pairs = cast("dict[object, object]", value).items()
        return {_CLASS: "dict", "": [[to_plain(key), to_plain(one)] for key, one in pairs]}
    if isinstance(value, Enum):
        return {_CLASS: kind.__name__, "": to_plain(value.value)}
    if attrs.has(kind):
        names = [one.name for one in attrs.fields(kind)]
    elif dataclasses.is_dataclass(kind):
        names = [one.name for one in dataclasses.fields(kind)]
    else:
        raise InvalidArgumentError(
            f"a {kind.__name__} cannot be written as JSON; make it a frozen attrs class or a"
            " dataclass"
        )
    return {_CLASS: kind.__name__, **{name: to_plain(getattr(value, name)) for name in names}}


def from_plain(value: object, types: Mapping[str, type]) -> object:
    """The value that :func:`to_plain` made this of. Raises ValueError, KeyError or TypeError."""
    if isinstance(value, list):
        return [from_plain(one, types) for one in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    fields = dict(cast("dict[str, object]", value))
    name = cast("str", fields.pop(_CLASS))
    match name:
        case "bytes":
            return cast("str", fields[""]).encode("latin-1")
        case "tuple":
            return tuple(cast("list[object]", from_plain(fields[""], types)))
        case "dict":
            pairs = cast("list[list[object]]", fields[""])
            return {from_plain(key, types): from_plain(one, types) for key, one in pairs}
        case _:
            kind = types[name]
    if issubclass(kind, Enum):
        return kind(from_plain(fields[""], types))
    return kind(**{key: from_plain(one, types) for key, one in fields.items()})
