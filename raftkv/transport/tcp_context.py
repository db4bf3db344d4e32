"""What all connections of one ``serve`` share."""

from __future__ import annotations

from attrs import define

from raftkv.runtime.base import Runtime
from raftkv.transport.base import Hello, Receiver
from raftkv.transport.tcp_reactor import Reactor
from raftkv.transport.tcp_settings import Limits

__all__ = ["Context"]


@define
class Context:
    """Who we are (which may change), whom to tell, and the world."""

    hello: Hello
    receiver: Receiver
    runtime: Runtime
    limits: Limits
    reactor: Reactor
    loopback_only: bool
    """Whether names must stand for loopback addresses: without TLS, unless told otherwise."""

    def deadline_ns(self, seconds: float) -> int:
        """The clock's value in ``seconds``."""
        return self.runtime.clock.monotonic_ns() + round(seconds * 1e9)
