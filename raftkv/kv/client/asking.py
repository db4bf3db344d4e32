"""What is asked of the keeper, as bytes: a member asks its leader (:mod:`raftkv.node.questions`).

Both questions may be answered twice without harm. An answer begins with its question's kind; one
without any bytes means that the question is not known there, for it is of a newer version.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from struct import error as StructError
from typing import Final

from raftkv.errors import UnavailableError


class Question(IntEnum):
    """What is asked. The numbers are on the wire: they never change."""

    KEEP_ALIVE = 1
    TIME_TO_LIVE = 2


UNKNOWN: Final = -1
"""Seconds left of a lease that there is not."""

_QUESTION: Final = Struct("<Bq")  # kind, lease
_ANSWER: Final = Struct("<Bqq")  # kind, seconds left, seconds granted


def encode_question(kind: Question, lease: int) -> bytes:
    """The bytes of a question."""
    return _QUESTION.pack(kind, lease)


def decode_question(data: bytes) -> tuple[Question, int] | None:
    """What is asked of which lease; None for what is not known here."""
    try:
        kind, lease = _QUESTION.unpack(data)
        return Question(kind), lease
    except (StructError, ValueError):
        return None


def encode_answer(kind: Question, left: int, granted: int) -> bytes:
    """The bytes of an answer: seconds left, :data:`UNKNOWN` for no such lease, and in all."""
    return _ANSWER.pack(kind, left, granted)


def decode_answer(kind: Question, data: bytes) -> tuple[int, int]:
    """Seconds left and in all. Raises UnavailableError where the leader could not understand."""
    if len(data) == _ANSWER.size and data[0] == kind:
        _, left, granted = _ANSWER.unpack(data)
        return left, granted
    raise UnavailableError(
        "the leader does not understand what it was asked about a lease: it runs another version"
        " of raftkv; upgrade all members"
    )
