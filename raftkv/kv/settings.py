"""What can be tuned about the key-value store of one node."""

from __future__ import annotations

from math import isfinite
from typing import Final

from attrs import frozen

from raftkv.errors import ConfigError
from raftkv.kv.requests import LEASE_TTL_MAX

_GIB: Final = 1024 * 1024 * 1024
_MIB: Final = 1024 * 1024


@frozen(slots=True, kw_only=True)
class KvSettings:
    """What a node does with its key-value store. Give all members of a cluster the same.

    None of it decides what a command means: members with different settings still hold the same
    data, but what happens to it then depends on who leads. Raises ConfigError for values that
    cannot work.
    """

    quota_bytes: int = 2 * _GIB
    """Keys, values and their history together. The member that is asked for a write which would
    reach it raises the NO_SPACE alarm, and all refuse what takes room, with NoSpaceError, until
    that is disarmed (etcd: ``quota-backend-bytes``). 0: no quota."""

    history_revisions: int = 0
    """Keep at least so many revisions readable and let the leader compact what is older
    (etcd: ``auto-compaction-mode=revision``). 0: no compaction by revision."""
    history_seconds: float = 0.0
    """Keep at least what was current so many seconds ago (etcd: ``auto-compaction-mode=periodic``).
    0: no compaction by time."""
    sweep_events: int = 1_000
    """Rows that compaction made superfluous are removed for so many events at a time."""

    lease_ttl_min: int = 0
    """Shortest time to live of a lease in seconds; a shorter one is raised to it. 0, and whatever
    is less: one and a half election timeouts, as in etcd."""
    checkpoint_seconds: float = 300.0
    """So often what remains of long leases is written down, for a next leader to go on from."""

    sessions: bool = True
    """Whether writes are tried again, and applied once, after a change of leader or a lost message.
    Without, such a write raises OutcomeUnknownError at its deadline. A session lives by a lease of
    its own, which ``kv.leases()`` does not tell."""
    session_ttl: int = 60
    """Seconds a session outlives a client that fell silent: as long a write can be tried again."""

    watch_buffer_bytes_max: int = _MIB
    watch_buffer_revisions_max: int = 1_000
    """What waits in memory for one slow watcher; what is more it reads from history later."""
    watchers_max: int = 10_000
    """Watchers on one node; more are refused with TooManyRequestsError."""

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot work."""
        self._check_types()
        for name in ("sweep_events", "watch_buffer_bytes_max", "watch_buffer_revisions_max",
                     "watchers_max", "session_ttl", "checkpoint_seconds"):  # fmt: skip
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above zero, not {getattr(self, name)}")
        for name in ("quota_bytes", "history_revisions", "history_seconds", "lease_ttl_min"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"{name} must not be negative, but is {getattr(self, name)}; 0 switches it off"
                )
        if self.history_revisions and self.history_seconds:
            raise ConfigError(
                "history_revisions and history_seconds exclude each other: compact by one of them"
            )
        for name in ("lease_ttl_min", "session_ttl"):
            if getattr(self, name) > LEASE_TTL_MAX:
                raise ConfigError(
                    f"{name} must be at most {LEASE_TTL_MAX} seconds, not {getattr(self, name)}"
                )

    def _check_types(self) -> None:
        """Exact types: True is an int, and NaN a float that no comparison finds."""
        for field, kind in _KINDS.items():
            value: object = getattr(self, field)
            is_right = type(value) is kind or (kind is float and type(value) is int)
            if not is_right or (isinstance(value, float) and not isfinite(value)):
                raise ConfigError(f"{field} must be {_WORDS[kind]}, not {value!r}")


_KINDS: Final[dict[str, type]] = {
    "quota_bytes": int,
    "history_revisions": int,
    "history_seconds": float,
    "sweep_events": int,
    "lease_ttl_min": int,
    "checkpoint_seconds": float,
    "sessions": bool,
    "session_ttl": int,
    "watch_buffer_bytes_max": int,
    "watch_buffer_revisions_max": int,
    "watchers_max": int,
}
_WORDS: Final[dict[type, str]] = {
    int: "an int",
    float: "a finite number of seconds",
    bool: "True or False",
}
