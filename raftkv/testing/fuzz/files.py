"""The files of this kit that people pass on: recorded runs and histories."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from raftkv.errors import InvalidArgumentError
from raftkv.testing.artifact import Artifact, ArtifactError, load, save
from raftkv.testing.fuzz.trial import Target
from raftkv.testing.histories.kv import (
    DeleteOne,
    DeleteResult,
    Get,
    KeyValue,
    KvOperation,
    KvRequest,
    KvResponse,
    Put,
    PutResult,
    load_kv_history,
)
from raftkv.testing.histories.operations import History, Operation, Outcome


def _through_a_file(read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def reading(data: bytes) -> object:
        with tempfile.NamedTemporaryFile(prefix="raftkv-fuzz-") as file:
            file.write(data)
            file.flush()
            return read(Path(file.name))

    return reading


def _written(write: Callable[[Path], object]) -> bytes:
    with tempfile.NamedTemporaryFile(prefix="raftkv-fuzz-") as file:
        write(Path(file.name))
        return Path(file.name).read_bytes()


def _artifacts() -> Sequence[bytes]:
    run = Artifact(
        "L1", 7, 100, ((0, 1), (), (), (2, 300)), "I1", "two leaders", 90, "3 members", ("step",)
    )
    return [_written(lambda path: save(path, run))]


def _histories() -> Sequence[bytes]:
    operations: list[KvOperation] = [
        Operation("a", 1, 2, Put(b"\xffkey", b"value"), PutResult(2)),
        Operation("b", 3, 4, Get(b"key"), KeyValue(b"key", b"value", 2, 2, 1)),
        Operation("b", 5, 6, DeleteOne(b"key"), DeleteResult(3, 1)),
        Operation("b", 7, None, DeleteOne(b"key"), None, Outcome.UNKNOWN),
    ]
    return [_written(History[KvRequest, KvResponse](operations).save)]


FILE_TARGETS: Final = (
    Target(
        name="artifacts",
        about="recorded runs",
        read=_through_a_file(load),
        refusals=(ArtifactError,),
        valid=_artifacts,
    ),
    Target(
        name="histories",
        about="what clients asked and were answered",
        read=_through_a_file(load_kv_history),
        refusals=(InvalidArgumentError,),
        valid=_histories,
    ),
)
