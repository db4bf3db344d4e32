"""The oracle of the storage tests, which is the campaigns' own."""

from raftkv.testing.campaigns.writer import (
    CLUSTER,
    MEMBER,
    VOTERS,
    FixedRng,
    Writer,
    everything,
    follow,
    row_of,
    rows_match,
)

__all__ = [
    "CLUSTER",
    "MEMBER",
    "VOTERS",
    "FixedRng",
    "Writer",
    "everything",
    "follow",
    "row_of",
    "rows_match",
]
