"""The manual of the core is executed, and so are the examples in its modules."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import raftkv.core

MODULES = ["raftkv.core"] + [
    f"raftkv.core.{module.name}" for module in pkgutil.iter_modules(raftkv.core.__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_what_the_prose_of_the_core_shows_is_what_happens(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0


def test_the_manual_shows_an_exchange_of_three_members() -> None:
    assert doctest.testmod(raftkv.core).attempted >= 30
