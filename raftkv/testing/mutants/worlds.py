"""Worlds for mutants that swarm seeds meet too rarely: small ones, with the faults it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from raftkv.core.config import SAFEST
from raftkv.testing.options import Faults, Options, Settings

_PLAIN: Final[Settings] = {
    "election_ticks": 3,
    "campaign_when_stored": True,
    "snapshots_for_members": True,
}

DIVIDED: Final = Options(
    settings=_PLAIN,
    faults=Faults(jitter=3, interval=60, partition=8),
    propose_units=5,
    payload_bytes=0,
    read_units=4,
)
"""Leaders left behind by partitions, asked all the time."""

LEASED: Final = Options(
    settings={**SAFEST, "election_ticks": 3},
    faults=Faults(jitter=2, interval=60, partition=8),
    propose_units=5,
    payload_bytes=0,
    read_units=3,
    lease_reads=True,
)
"""Leaders left behind by partitions, asked by their leases."""

CRASHING: Final = Options(
    settings=_PLAIN,
    faults=Faults(jitter=3, disk_units=10, disk_stalls=100, interval=15, crash=8, partition=3),
    propose_units=10,
    payload_bytes=0,
)
"""Slow disks that lose what was not stored."""

LOSING: Final = Options(
    settings={**_PLAIN, "election_ticks": 5},
    faults=Faults(
        jitter=3,
        late=100,
        late_units=100,
        interval=30,
        crash=3,
        partition=4,
        campaign=2,
        lose_log=6,
        wipe=4,
        back_up=3,
        put_back=4,
        regress=2,
        repair=3,
    ),
    propose_units=10,
    payload_bytes=0,
)
"""Disks that lose what was promised, and messages of before."""

WORLDS: Final[Mapping[str, Options]] = {
    "divided": DIVIDED,
    "leased": LEASED,
    "crashing": CRASHING,
    "losing": LOSING,
}
"""By the names that the headers of patches use."""
