"""One target guided by coverage: ``python -m`` this module with TARGET INPUTS SECONDS DIRECTORY.

A process of its own, as atheris instruments what is loaded and ends the process that it ran in. It
starts from the target's valid inputs, and makes checksums right as the built-in mutator does. The
crashing input, if there is one, stands in ``DIRECTORY/crash`` afterwards.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Final, Protocol, cast

from raftkv.testing.fuzz.registry import TARGETS
from raftkv.testing.fuzz.trial import Crash, Target, attempt

LENGTH_MAX: Final = 4096
"""Longer inputs teach coverage nothing, and cost much."""

Mutate = Callable[[bytes, int], bytes]


class Atheris(Protocol):
    """What we use of atheris, which has no types of its own."""

    Mutate: Mutate
    instrument_func: Callable[[FunctionType], FunctionType]

    def Setup(
        self,
        arguments: list[str],
        test: Callable[[bytes], None],
        *,
        custom_mutator: Callable[[bytes, int, int], bytes],
    ) -> list[str]:
        """Get ready."""
        ...

    def Fuzz(self) -> None:
        """Run; ends the process."""
        ...


def load_atheris() -> Atheris | None:
    """The module, if it is installed."""
    try:
        return cast("Atheris", importlib.import_module("atheris"))
    except ImportError:
        return None


def main(arguments: Sequence[str]) -> int:
    """Fuzz one target. It ends by itself, or by the exit of the fuzzer."""
    name, inputs, seconds, directory = arguments
    atheris = load_atheris()
    if atheris is None:
        sys.stderr.write("atheris is not installed\n")
        return 2
    logging.disable(logging.CRITICAL)
    target, home = TARGETS[name], Path(directory)
    corpus = home / "corpus"
    corpus.mkdir()
    for number, data in enumerate((*target.valid(), *target.more())):
        (corpus / str(number)).write_bytes(data)
    for module in list(sys.modules.values()):
        if module.__name__.startswith("raftkv.") and "testing" not in module.__name__:
            _instrument(atheris, module)
    limits = [f"-runs={inputs}", f"-max_total_time={seconds}", "-print_final_stats=1"]
    length = min(target.bytes_max, LENGTH_MAX)
    atheris.Setup(
        ["fuzz", str(corpus), *limits, f"-max_len={length}", f"-artifact_prefix={home}/"],
        _test(target, home / "crash"),
        custom_mutator=_mutator(target, atheris),
    )
    atheris.Fuzz()
    return 0


def _instrument(atheris: Atheris, module: ModuleType) -> None:
    """Every function of a module, and of its classes: their code is replaced in place."""
    for value in list(vars(module).values()):
        found = [value]
        if isinstance(value, type) and value.__module__ == module.__name__:
            found = list(vars(value).values())
        for one in found:
            if isinstance(one, FunctionType) and one.__module__ == module.__name__:
                atheris.instrument_func(one)


def _test(target: Target, crash: Path) -> Callable[[bytes], None]:
    def test(data: bytes) -> None:
        found = attempt(target, data)
        if isinstance(found, Crash):
            crash.write_bytes(data)
            raise AssertionError(str(found))

    return test


def _mutator(target: Target, atheris: Atheris) -> Callable[[bytes, int, int], bytes]:
    def mutator(data: bytes, size_max: int, seed: int) -> bytes:
        made = atheris.Mutate(data, size_max)  # another function once the fuzzer runs
        return target.fix(made)[:size_max] if target.fix is not None and seed % 5 else made

    return mutator


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
