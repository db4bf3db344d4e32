"""How members reach each other: the port, and the adapters that carry its frames.

Read in this order: :mod:`~raftkv.transport.base` (what the node may expect),
:mod:`~raftkv.transport.codec` (messages to bytes), :mod:`~raftkv.transport.wire` (frames and
handshake, without I/O), then the adapters :mod:`~raftkv.transport.memory` and
:mod:`~raftkv.transport.tcp`.
"""
