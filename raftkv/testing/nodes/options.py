"""What kind of cluster of whole nodes a seed makes: drawn whole before anything happens.

As for bare cores (:mod:`raftkv.testing.options`), every seed draws its own sizes, settings and
rates, each rate from none, low, mid and extreme, so that most faults are absent from most runs and
no fault always hides the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeVar

from attrs import evolve, frozen

from raftkv.node.settings import Settings
from raftkv.testing.choices import Choices

T = TypeVar("T")


class MachineKind(Enum):
    """What the members replicate."""

    KV = "the key-value store"
    MEMORY = "a list in memory"
    DISK = "a list on disk"


class Theme(Enum):
    """What a run is mostly about; the swarm's is whatever its rates make of it."""

    SWARM = "swarm"
    CRASHES = "crashes and lost writes"
    PARTITIONS = "partitions of all kinds"
    MEMBERSHIP = "membership changes, partitions and crashes"
    SNAPSHOTS = "snapshots, leader changes, compaction and restarts"
    PAUSES = "processes that stand still during reads"
    DAMAGE = "disks that lose what was promised"


_THEMES: Final = tuple(Theme)
_THEME_WEIGHTS: Final = (6, 3, 3, 3, 3, 2, 2)


@frozen(kw_only=True)
class Faults:
    """How often things go wrong. Rates are per mille, times in milliseconds, acts are weights."""

    delay_ms: int = 0
    """Frames take up to so long, in their order: what is sent later waits behind."""
    late_ms: int = 0
    """By how much frames are late that are late, doubled or replayed, at most."""
    lost: int = 0
    reset: int = 0
    """How many frames break the connection that they are on."""
    flipped: int = 0
    doubled: int = 0
    late: int = 0
    replayed: int = 0
    """How many frames bring an old one of their link with them, perhaps of an earlier life."""
    disk_ms: int = 0
    """Syncs take up to so long."""
    early_syncs: int = 0
    """How many syncs are done long before anybody hears of them."""
    shuffle: int = 0
    """How many turns of the event loop run what is ready in another order."""
    clock_skew: int = 0
    """Clocks run up to so many per cent faster or slower."""
    interval_ms: int = 0
    """Between two acts of the nemesis, on average; 0: it does nothing."""
    crash: int = 0
    stop: int = 0
    partition: int = 0
    pause: int = 0
    wall_jump: int = 0
    slow_disk: int = 0
    transfer: int = 0
    membership: int = 0
    cancelled_opening: int = 0
    damage: int = 0
    """From ``crash`` on: what the nemesis does, as weights."""
    harsh_crashes: bool = False
    """Whether a crash may keep any part of what was not synced, not just a beginning of it."""


@frozen(kw_only=True)
class Options:
    """The whole description of a run; together with decisions it is one."""

    size: int = 3
    learners: int = 0
    members_max: int = 7
    machine: MachineKind = MachineKind.KV
    settings: Settings = Settings()  # noqa: RUF009 (frozen)
    faults: Faults = Faults()
    keys: int = 10
    clients: int = 3
    think_ms: int = 100
    """A client waits up to so long between two operations."""
    timeout_ms: int = 2000
    """How long a client waits for an operation."""
    value_bytes: int = 8
    reads: int = 400
    """How many operations read, per mille."""
    local_reads: int = 0
    """How many of the reads ask only the member itself (serializable), per mille."""
    lease_reads: bool = False
    """Whether some reads trust the leader's clock."""
    cancelled: int = 0
    """How many operations are cancelled while they are under way, per mille."""
    retries: bool = False
    """Whether clients ask again, another member perhaps, what surely was not done."""
    follows_leader: bool = False
    """Whether clients prefer the member that leads."""
    theme: Theme = Theme.SWARM
    txns: int = 0
    """How many of the writes are transactions, per mille."""
    past_reads: int = 0
    """How many of the reads are of a past revision, per mille."""
    watchers: int = 0
    watch_buffer: int = 1000
    """So many revisions wait in memory for a slow watcher."""
    holders: int = 0
    """How many hold leases."""
    compact_ms: int = 0
    """Between two compactions, on average; 0: there are none."""
    sessions: bool = False
    """Whether writes are tried again in sessions."""

    @property
    def election_ms(self) -> int:
        """The base election timeout."""
        settings = self.settings
        return round(1000 * settings.tick_seconds * settings.election_ticks)


def draw_options(choices: Choices) -> Options:
    """A run of the choices' making, in one turn."""
    choices.begin()
    theme = _THEMES[choices.weighted(_THEME_WEIGHTS)]
    size = (3, 1, 2, 4, 5, 6, 7)[choices.weighted((16, 2, 3, 4, 8, 1, 2))]
    settings = _draw_settings(choices)
    lease_reads = choices.choose(5) == 1
    faults = _draw_faults(choices, settings, lease_reads=lease_reads)
    drawn = Options(
        size=size,
        learners=choices.weighted((6, 2, 1)) if size < 6 else 0,
        machine=(MachineKind.KV, MachineKind.MEMORY, MachineKind.DISK)[choices.weighted((6, 1, 1))],
        settings=settings,
        faults=faults,
        keys=_one_of(choices, (10, 1, 3, 50)),
        clients=_one_of(choices, (3, 1, 6, 12, 20)),
        think_ms=_one_of(choices, (100, 20, 400)),
        timeout_ms=_one_of(choices, (2000, 300, 5000)),
        value_bytes=_one_of(choices, (8, 100, 2000)),
        reads=_one_of(choices, (400, 100, 800)),
        local_reads=_one_of(choices, (0, 100, 400)),
        lease_reads=lease_reads,
        cancelled=_one_of(choices, (0, 50, 300)),
        retries=choices.choose(2) == 1,
        follows_leader=choices.choose(2) == 1,
        theme=theme,
        txns=_one_of(choices, (0, 200, 600)),
        past_reads=_one_of(choices, (0, 100, 300)),
        watchers=_one_of(choices, (0, 1, 4)),
        watch_buffer=_one_of(choices, (1000, 1, 5)),
        holders=_one_of(choices, (0, 1, 3)),
        compact_ms=_one_of(choices, (0, 2000, 300)),
        sessions=choices.choose(2) == 1,
    )
    return _themed(drawn)


def _one_of(choices: Choices, values: tuple[T, ...]) -> T:
    return values[choices.choose(len(values))]


def _draw_settings(choices: Choices) -> Settings:
    heartbeat = _one_of(choices, (2, 1))
    append_max = _one_of(choices, (1 << 20, 4000, 300, 1))
    return Settings(
        tick_seconds=_one_of(choices, (0.05, 0.02, 0.1)),
        heartbeat_ticks=heartbeat,
        election_ticks=_one_of(choices, (10, 20, 3 * heartbeat)),
        entry_commands_max=_one_of(choices, (512, 1, 4)),
        append_bytes_max=append_max,
        inflight_max=_one_of(choices, (256, 8, 1)),
        inflight_bytes_max=max(append_max, _one_of(choices, (16 << 20, 20_000))),
        outstanding_commands_max=_one_of(choices, (50_000, 8)),
        outstanding_reads_max=_one_of(choices, (50_000, 4)),
        uncommitted_bytes_max=_one_of(choices, (64 << 20, 4000)),
        unapplied_commands_max=_one_of(choices, (5000, 20)),
        received_frames_max=_one_of(choices, (16_384, 64)),
        retention_entries=_one_of(choices, (1000, 100, 20, 3, 1)),
        retention_catch_up_factor=_one_of(choices, (2.0, 1.0)),
        snapshot_inflight_bytes_max=_one_of(choices, (4 << 20, 1000)),
        snapshot_seconds_max=_one_of(choices, (60.0, 5.0)),
        promotion_lag_max=_one_of(choices, (500, 5)),
        scrub_pause_seconds=_one_of(choices, (3600.0, 2.0)),
        state_hash_seconds=_one_of(choices, (300.0, 2.0)),
        ballast_bytes=0,
    )


def _draw_faults(choices: Choices, settings: Settings, *, lease_reads: bool) -> Faults:
    election_ms = round(1000 * settings.tick_seconds * settings.election_ticks)

    def rate(none: int, low: int, mid: int, extreme: int) -> int:
        return (none, low, mid, extreme)[choices.choose(4)]

    def time(none: int, low: int, mid: int, extreme: int) -> int:
        # Given for an election timeout of a second: as much of a trouble for any other.
        return -(-rate(none, low, mid, extreme) * election_ms // 1000)

    # Leases are promised for clocks that differ by a fifth, and go on while their member does.
    skew = rate(0, 0, 5, 20)
    return Faults(
        delay_ms=time(1, 5, 30, 150),
        late_ms=time(100, 300, 1000, 3000),
        lost=rate(0, 5, 40, 200),
        reset=rate(0, 0, 2, 15),
        flipped=rate(0, 0, 1, 5),
        doubled=rate(0, 5, 30, 100),
        late=rate(0, 5, 30, 100),
        replayed=rate(0, 0, 5, 30),
        disk_ms=time(0, 2, 20, 100),
        early_syncs=rate(0, 0, 100, 500),
        shuffle=rate(0, 0, 50, 500),
        clock_skew=min(skew, 9) if lease_reads else skew,
        interval_ms=time(0, 3000, 1000, 300),
        crash=rate(0, 1, 4, 12),
        stop=rate(0, 0, 1, 4),
        partition=rate(0, 2, 6, 12),
        pause=rate(0, 0, 2, 6),
        wall_jump=rate(0, 0, 1, 3),
        slow_disk=rate(0, 0, 2, 6),
        transfer=rate(0, 0, 2, 6),
        membership=rate(0, 0, 3, 8),
        cancelled_opening=rate(0, 0, 1, 3),
        damage=0,
        harsh_crashes=choices.choose(2) == 1,
    )


def _themed(drawn: Options) -> Options:
    """The drawn run, with what its theme is about in it."""
    theme = drawn.theme
    least = _THEME_FAULTS[theme]
    if not least:
        return drawn
    faults = drawn.faults
    raised = {name: max(weight, getattr(faults, name)) for name, weight in least.items()}
    often = -(-600 * drawn.election_ms // 1000)
    faults = evolve(faults, interval_ms=min(faults.interval_ms or often, often), **raised)
    drawn = evolve(drawn, faults=faults, size=max(drawn.size, 3))
    if theme is Theme.SNAPSHOTS:
        entries = min(drawn.settings.retention_entries, 5)
        return evolve(drawn, settings=evolve(drawn.settings, retention_entries=entries))
    if theme is Theme.PAUSES:
        return evolve(drawn, reads=max(drawn.reads, 400))
    return drawn


_THEME_FAULTS: Final[Mapping[Theme, Mapping[str, int]]] = {
    Theme.SWARM: {},
    Theme.CRASHES: {"crash": 16, "stop": 2, "partition": 2},
    Theme.PARTITIONS: {"partition": 16, "crash": 2},
    Theme.MEMBERSHIP: {"membership": 16, "crash": 4, "partition": 4},
    Theme.SNAPSHOTS: {"crash": 6, "partition": 8, "transfer": 8},
    Theme.PAUSES: {"pause": 12, "partition": 2},
    Theme.DAMAGE: {"damage": 8, "crash": 4, "partition": 2},
}
