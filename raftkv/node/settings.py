"""What can be tuned about a node, with what happens at each bound."""

from __future__ import annotations

from typing import Final

from attrs import fields, frozen

from raftkv.core.config import SAFEST, Config
from raftkv.errors import ConfigError

_MIB: Final = 1024 * 1024
_MESSAGE_BYTES: Final = 64 * 1024  # what a message has beside its payload, generously


@frozen(slots=True, kw_only=True)
class Settings:
    """Times, sizes and bounds of one node. The defaults suit members in one data centre.

    The first group must be the same on all members. Raises ConfigError for values that cannot work.
    """

    tick_seconds: float = 0.05
    """The grain of everything that is timed below, deadlines included."""
    heartbeat_ticks: int = 2
    election_ticks: int = 20
    """Without word from a leader for so long (up to twice that, by chance) a member campaigns."""
    command_bytes_max: int = 3 * _MIB // 2 + 4096
    """A longer command is refused with RequestTooLargeError.

    Beside 1.5 MiB, which is what a request to the key-value store may have, there is room for what
    the store puts around it."""

    entry_commands_max: int = 512
    """Commands that share one entry, and are applied in one go; the rest wait for the next."""
    entry_bytes_max: int = _MIB
    """Bytes of commands that share one entry; a larger command has one for itself."""
    append_bytes_max: int = _MIB
    """Entries in one message to a peer; at least one is sent."""
    inflight_max: int = 256
    inflight_bytes_max: int = 16 * _MIB
    """Messages with entries, and their payload, under way to one peer; then it is paused."""

    outstanding_commands_max: int = 50_000
    outstanding_bytes_max: int = 64 * _MIB
    """Commands proposed here and not yet answered; more are refused with TooManyRequestsError."""
    outstanding_reads_max: int = 50_000
    """Reads begun here and not yet answered; more are refused with TooManyRequestsError."""
    uncommitted_bytes_max: int = 64 * _MIB
    """Payload in the leader's log that is not committed; then TooManyRequestsError."""
    unapplied_commands_max: int = 5_000
    unapplied_bytes_max: int = 64 * _MIB
    """Committed but not applied; then proposals made here are refused with TooManyRequestsError."""
    received_frames_max: int = 16_384
    received_bytes_max: int = 64 * _MIB
    """Frames received and not yet looked at; more are dropped, which Raft repairs."""

    apply_seconds_max: float = 0.004
    """After so long the applier lets the loop run, between two slices."""
    retention_entries: int = 100_000
    retention_bytes: int = 64 * _MIB
    """Applied entries kept in the log for peers that lag; who lags more gets a snapshot."""
    retention_catch_up_factor: float = 2.0
    """The log may grow to so many times the retention for a connected peer that lags, or is being
    sent a snapshot; beyond that it is cut, and the peer needs another snapshot."""
    snapshot_bytes_per_second: float = 256.0 * _MIB
    """At most so much leaves in snapshots, to all peers together."""
    snapshot_inflight_bytes_max: int = 4 * _MIB
    """Chunks of a snapshot read and not yet confirmed by the peer; then it is waited for."""
    snapshot_seconds_max: float = 60.0
    """A transfer that makes no progress for so long is given up, and what arrived of it dropped.

    Until then it goes on where it was, whatever broke: a connection, the receiver's process."""

    promotion_lag_max: int = 500
    """A learner is made a voter only if it lacks at most so many entries of the leader's log."""

    scrub_bytes_per_second: float = 5.0 * _MIB
    """At most so much is read in the background, to verify what is stored and to compare states."""
    scrub_pause_seconds: float = 3600.0
    """Between two passes of the scrubber over everything that is stored."""
    state_hash_seconds: float = 300.0
    """So often the leader has all members compare their states; see raftkv.node.hashes."""

    ballast_bytes: int = 64 * _MIB
    """Kept in reserve in the data directory, so that a full disk can be opened again; 0: none."""
    stall_seconds_max: float = 10.0
    """A store that stalls for longer has failed, and the node stops."""
    close_seconds_max: float = 1.0
    """How long an orderly close waits for another member to take the lead."""
    events_max: int = 1024
    """Events kept for one slow listener; then one that tells how many were lost replaces them."""

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in (field.name for field in fields(Settings)):
            value: float = getattr(self, name)
            if value < 0 or (value == 0 and name != "ballast_bytes"):
                raise ConfigError(f"{name} must be above zero, not {value}")
        if self.election_ticks < 3 * self.heartbeat_ticks:
            raise ConfigError(
                f"election_ticks ({self.election_ticks}) must be at least three times"
                f" heartbeat_ticks ({self.heartbeat_ticks}): one lost heartbeat is no dead leader"
            )
        if self.inflight_bytes_max < self.append_bytes_max:
            raise ConfigError("inflight_bytes_max must not be below append_bytes_max")

    def check_frames(self, frame_bytes_max: int) -> None:
        """Refuse, with ConfigError, settings whose longest message does not fit a frame."""
        entry = max(self.command_bytes_max, self.entry_bytes_max)
        longest = max(self.append_bytes_max, self.entry_bytes_max + entry) + _MESSAGE_BYTES
        if longest > frame_bytes_max:
            raise ConfigError(
                f"a message may have {longest} bytes (command_bytes_max, entry_bytes_max,"
                f" append_bytes_max), but the transport's frames at most {frame_bytes_max}: lower"
                " the former or raise the latter"
            )

    @property
    def tick_ns(self) -> int:
        """One tick in nanoseconds."""
        return max(1, round(self.tick_seconds * 1e9))

    def core(self, member_id: int, seed: int) -> Config:
        """The core's settings: every safety switch on."""
        return Config(
            id=member_id,
            election_ticks=self.election_ticks,
            heartbeat_ticks=self.heartbeat_ticks,
            append_bytes_max=self.append_bytes_max,
            apply_bytes_max=self.unapplied_bytes_max,
            uncommitted_bytes_max=self.uncommitted_bytes_max,
            inflight_max=self.inflight_max,
            inflight_bytes_max=self.inflight_bytes_max,
            promotion_lag_max=self.promotion_lag_max,
            seed=seed,
            **SAFEST,  # pyright: ignore[reportArgumentType] - each value fits its field by name
        )
