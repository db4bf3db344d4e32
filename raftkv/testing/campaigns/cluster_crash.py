"""Kill -9, and pausing, of members of a real three-node cluster under load."""

from __future__ import annotations

import signal
import time
from random import Random
from typing import Final, cast

from raftkv.testing.campaigns.cluster import START_SECONDS_MAX, Cluster, cluster
from raftkv.testing.campaigns.frame import Case, Facts, FindingError
from raftkv.testing.campaigns.killpoints import FUNCTIONS, SIDES

NAMES: tuple[str, ...] = ("n1", "n2", "n3")
KILL_POINTS: Final = tuple(
    f"{name}.{side}" for name in FUNCTIONS if name != "change" for side in SIDES
)
"""Where members of a cluster are killed by name; changes of membership are the ``members``'."""

_OF_SENDER: Final = ("image-read",)
_OF_RECEIVER: Final = (
    "image-begin",
    "image-piece",
    "image-check",
    "image-install",
    "image-installed",
)
_ROUNDS: Final = 3
_LAST_WORDS: Final = 100  # entries that somebody may have got between our question and its death
_POLL_SECONDS: Final = 0.05
_PAUSES: Final = 3


def draw_settings(random: Random) -> dict[str, float]:
    """Quick elections; in every second case so short a log that snapshots are needed."""
    settings: dict[str, float] = {
        "tick_seconds": 0.03,
        "heartbeat_ticks": 2,
        "election_ticks": 15,
        "close_seconds_max": 0.5,
    }
    if random.random() < 0.5:
        settings |= short_log(random)
    return settings


def short_log(random: Random) -> dict[str, float]:
    """Who is away for a moment needs a snapshot, of more than one piece."""
    return {
        "retention_entries": random.choice((5, 40)),
        "snapshot_inflight_bytes_max": random.choice((4096, 65536)),
    }


def kill_members(case: Case) -> Facts:
    """Three rounds: one to all members die at once, and come back after a while."""
    random = case.random("cluster")
    with cluster(case, NAMES, draw_settings(random)) as made:
        made.work()
        for _ in range(_ROUNDS):
            time.sleep(random.uniform(0.1, 0.8))
            victims = (
                _kill_some(made, random) if random.random() < 0.7 else _kill_alone(made, random)
            )
            time.sleep(random.choice((0.0, random.uniform(0.0, 1.5))))
            made.start(victims)
            made.await_serving(victims)
        judge(made)
        return made.facts


def _kill_some(made: Cluster, random: Random) -> list[str]:
    """One to three at the same instant, the leader often among them."""
    victims = list(random.sample(NAMES, random.choice((1, 1, 1, 2, 3))))
    leader = made.leader()
    if leader is not None and leader not in victims and random.random() < 0.5:
        victims[0] = leader  # the one that matters most
    time.sleep(random.uniform(0.0, 0.05))
    made.kill(victims)
    return victims


def _kill_alone(made: Cluster, random: Random) -> list[str]:
    """The leader, after a moment in which nobody else could have heard of anything it said."""
    leader = made.await_leader()
    others = [name for name in NAMES if name != leader]
    for name in others:
        made.running[name].signal(signal.SIGSTOP)
    time.sleep(random.uniform(0.05, 0.3))
    made.kill([leader])
    for name in others:
        made.running[name].signal(signal.SIGCONT)
    made.facts["kills of one alone"] += 1
    return [leader]


def kill_at_point(case: Case) -> Facts:
    """One member dies at a named point, which the seed numbers, and comes back."""
    random = case.random("points")
    point = KILL_POINTS[case.seed % len(KILL_POINTS)]
    name = point.partition(".")[0]
    needs_image = name in _OF_SENDER or name in _OF_RECEIVER
    settings = draw_settings(random) | (
        short_log(random) if needs_image or name == "compact" else {}
    )
    with cluster(case, NAMES, settings) as made:
        made.work()
        armed = f"{point}:{1 if needs_image else random.randint(1, 20)}"
        time.sleep(random.uniform(0.1, 0.3))
        if name in _OF_SENDER:
            victims = _let_sender_die(made, random, armed)
        else:
            victims = [random.choice(NAMES)]
            let_go_on_without(made, victims[0], random, needs_image=needs_image)
            made.start(victims, kill_at=armed)
            if not made.bury(victims[0], START_SECONDS_MAX):
                raise FindingError(f"member {victims[0]} did not pass {armed}")
        made.facts[f"at {point}"] += 1
        time.sleep(random.uniform(0.0, 0.5))
        made.start(victims)
        made.await_serving(victims)
        judge(made)
        return made.facts


def let_go_on_without(made: Cluster, victim: str, random: Random, *, needs_image: bool) -> None:
    """Somebody dies; the log goes on, if need be past what it would need to catch up."""
    last = made.last_index(victim)
    made.kill([victim])
    time.sleep(random.uniform(0.5, 1.0))
    if needs_image:
        # The others may have had to elect a leader first.
        made.await_forgotten(last + _LAST_WORDS)


def _let_sender_die(made: Cluster, random: Random, armed: str) -> list[str]:
    """A member that missed much comes back, and whoever sends it an image dies; who is dead now.

    Who that is depends on who leads then: both others are armed, and both are dead in the end.
    """
    missing = random.choice([name for name in NAMES if name != made.await_leader()])
    let_go_on_without(made, missing, random, needs_image=True)
    others = sorted(made.running)
    for name in others:
        made.running[name].ask("arm", at=armed)
    made.start([missing])
    made.await_serving([missing])
    limit = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < limit:
        for name in others:
            if made.bury(name, _POLL_SECONDS):
                made.kill([other for other in others if other in made.running])
                return others
    raise FindingError(f"neither of {others} passed {armed}")


def pause_leader(case: Case) -> Facts:
    """The leader stands still for one to three seconds amid reads, and goes on as if nothing was.

    Its clients' reads must not show a state that others have meanwhile written past.
    """
    random = case.random("pause")
    with cluster(case, NAMES, draw_settings(random)) as made:
        made.work()
        for _ in range(_PAUSES):
            time.sleep(random.uniform(0.2, 0.6))
            leader = made.await_leader()
            made.running[leader].signal(signal.SIGSTOP)
            time.sleep(random.uniform(1.0, 3.0))
            made.running[leader].signal(signal.SIGCONT)
            made.facts["pauses"] += 1
        judge(made)
        return made.facts


def judge(made: Cluster) -> None:
    """Everybody runs: they must be one again soon, and everything they said right."""
    time.sleep(0.2)  # let the clients of those who came back do something
    made.await_leader()
    made.rest()
    made.converge()
    for told in made.statuses().values():
        made.facts["images installed"] += cast("int", told["images installed"])
    made.check()
    made.stop()
