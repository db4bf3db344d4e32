"""What a store can be told to do, and what it refuses to be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import fields

import raftkv
from raftkv.errors import ConfigError
from raftkv.kv.requests import LEASE_TTL_MAX
from raftkv.kv.settings import KvSettings
from tests.node.rig import Journal

NAMES = [field.name for field in fields(KvSettings)]
MAY_BE_OFF = {"quota_bytes", "history_revisions", "history_seconds", "lease_ttl_min"}


def made(**given: object) -> KvSettings:
    values: dict[str, Any] = given
    return KvSettings(**values)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "value", [None, "1", b"1", float("nan"), float("inf"), -1, -0.5, [1]], ids=repr
)
def test_no_setting_takes_what_cannot_work(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        made(**{name: value})


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sessions"])
def test_true_is_no_number_and_zero_switches_off_what_can_be(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        made(**{name: True})
    if name in MAY_BE_OFF:
        assert getattr(made(**{name: 0}), name) == 0
        return
    with pytest.raises(ConfigError, match=f"{name} must be above zero, not 0"):
        made(**{name: 0})


@pytest.mark.parametrize("name", ["lease_ttl_min", "session_ttl"])
def test_no_time_to_live_is_longer_than_a_lease_may_be(name: str) -> None:
    assert getattr(made(**{name: LEASE_TTL_MAX}), name) == LEASE_TTL_MAX
    with pytest.raises(ConfigError, match=name):
        made(**{name: LEASE_TTL_MAX + 1})


def test_history_is_bounded_in_one_way() -> None:
    assert made(history_seconds=3600).history_seconds == 3600
    with pytest.raises(ConfigError, match="exclude each other"):
        made(history_seconds=3600.0, history_revisions=1000)


def test_a_machine_of_ones_own_has_no_settings_of_the_store(tmp_path: Path) -> None:
    cluster = {"n1": "127.0.0.1:7400"}
    with pytest.raises(ConfigError, match="kv= is for the key-value store"):
        raftkv.open_node(tmp_path, name="n1", cluster=cluster, machine=Journal(), kv=KvSettings())


async def test_a_cluster_hands_them_to_its_members() -> None:
    quota = made(quota_bytes=1234)
    async with raftkv.open_cluster(None, size=1, kv=quota) as cluster:
        (node,) = cluster.nodes
        assert node.kv.status().quota_bytes == 1234
