"""A small share of every campaign, as a user runs it: real processes, real disks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from raftkv.testing.campaigns.cluster_crash import KILL_POINTS
from tests.source import ROOT


@frozen
class Share:
    """So many cases of a part, and what they must have met at least to mean anything."""

    campaign: str
    part: str
    cases: int
    floors: tuple[tuple[str, int], ...] = ()
    seed: int = 1

    @property
    def name(self) -> str:
        return f"{self.campaign} {self.part} {self.seed}"


# The seed of a kill at a named point is its number.
POINTS = {name: number for number, name in enumerate(KILL_POINTS)}

# Run one after another: together with their children they keep two cores busy.
SHARES = (
    # Kills that hit nothing prove nothing: some must fall amid a write or a flush.
    Share("crash", "store", 15, (("kills", 12), ("kills inside", 4))),
    Share("crash", "store-failpoints", 12, (("kills", 12),)),
    Share("crash", "cluster", 2, (("kills", 4), ("acknowledged writes", 100))),
    Share("crash", "cluster-points", 1, (("at apply.after", 1),), POINTS["apply.after"]),
    Share("crash", "cluster-points", 1, (("at image-read.after", 1),), POINTS["image-read.after"]),
    Share(
        "crash",
        "cluster-points",
        1,
        (("at image-install.after", 1),),
        POINTS["image-install.after"],
    ),
    Share("crash", "images", 1, (("transfers met", 1), ("images installed", 1))),
    Share("crash", "pause", 1, (("pauses", 3),)),
    Share("power", "store", 4, (("cuts", 20), ("cuts amid a write or sync", 5))),
    Share("power", "cluster", 1, (("cuts", 3), ("acknowledged writes", 50))),
    Share("torn", "offsets", 1, (("cuts", 500),)),
    Share("torn", "logs", 4),
    Share("torn", "members", 2),
    Share("torn", "restored", 1),
    Share("torn", "wiped", 1, (("kept out", 1),)),
    Share("torn", "images", 10, (("refused", 100), ("of a newer format", 20))),
    Share("flip", "stores", 4, (("flips", 40), ("alone: refused", 15), ("alone: identical", 5))),
    Share("flip", "members", 2, (("flips", 6),)),
    Share("ioerror", "fail", 2, (("stops", 2), ("acknowledged writes", 100))),
    Share("ioerror", "full", 2, (("full", 3), ("stops", 1))),
    Share("ioerror", "slow-leader", 1, (("below the election timeout: puts while slow", 20),)),
    Share("ioerror", "slow-follower", 1, (("acknowledged writes", 100),)),
    Share("members", "partitions", 1, (("heals", 4), ("acknowledged writes", 100))),
    Share("members", "changes", 1, (("joins", 1), ("acknowledged writes", 100))),
)


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("share", SHARES, ids=lambda share: share.name)
def test_a_share_of_a_campaign_finds_nothing(share: Share, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "raftkv.testing", share.campaign, "--part", share.part]
    command += ["--cases", str(share.cases), "--seed", str(share.seed), "--json"]
    command += ["--dir", str(tmp_path)]
    # How soon a healed cluster is one again is judged where the machine has nothing else to do.
    patient = {**os.environ, "RAFTKV_CONVERGENCE_SECONDS": "60"}
    done = subprocess.run(
        command, cwd=ROOT, env=patient, capture_output=True, text=True, check=False
    )
    logs = [f"--- {log}\n{log.read_text(errors='replace')}" for log in finding_logs(tmp_path)]
    assert done.returncode == 0, "\n".join([done.stdout, done.stderr, *logs])
    told = json.loads(done.stdout)["parts"][share.part]
    if told["skipped"] is None:
        check_floors(share, told)


def finding_logs(directory: Path) -> list[Path]:
    """What the kept cases say; RocksDB's write-ahead logs have numbers for names."""
    return [
        log
        for log in sorted([*directory.rglob("*.log"), *directory.rglob("finding.txt")])
        if not log.stem.isdigit()
    ]


def check_floors(share: Share, told: dict[str, Any]) -> None:
    assert told["cases"] == share.cases
    for fact, floor in share.floors:
        assert told["facts"].get(fact, 0) >= floor, told["facts"]
