"""Addresses and limits of the TCP transport, checked once."""

from __future__ import annotations

from ipaddress import ip_address

from attrs import frozen

from raftkv.errors import ConfigError

__all__ = ["Address", "Limits", "parse_address"]


@frozen
class Address:
    """A host (a name or an IP address, IPv6 without brackets) and a port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether it surely stays within this machine: a loopback address, or ``localhost``."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, *, port_min: int = 1) -> Address:
    """``host:port`` or ``[v6]:port`` as an Address. Raises ConfigError with what is wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or len(port) > 5:
        raise ConfigError(f"{text!r} is no address; write host:port, or [v6]:port")
    if not port_min <= int(port) <= 65535:
        raise ConfigError(f"{text!r}: the port must be from {port_min} to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise ConfigError(f"{text!r}: only IPv6 addresses stand in brackets")
    elif ":" in host:
        raise ConfigError(f"{text!r}: write an IPv6 address in brackets, [v6]:port")
    labels = host.split(".")
    if not host.isascii() or not host.isprintable() or any(each in host for each in " /@[]"):
        raise ConfigError(f"{text!r}: {host!r} is no host")
    if len(host) > 253 or any(not 0 < len(label) < 64 for label in labels):
        raise ConfigError(f"{text!r}: {host!r} is no host")
    return Address(host, int(port))


@frozen(kw_only=True)
class Limits:
    """Bounds of the TCP transport, and what happens at each.

    Raises ConfigError for values that contradict each other.
    """

    frame_bytes_max: int = 8 * 2**20
    """A longer frame is the sender's mistake (RequestTooLargeError), and closes the receiver's
    end."""
    raft_queue_bytes_max: int = 16 * 2**20
    """Unsent bytes to one peer; beyond, ``send`` drops."""
    bulk_queue_bytes_max: int = 8 * 2**20 + 1024
    """The same for the BULK lane."""
    read_bytes_max: int = 256 * 2**10
    """Read at once from one connection; then the others have their turn."""
    strangers_max: int = 64
    """Accepted connections before their handshake; then the oldest of them gives way."""
    connect_seconds: float = 2.0
    """For the TCP connection; then the next attempt."""
    handshake_seconds: float = 5.0
    """For TLS, HELLO and its answer; then the connection is closed."""
    frame_seconds: float = 30.0
    """From a frame's first byte to its last; then the connection is closed."""
    backoff_seconds_min: float = 0.05
    """Before the first attempt to reconnect; doubled each time, with jitter of half."""
    backoff_seconds_max: float = 2.0
    """The longest pause between attempts. A peer that connects to us ends it early."""
    keepalive_seconds: float = 5.0
    """An idle connection is probed after that, and after three vain probes it is closed."""
    unacknowledged_seconds: float = 5.0
    """Sent bytes that the other machine does not acknowledge for that long close the connection."""

    def __attrs_post_init__(self) -> None:
        """Refuse contradictions."""
        for name in ("raft_queue_bytes_max", "bulk_queue_bytes_max"):
            if getattr(self, name) < self.frame_bytes_max + 1024:
                raise ConfigError(f"{name} must exceed frame_bytes_max by 1024 or more")
        if not 1024 <= self.frame_bytes_max < 2**32:
            raise ConfigError("frame_bytes_max must be from 1024 to 2**32 - 1")
        if self.read_bytes_max < 4096 or self.strangers_max < 1:
            raise ConfigError("read_bytes_max must be 4096, strangers_max 1 at least")
        for name in ("connect", "handshake", "frame", "backoff", "keepalive", "unacknowledged"):
            value = getattr(self, f"{name}_seconds" if name != "backoff" else "backoff_seconds_min")
            if not value > 0:
                raise ConfigError(f"{name}_seconds must be above 0, not {value}")
        if self.backoff_seconds_max < self.backoff_seconds_min:
            raise ConfigError("backoff_seconds_max must not be below backoff_seconds_min")
