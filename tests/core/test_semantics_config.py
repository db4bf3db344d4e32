"""RAFT_SEMANTICS section 12, settings: what is refused, and what the safest settings are."""

from __future__ import annotations

import pytest
from attrs import evolve, fields

from raftkv.core import NO_LIMIT, SAFEST, Config, ReadMode, safest
from raftkv.core.types import APPEND_THREAD, APPLY_THREAD
from raftkv.errors import ConfigError, Error

GOOD = Config(id=1)


@pytest.mark.parametrize("node", [0, -1, APPLY_THREAD, APPEND_THREAD, 2**64])
def test_an_id_that_is_reserved_or_no_id_is_refused(node: int) -> None:
    with pytest.raises(ConfigError, match="id must be"):
        Config(id=node)


@pytest.mark.parametrize("node", [1, APPLY_THREAD - 1])
def test_every_other_id_is_taken(node: int) -> None:
    assert Config(id=node).id == node


@pytest.mark.parametrize("ticks", [0, -1])
def test_heartbeats_take_at_least_a_tick(ticks: int) -> None:
    with pytest.raises(ConfigError, match="heartbeat_ticks must be"):
        evolve(GOOD, heartbeat_ticks=ticks)


@pytest.mark.parametrize(
    ("election", "heartbeat", "good"), [(1, 1, False), (2, 3, False), (2, 1, True)]
)
def test_an_election_takes_longer_than_a_heartbeat(
    election: int, heartbeat: int, good: bool
) -> None:
    if good:
        assert evolve(GOOD, election_ticks=election, heartbeat_ticks=heartbeat)
        return
    with pytest.raises(ConfigError, match="must be above"):
        evolve(GOOD, election_ticks=election, heartbeat_ticks=heartbeat)


@pytest.mark.parametrize("count", [0, -1])
def test_at_least_one_append_may_be_under_way(count: int) -> None:
    with pytest.raises(ConfigError, match="inflight_max must be"):
        evolve(GOOD, inflight_max=count)


def test_a_window_of_bytes_holds_at_least_one_message() -> None:
    assert evolve(GOOD, append_bytes_max=100, inflight_bytes_max=100)
    with pytest.raises(ConfigError, match="inflight_bytes_max must not be below"):
        evolve(GOOD, append_bytes_max=100, inflight_bytes_max=99)
    assert evolve(GOOD, append_bytes_max=100, inflight_bytes_max=0)


def test_lease_reads_need_quorum_checks() -> None:
    assert evolve(GOOD, read_mode=ReadMode.LEASE, check_quorum=True)
    with pytest.raises(ConfigError, match="check_quorum"):
        evolve(GOOD, read_mode=ReadMode.LEASE)


@pytest.mark.parametrize("config", ["append_bytes_max", "apply_bytes_max", "uncommitted_bytes_max"])
def test_limits_are_not_negative(config: str) -> None:
    with pytest.raises(ConfigError, match=f"{config} must not be negative"):
        evolve(GOOD, **{config: -1})
    assert evolve(GOOD, **{config: 0})


def test_a_refused_setting_is_an_error_of_ours_and_a_value_error() -> None:
    assert issubclass(ConfigError, Error)
    assert issubclass(ConfigError, ValueError)


@pytest.mark.parametrize(
    ("apply", "append", "page"), [(5, 9, 5), (0, 9, 9), (0, NO_LIMIT, NO_LIMIT), (0, 0, 1)]
)
def test_the_apply_budget_defaults_to_the_message_limit(apply: int, append: int, page: int) -> None:
    assert evolve(GOOD, apply_bytes_max=apply, append_bytes_max=append).page_bytes_max == page


def test_the_safest_settings_switch_on_all_that_is_better_than_the_model() -> None:
    """All switches are off by default; those left off are matters of taste, each named here."""
    taste = {
        "async_storage_writes",
        "verify_chain",
        "disable_change_validation",
        "disable_forwarding",
    }
    switches = {one.name for one in fields(Config) if isinstance(getattr(GOOD, one.name), bool)}
    assert all(not getattr(GOOD, name) for name in switches - taste - {"verify_chain"})
    config = safest(GOOD)
    assert {name for name in switches if getattr(config, name)} == {
        *(switches - taste),
        "async_storage_writes",
        "verify_chain",
    }
    assert config.snapshot_timeout_ticks > 0
    assert evolve(GOOD, **SAFEST) == config
