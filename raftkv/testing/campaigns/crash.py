"""``crash``: processes killed with SIGKILL, stores alone and members of a cluster."""

from __future__ import annotations

from raftkv.testing.campaigns.frame import Campaign, Part
from raftkv.testing.campaigns.store_crash import (
    STORE_FAILPOINTS,
    kill_anywhere,
    kill_at_failpoint,
)

CRASH = Campaign(
    "crash",
    "kill -9 of stores that write, and of members of a real cluster under load",
    (
        Part(
            name="store",
            about="one to three kills of the processes that write one directory",
            run=kill_anywhere,
            cases=300,
        ),
        Part(
            name="store-failpoints",
            about="a kill at each named failpoint of the storage",
            run=kill_at_failpoint,
            cases=len(STORE_FAILPOINTS),
        ),
    ),
)
