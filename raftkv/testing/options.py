"""What kind of world a seed makes: drawn whole before anything happens (swarm testing).

Uniform rates of everything find little: each fault hides the others. So every seed draws its own
sizes, settings and rates, each rate from none, low, mid and extreme, and most faults are absent
from most worlds.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, TypedDict, TypeVar

from attrs import evolve, field, frozen

from raftkv.core.config import SAFEST, Config, ReadMode
from raftkv.core.types import NO_LIMIT
from raftkv.testing.choices import Choices
from raftkv.testing.member import MachineKind

TICK: Final = 10
"""Units of simulated time in one tick of an unskewed clock."""

_ROUND_TRIP_UNITS: Final = 3
"""Without faults: an append, its write, and the answer."""
_PAYLOADS: Final = 2
"""Of a proposal, on average."""
_HEAD_BYTES: Final = 32
"""Of an entry, at most."""

T = TypeVar("T")

Settings = dict[str, bool | int]


class Losses(TypedDict, total=False):
    """The fields of Faults that take from disks what was promised."""

    lose_log: int
    wipe: int
    back_up: int
    put_back: int
    regress: int
    repair: int
    reckless: bool


class Theme(Enum):
    """What a world is mostly about; the swarm's is whatever its rates make of it."""

    SWARM = "swarm"
    LOST_LOG = "entries lost, and repaired by peers"
    LOST_EVERYWHERE = "one entry lost by a majority"
    WIPED = "disks wiped"
    OLD_COPY = "old copies of disks put back"
    MEMBERSHIP = "membership changes, partitions and crashes"
    SNAPSHOTS = "snapshots, leader changes, compaction and restarts"


_THEMES: Final = tuple(Theme)
_THEME_WEIGHTS: Final = (8, 2, 2, 2, 2, 5, 6)


@frozen(kw_only=True)
class Faults:
    """How often things go wrong. Rates are per mille, times in units of :data:`TICK` per tick."""

    loss: int = 0
    duplication: int = 0
    jitter: int = 0
    """Messages take 1 .. 1 + jitter units, so they overtake each other."""
    late: int = 0
    """How many messages take up to ``late_units``."""
    late_units: int = 0
    disk_units: int = 0
    """Writes take up to so long; several are in flight."""
    disk_stalls: int = 0
    """How many writes take ten times as long."""
    apply_units: int = 0
    lazy_ready: int = 0
    """How often a member steps without asking for the work at once."""
    unreported: int = 0
    """How often nobody is told that a message or snapshot was lost."""
    clock_skew: int = 0
    """Ticks are up to so many units longer or shorter."""
    interval: int = 0
    """Units between two acts of the nemesis; 0: it does nothing."""
    crash: int = 0
    partition: int = 0
    pause: int = 0
    transfer: int = 0
    campaign: int = 0
    forget: int = 0
    membership: int = 0
    image: int = 0
    lose_log: int = 0
    lose_same_entry: int = 0
    wipe: int = 0
    back_up: int = 0
    put_back: int = 0
    regress: int = 0
    repair: int = 0
    """From ``crash`` on: what the nemesis does, as weights."""
    reckless: bool = False
    """Whether nobody sees to it that a whole majority stays."""

    @property
    def damage(self) -> bool:
        """Whether disks lose what was promised."""
        return bool(
            self.lose_log or self.lose_same_entry or self.wipe or self.put_back or self.regress
        )


@frozen(kw_only=True)
class Options:
    """The whole description of a world; together with decisions it is a run."""

    voters: int = 3
    learners: int = 0
    settings: Settings = field(factory=dict[str, bool | int])
    """What each member's Config gets beside its id."""
    faults: Faults = Faults()
    propose_units: int = 20
    """Units between two proposals."""
    payload_bytes: int = 8
    read_units: int = 0
    """Units between two reads; 0: none."""
    lease_reads: bool = False
    image_entries: int = 0
    """A member makes an image, and compacts, after so many applied entries; 0: only when asked."""
    retention: int = 1000
    """Entries kept below the newest image."""
    machine: MachineKind = MachineKind.MEMORY
    single_reports: bool = False
    """Whether storage threads answer one message at a time instead of once per write."""
    members_max: int = 7
    theme: Theme = Theme.SWARM

    def config(self, node: int) -> Config:
        """The settings of one member."""
        # The seed goes through the id: worlds differ by their decisions, not by the core's own
        # chance.
        mode = ReadMode.LEASE if self.lease_reads else ReadMode.SAFE
        return Config(
            id=node,
            read_mode=mode,
            **self.settings,  # pyright: ignore[reportArgumentType] - each value fits its field
        )

    def number(self, name: str) -> int:
        """A setting that is a number or a switch; 0 if it is not set."""
        return int(self.settings.get(name, 0))

    def catching_up_units(self, lag: int) -> int:
        """How long it takes, without faults, to send ``lag`` entries and what comes meanwhile.

        Some worlds let an append carry no more than an entry, and have one under way at a time;
        while a leader is cut off, its log may grow by hundreds.
        """
        append_max = self.settings.get("append_bytes_max", NO_LIMIT)
        entries = max(1, append_max // (self.payload_bytes + _HEAD_BYTES))
        units = _ROUND_TRIP_UNITS * lag // entries
        return units + units * _ROUND_TRIP_UNITS * _PAYLOADS // (self.propose_units * entries)

    @property
    def election_ticks(self) -> int:
        """The base election timeout."""
        return self.number("election_ticks") or 10


SAFE_WORLD: Final = Options(settings=dict(SAFEST))
"""Three members with every setting that ``open_node`` switches on, and no faults."""


def draw_options(choices: Choices) -> Options:
    """A world of the choices' making, in one turn."""
    choices.begin()
    theme = _THEMES[choices.weighted(_THEME_WEIGHTS)]
    voters = 1 + choices.weighted((2, 3, 16, 5, 8, 1, 2))
    settings = _draw_settings(choices)
    # A lease is only as good as what measures it.
    lease_reads = choices.choose(6) == 1 and bool(
        settings["check_quorum"]
        and settings.get("measured_lease")
        and settings.get("transfer_ends_lease")
    )
    faults = _draw_faults(choices, settings["election_ticks"], lease_reads=lease_reads)
    faults = _themed(faults, theme, settings["election_ticks"])
    if faults.membership:
        # What etcd's rules leave open: members that know a change to be committed, but are voters
        # no more, and those who are and do not know it, may need each other's votes for ever. And
        # one that became a learner in a higher term cannot tell the leader of it.
        settings["refusals_tell_commit"] = True
        settings["pre_vote"] = settings["pre_vote"] or not settings["check_quorum"]
    if faults.damage:
        # What a forgotten vote was given to must be known to whom it was given.
        settings["campaign_when_stored"] = True
    if faults.damage or theme is not Theme.SWARM:
        voters = max(voters, 3)  # fewer cannot spare anybody
    drawn = _draw_sizes(choices, settings, faults, voters, lease_reads=lease_reads)
    if theme is Theme.SNAPSHOTS:
        drawn = evolve(drawn, image_entries=4, retention=0, propose_units=5)
    return evolve(drawn, theme=theme)


def _draw_sizes(
    choices: Choices, settings: Settings, faults: Faults, voters: int, *, lease_reads: bool
) -> Options:
    return Options(
        voters=voters,
        learners=choices.weighted((6, 2, 1)) if voters < 6 else 0,
        settings=settings,
        faults=faults,
        propose_units=_one_of(choices, (20, 40, 10, 5)),
        payload_bytes=_one_of(choices, (8, 0, 100, 1000)),
        read_units=_one_of(choices, (60, 0, 20)),
        lease_reads=lease_reads,
        image_entries=_one_of(choices, (0, 100, 20, 4)),
        retention=_one_of(choices, (1000, 30, 5, 0)),
        machine=_one_of(choices, tuple(MachineKind)),
        single_reports=choices.choose(2) == 1 and bool(settings["async_storage_writes"]),
    )


def _one_of(choices: Choices, values: tuple[T, ...]) -> T:
    return values[choices.choose(len(values))]


def _draw_settings(choices: Choices) -> Settings:
    safest = choices.choose(2) == 0
    settings: Settings = dict(SAFEST) if safest else {}
    settings["election_ticks"] = _one_of(choices, (10, 5, 3, 5, 3, 20))
    settings["heartbeat_ticks"] = _one_of(choices, (1, 2))
    settings["async_storage_writes"] = choices.weighted((3, 1)) == 0
    if not safest:
        settings["pre_vote"] = choices.choose(2) == 1
        settings["check_quorum"] = choices.choose(2) == 1
        settings["disable_forwarding"] = choices.choose(4) == 1
        for name in sorted(SAFEST):
            if isinstance(SAFEST[name], bool) and name not in settings:
                settings[name] = choices.choose(2) == 1
    if settings["async_storage_writes"]:
        # Without it asynchronous writes are unsafe: a candidate that crashed may lead a term twice.
        settings["campaign_when_stored"] = True
    # Without it an embedder must see to it that images are newer than the members they are sent to.
    settings["snapshots_for_members"] = True
    if safest or choices.choose(2):
        settings["snapshot_timeout_ticks"] = _one_of(choices, (300, 30))
    append_max = settings["append_bytes_max"] = _one_of(choices, (NO_LIMIT, 2000, 300, 0))
    settings["apply_bytes_max"] = _one_of(choices, (0, 5000, 200))
    settings["uncommitted_bytes_max"] = _one_of(choices, (NO_LIMIT, 20_000, 1000))
    settings["inflight_max"] = _one_of(choices, (256, 8, 2, 1))
    if append_max < NO_LIMIT and choices.choose(3) == 1:
        settings["inflight_bytes_max"] = max(append_max * 2, 100)
    return settings


def _draw_faults(choices: Choices, election_ticks: int, *, lease_reads: bool) -> Faults:
    def rate(none: int, low: int, mid: int, extreme: int) -> int:
        return (none, low, mid, extreme)[choices.choose(4)]

    def time(none: int, low: int, mid: int, extreme: int) -> int:
        return scaled(rate(none, low, mid, extreme))

    def scaled(units: int) -> int:
        # Times are meant for 10 election ticks: as much of a trouble for longer and shorter ones.
        return -(-units * election_ticks // 10)

    # Leases are promised for clocks that differ by a fifth, and go on while their member does.
    skew_max = 2 if lease_reads else 4
    return Faults(
        loss=rate(0, 10, 80, 300),
        duplication=rate(0, 10, 80, 300),
        jitter=time(0, 3, 10, 30),
        late=rate(0, 10, 60, 200),
        late_units=time(40, 100, 200, 400),
        disk_units=time(0, 3, 10, 40),
        disk_stalls=rate(0, 0, 20, 100),
        apply_units=time(0, 3, 20, 80),
        lazy_ready=rate(0, 0, 100, 400),
        unreported=rate(0, 100, 500, 1000),
        clock_skew=min(rate(0, 0, 1, 4), skew_max),
        interval=scaled((0, 300, 100, 40, 15)[choices.weighted((1, 2, 4, 4, 2))]),
        crash=rate(0, 1, 4, 12),
        partition=rate(0, 2, 6, 12),
        pause=0 if lease_reads else rate(0, 0, 1, 6),
        transfer=rate(0, 0, 2, 6),
        campaign=rate(0, 0, 1, 4),
        forget=rate(0, 0, 1, 3),
        membership=rate(0, 2, 6, 12),
        image=rate(0, 0, 2, 6),
        **_draw_damage(choices),
    )


def _draw_damage(choices: Choices) -> Losses:
    """Losses, in every fourth world; the means to make them good come with them."""
    if choices.choose(4) != 1:
        return {}
    return {
        "lose_log": (0, 1, 4, 8)[choices.choose(4)],
        "wipe": (0, 0, 1, 4)[choices.choose(4)],
        "back_up": 4,
        "put_back": (0, 0, 1, 4)[choices.choose(4)],
        "regress": (0, 0, 1, 2)[choices.choose(4)],
        "repair": (0, 0, 4, 12)[choices.choose(4)],
        "reckless": choices.choose(8) == 1,
    }


def _themed(faults: Faults, theme: Theme, election_ticks: int) -> Faults:
    """The drawn faults, with those that the theme is about among them."""
    least = _THEME_FAULTS[theme]
    if not least:
        return faults
    often = -(-_THEME_INTERVALS.get(theme, 40) * election_ticks // 10)
    raised = {name: max(weight, getattr(faults, name)) for name, weight in least.items()}
    interval = min(faults.interval or often, often)
    return evolve(faults, interval=interval, **raised)


_THEME_INTERVALS: Final = {Theme.MEMBERSHIP: 30, Theme.SNAPSHOTS: 25}
_THEME_FAULTS: Final[Mapping[Theme, Mapping[str, int]]] = {
    Theme.SWARM: {},
    Theme.LOST_LOG: {"lose_log": 8, "repair": 4, "crash": 2, "partition": 2},
    Theme.LOST_EVERYWHERE: {"lose_same_entry": 4, "crash": 1},
    Theme.WIPED: {"wipe": 8, "crash": 2, "partition": 2},
    Theme.OLD_COPY: {"back_up": 6, "put_back": 8, "crash": 2, "partition": 2},
    Theme.MEMBERSHIP: {"membership": 24, "crash": 4, "partition": 4},
    Theme.SNAPSHOTS: {"crash": 4, "partition": 8, "transfer": 16, "campaign": 4},
}
