"""Transfers of snapshots that take a moment, and whatever can come between.

A member that was away needs an image, as the others' logs are short. While it arrives the sender
dies or stands still, so that there is another leader; or the receiver dies, or both; or nothing
happens but that the log goes on, so that a second image is needed.
"""

from __future__ import annotations

import signal
import time
from random import Random
from typing import Final, cast

from raftkv.testing.campaigns.cluster import Cluster, cluster
from raftkv.testing.campaigns.cluster_crash import (
    NAMES,
    draw_settings,
    judge,
    let_go_on_without,
)
from raftkv.testing.campaigns.frame import Case, Facts

_ROUNDS: Final = 3
_BEGIN_SECONDS_MAX: Final = 3.0
_POLL_SECONDS: Final = 0.01


def break_transfers(case: Case) -> Facts:
    """Three rounds of somebody who needs an image, and something that comes between."""
    random = case.random("images")
    settings = draw_settings(random) | {
        "retention_entries": random.choice((5, 40)),
        "retention_bytes": 65536,
        "snapshot_bytes_per_second": random.choice((500_000, 2_000_000, 8_000_000)),
    }
    with cluster(case, NAMES, settings, long_values=0.7) as made:
        made.work()
        time.sleep(1.0)  # so that there is something to send
        for _ in range(_ROUNDS):
            missing = random.choice([name for name in NAMES if name != made.await_leader()])
            let_go_on_without(made, missing, random, needs_image=True)
            made.start([missing])
            made.await_serving([missing])
            if _await_image(made, missing):
                time.sleep(random.uniform(0.0, 0.3))
                made.facts["transfers met"] += 1
            _interfere(made, missing, random)
        judge(made)
        return made.facts


def _await_image(made: Cluster, name: str) -> bool:
    """Whether an image begins to arrive at a member soon."""
    limit = time.monotonic() + _BEGIN_SECONDS_MAX
    while time.monotonic() < limit:
        if cast("int", made.running[name].ask("status")["images begun"]):
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _interfere(made: Cluster, missing: str, random: Random) -> None:
    leader = made.await_leader()
    way = random.choice(("sender dies", "receiver dies", "both die", "sender pauses", "nothing"))
    made.facts[way] += 1
    if way == "nothing":
        time.sleep(random.uniform(0.0, 0.5))
    elif way == "sender pauses":
        made.running[leader].signal(signal.SIGSTOP)
        time.sleep(random.uniform(0.7, 1.5))
        made.running[leader].signal(signal.SIGCONT)
    else:
        victims = {"sender dies": {leader}, "receiver dies": {missing}}.get(way, {leader, missing})
        made.kill(sorted(victims))
        time.sleep(random.choice((0.0, random.uniform(0.0, 0.8))))
        made.start(sorted(victims))
        made.await_serving(sorted(victims))
