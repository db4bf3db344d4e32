"""``crash``: processes killed with SIGKILL, stores alone and members of a cluster."""

from __future__ import annotations

from raftkv.testing.campaigns.cluster_crash import (
    KILL_POINTS,
    kill_at_point,
    kill_members,
    pause_leader,
)
from raftkv.testing.campaigns.frame import Campaign, Part
from raftkv.testing.campaigns.image_crash import break_transfers
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
        Part(
            name="cluster",
            about="three rounds of killing one to three members of three",
            run=kill_members,
            cases=30,
        ),
        Part(
            name="cluster-points",
            about="a member killed at each named point of a node",
            run=kill_at_point,
            cases=len(KILL_POINTS),
        ),
        Part(
            name="images",
            about="slow transfers of snapshots, broken by deaths and other leaders",
            run=break_transfers,
            cases=3,
        ),
        Part(
            name="pause",
            about="the leader stopped for one to three seconds, three times",
            run=pause_leader,
            cases=3,
        ),
    ),
)
