"""What transport tests share."""

from __future__ import annotations

from raftkv.runtime.base import Runtime
from raftkv.runtime.system import system_runtime
from raftkv.testing.suites.receivers import Recorder
from raftkv.transport.base import Hello

CLUSTER = 0xC1

__all__ = ["CLUSTER", "Recorder", "hello", "runtime"]


def hello(member: int, *, cluster: int = CLUSTER, boot: int = 1, address: str = "") -> Hello:
    return Hello(cluster, member, b"disk-%d" % member, boot, address)


def runtime() -> Runtime:
    return system_runtime()
