"""Partitions of a real cluster between network namespaces, with kills amid them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import Final

from raftkv.testing.campaigns.cluster import (
    CONVERGENCE_SECONDS_MAX,
    IS_PATIENT,
    Cluster,
    started,
)
from raftkv.testing.campaigns.cluster_crash import draw_settings
from raftkv.testing.campaigns.frame import Case, Facts, FindingError
from raftkv.testing.campaigns.namespaces import Network, network

_ROUNDS: Final = 4
_TERM_STEPS_MAX: Final = 2
PORT: Final = 7400
"""Where every member listens, in its own namespace."""


def partition_members(case: Case) -> Facts:
    """Four rounds: some links are cut for a while, a member may die meanwhile, all is healed."""
    random = case.random("partitions")
    names = tuple(f"n{number}" for number in range(1, random.choice((3, 3, 5)) + 1))
    with network(names) as net, started(in_namespaces(case, net, random), names) as made:
        made.work()
        for _ in range(_ROUNDS):
            time.sleep(random.uniform(0.2, 0.6))
            kind = random.choice(sorted(CUTS))
            CUTS[kind](net, made, random)
            made.facts[f"cut: {kind}"] += 1
            victims = [random.choice(names)] if random.random() < 0.3 else []
            time.sleep(random.uniform(0.5, 2.5))
            made.kill(victims)
            made.start(victims)
            made.await_serving(victims)
            heal(net, made)
        judge(made)
        return made.facts


def in_namespaces(
    case: Case, net: Network, random: Random, founders: Sequence[str] = ()
) -> Cluster:
    """A cluster whose members stand in the namespaces of a network; not started yet."""
    addresses = {name: f"{net.address(name)}:{PORT}" for name in net.names}
    settings = draw_settings(random)
    return Cluster(case, addresses, settings, before=net.inside, founders=founders)


def heal(net: Network, made: Cluster) -> None:
    """Heal everything; the members must be one cluster again soon, without a race of terms."""
    before = made.term()
    net.heal()
    began = time.monotonic()
    made.await_all_led(CONVERGENCE_SECONDS_MAX)
    made.facts["heal ms"] += round((time.monotonic() - began) * 1000)
    made.facts["heals"] += 1
    steps = made.term() - before
    made.facts["term steps after heals"] += steps
    if steps > _TERM_STEPS_MAX and not IS_PATIENT:
        raise FindingError(f"{steps} terms were spent on one healing, {_TERM_STEPS_MAX} may be")


def judge(made: Cluster) -> None:
    """All is healed and everybody runs: they must be one, and everything they said right."""
    time.sleep(0.2)
    made.rest()
    made.converge()
    made.check()
    made.stop()


# --- ways to cut --------------------------------------------------------------------------------

Cut = Callable[[Network, Cluster, Random], None]


def _names(made: Cluster) -> list[str]:
    return sorted(made.running)


def _leader_or_any(made: Cluster, random: Random) -> str:
    return made.leader() or random.choice(_names(made))


def _isolate_leader(net: Network, made: Cluster, random: Random) -> None:
    net.isolate([_leader_or_any(made, random)])


def _isolate_one(net: Network, made: Cluster, random: Random) -> None:
    net.isolate([random.choice(_names(made))])


def _halves(net: Network, made: Cluster, random: Random) -> None:
    names = _names(made)
    net.isolate(random.sample(names, len(names) // 2))


def _deaf_leader(net: Network, made: Cluster, random: Random) -> None:
    leader = _leader_or_any(made, random)
    net.cut((other, leader) for other in net.names)


def _mute_leader(net: Network, made: Cluster, random: Random) -> None:
    leader = _leader_or_any(made, random)
    net.cut((leader, other) for other in net.names)


def _one_pair(net: Network, made: Cluster, random: Random) -> None:
    """A partial partition: two that do not hear each other, and others who hear both."""
    leader = _leader_or_any(made, random)
    other = random.choice([name for name in _names(made) if name != leader] or [leader])
    net.cut([(leader, other), (other, leader)])


def _one_way(net: Network, made: Cluster, random: Random) -> None:
    names = _names(made)
    net.cut([(random.choice(names), random.choice(names))])


def _ring(net: Network, made: Cluster, _random: Random) -> None:
    """Each hears its two neighbours only; with three that is everybody, so one link goes, too."""
    names = _names(made)
    count = len(names)
    far = [
        (one, other)
        for at, one in enumerate(names)
        for to, other in enumerate(names)
        if (at - to) % count not in (0, 1, count - 1)
    ]
    net.cut(far or [(names[0], names[-1]), (names[-1], names[0])])


def _nobody(net: Network, _made: Cluster, _random: Random) -> None:
    net.cut((one, other) for one in net.names for other in net.names)


def _flapping(net: Network, made: Cluster, random: Random) -> None:
    """The leader comes and goes, and stays away at last."""
    leader = _leader_or_any(made, random)
    for _ in range(3):
        net.isolate([leader])
        time.sleep(random.uniform(0.05, 0.5))
        net.heal()
        time.sleep(random.uniform(0.05, 0.3))
    net.isolate([leader])


CUTS: Final[Mapping[str, Cut]] = MappingProxyType(
    {
        "leader isolated": _isolate_leader,
        "one isolated": _isolate_one,
        "halves": _halves,
        "leader deaf": _deaf_leader,
        "leader mute": _mute_leader,
        "one pair": _one_pair,
        "one way": _one_way,
        "ring": _ring,
        "everybody alone": _nobody,
        "flapping leader": _flapping,
    }
)
"""The ways in which links are cut, by name."""
