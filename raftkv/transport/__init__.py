"""How members reach each other: the port, and the adapters that carry its frames.

Read in this order: :mod:`~raftkv.transport.base` (what the node may expect),
:mod:`~raftkv.transport.codec` (messages to bytes), :mod:`~raftkv.transport.wire` (frames and
handshake, without I/O), then the adapters :mod:`~raftkv.transport.memory` and
:mod:`~raftkv.transport.tcp`.

What the port is made of is imported from here, by whoever writes a transport of their own for
``open_node(transport=)``; :mod:`raftkv.testing.suites` tries it.
"""

from __future__ import annotations

from raftkv.transport.base import (
    ANSWER_BYTES_MAX,
    QUESTION_BYTES_MAX,
    Code,
    Hello,
    Lane,
    Receiver,
    Refusal,
    Transport,
)

__all__ = [
    "ANSWER_BYTES_MAX",
    "QUESTION_BYTES_MAX",
    "Code",
    "Hello",
    "Lane",
    "Receiver",
    "Refusal",
    "Transport",
]
