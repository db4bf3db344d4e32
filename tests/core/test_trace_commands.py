"""Commands of interaction traces: what each takes, its options, its errors."""

from __future__ import annotations

import pytest

from raftkv.core import (
    ForwardProposal,
    Payload,
    ReadMode,
    Role,
    Snapshot,
)
from raftkv.core.types import EntryKind
from tests.core.trace_file import TraceFormatError
from tests.core.trace_session import Session, led


def test_every_command_is_known_and_no_other() -> None:
    assert Session().driver.commands == {
        *("add-nodes", "campaign", "propose", "propose-conf-change", "stabilize", "process-ready"),
        *("process-append-thread", "process-apply-thread", "deliver-msgs", "raft-log"),
        *("raft-state", "status", "compact", "tick-election", "tick-heartbeat"),
        *("set-randomized-election-timeout", "transfer-leadership", "forget-leader"),
        *("report-unreachable", "send-snapshot", "log-level", "_breakpoint"),
    }
    assert Session().run("crash 1") == "unknown command"
    assert Session().run("_breakpoint") == "ok"


# --- add-nodes --------------------------------------------------------------------------------


def test_nodes_are_numbered_in_order_of_creation() -> None:
    session = Session("add-nodes 1", "add-nodes 2 voters=(7,1) index=5", "add-nodes 0")
    assert [node.id for node in session.world.nodes] == [1, 2, 3]
    assert session.run("raft-state") == (
        "1: StateFollower (Non-Voter) Term:0 Lead:0\n"
        "2: StateFollower (Non-Voter) Term:0 Lead:0\n"
        "3: StateFollower (Non-Voter) Term:0 Lead:0\n"
    )


def test_settings_are_those_of_recorded_runs_unless_overridden() -> None:
    (node,) = Session("add-nodes 1").world.nodes
    config = node.config
    assert (config.election_ticks, config.heartbeat_ticks) == (3, 1)
    assert config.inflight_max == 2**31 - 1
    assert config.page_bytes_max == config.append_bytes_max == config.uncommitted_bytes_max
    assert config.read_mode is ReadMode.SAFE
    flags = [
        config.pre_vote,
        config.check_quorum,
        config.async_storage_writes,
        config.step_down_on_removal,
        config.disable_change_validation,
        config.disable_forwarding,
    ]
    assert not any(flags)


def test_every_option_reaches_its_setting() -> None:
    (node,) = Session(
        "add-nodes 1 inflight=5 async-storage-writes=true prevote=true checkquorum=true"
        " read-only=lease-based step-down-on-removal=true max-committed-size-per-ready=7"
        " disable-conf-change-validation=true unknown=9"
    ).world.nodes
    config = node.config
    assert (config.inflight_max, config.apply_bytes_max) == (5, 7)
    assert config.read_mode is ReadMode.LEASE
    assert config.pre_vote
    assert config.check_quorum
    assert config.async_storage_writes
    assert config.step_down_on_removal
    assert config.disable_change_validation
    (node,) = Session("add-nodes 1 prevote=false read-only=safe").world.nodes
    assert not node.config.pre_vote
    assert node.config.read_mode is ReadMode.SAFE


def test_a_starting_snapshot_lies_in_storage_history_and_core() -> None:
    (node,) = Session("add-nodes 1 voters=(2,1) learners=3 index=10 content=x,y").world.nodes
    snapshot = node.storage.snapshot
    assert node.history == [snapshot]
    assert (snapshot.index, snapshot.term, snapshot.data) == (10, 1, b"x,y")
    assert (snapshot.membership.voters, snapshot.membership.learners) == ((2, 1), (3,))
    assert (node.state.commit, node.state.applied, node.state.log.last_index) == (10, 10, 10)
    assert (node.state.term, node.state.log.last_term) == (0, 1)


def test_a_bare_node_starts_with_nothing() -> None:
    (node,) = Session("add-nodes 1 inflight=2").world.nodes
    assert node.history == [Snapshot(0, 0)]
    assert (node.state.commit, node.state.log.last_index) == (0, 0)
    assert not node.state.membership.members()


@pytest.mark.parametrize("options", ["voters=1", "learners=1 index=0", "index=1", "content=x"])
def test_a_starting_snapshot_needs_an_index_above_1(options: str) -> None:
    session = Session()
    text = "index must be specified as > 1 due to bootstrap"
    assert session.run(f"add-nodes 1 {options}") == text
    assert not session.world.nodes


def test_settings_that_make_no_node_are_told() -> None:
    assert "check_quorum" in Session().run("add-nodes 1 read-only=lease-based")
    assert "inflight" in Session().run("add-nodes 1 inflight=0")
    assert Session().run("add-nodes 1 read-only=x") == 'invalid read-only option "x"'
    assert "ParseBool" in Session().run("add-nodes 1 prevote=yes")


# --- proposals --------------------------------------------------------------------------------


def test_a_proposal_is_the_second_argument_byte_for_byte() -> None:
    session = led(1)
    assert session.run('propose 1 "a\\b"') == "ok"
    session.quietly("stabilize")
    assert session.run("raft-log 1") == '1/11 EntryNormal ""\n1/12 EntryNormal "\\"a\\\\b\\""\n'


def test_a_refused_proposal_is_told() -> None:
    session = Session("add-nodes 1 voters=(1,2) index=2")
    assert session.run("propose 1 x") == "raft proposal dropped"
    assert session.run("propose-conf-change 1|v3") == "raft proposal dropped"
    session.run("log-level none")
    assert session.run("propose 1 x") == "raft proposal dropped"
    assert not session.world.nodes[0].has_ready


def test_a_forwarded_proposal_that_is_refused_is_told_at_its_delivery() -> None:
    session = Session("add-nodes 2 voters=(1,2) index=2")
    session.world.in_flight.append(ForwardProposal(2, 1, (Payload(EntryKind.NORMAL, b"x"),)))
    assert session.run("deliver-msgs 1") == (
        '2->1 MsgProp Term:0 Log:0/0 Entries:[0/0 EntryNormal "x"]\nraft proposal dropped\n'
    )
    assert not session.world.nodes[0].has_ready


def test_a_follower_forwards_without_anything_to_tell() -> None:
    session = led(2)
    assert session.run("propose 2 x") == "ok"
    assert session.run("process-ready 2") == (
        "Ready MustSync=false:\nMessages:\n"
        '2->1 MsgProp Term:0 Log:0/0 Entries:[0/0 EntryNormal "x"]\n'
    )


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        ("propose-conf-change 1|v2 l3 r4 u5", "EntryConfChangeV2 v2 l3 r4 u5"),
        ("propose-conf-change 1 v1=true|v2", "EntryConfChange v2"),
        ("propose-conf-change 1 v1=true transition=auto|r2", "EntryConfChange r2"),
        ("propose-conf-change 1 v1=false transition=explicit|v2", "EntryConfChangeV2 v2"),
        ("propose-conf-change 1 transition=implicit|v2", "EntryConfChangeV2 v2"),
    ],
)
def test_a_membership_change_is_proposed(line: str, entry: str) -> None:
    session = led(1)
    assert session.run(line) == "ok"
    assert f"\nEntries:\n1/12 {entry}\n" in session.run("process-ready 1")


def test_transitions_differ_in_what_they_lead_to() -> None:
    for transition, auto_leave in (("implicit", True), ("explicit", False)):
        session = led(1)
        session.quietly(f"propose-conf-change 1 transition={transition}|l2")
        session.quietly("process-ready 1", "process-ready 1")
        membership = session.world.nodes[0].state.membership
        assert membership.is_joint
        assert membership.auto_leave is auto_leave


def test_an_empty_list_asks_to_leave() -> None:
    session = led(1)
    session.quietly("propose-conf-change 1 transition=explicit|l2", "stabilize 1")
    assert session.run("propose-conf-change 1") == "ok"
    session.quietly("stabilize 1")
    node = session.world.nodes[0]
    assert not node.state.membership.is_joint
    assert node.history[-1].membership == node.state.membership


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            "propose-conf-change 1 v1=true|v2 v3",
            "v1 conf change can only have one operation and no transition",
        ),
        (
            "propose-conf-change 1 v1=true",
            "v1 conf change can only have one operation and no transition",
        ),
        (
            "propose-conf-change 1 v1=true transition=implicit|v2",
            "v1 conf change can only have one operation and no transition",
        ),
        ("propose-conf-change 1 transition=x|v2", "unknown transition x"),
        ("propose-conf-change 1 kind=x|v2", "unknown command kind"),
        ("propose-conf-change 1|v", "unknown token v"),
        ("propose-conf-change 1|a1", "unknown input: a1"),
    ],
)
def test_a_change_that_cannot_be_read_is_told(line: str, text: str) -> None:
    session = led(1)
    assert session.run(line) == text
    assert not session.world.nodes[0].has_ready


# --- looking ----------------------------------------------------------------------------------


def test_raft_log_shows_what_is_stored() -> None:
    session = Session("add-nodes 1 voters=1 index=10")
    empty = "log is empty: first index=11, last index=10"
    assert session.run("raft-log 1") == empty
    session.run("campaign 1")
    session.run("process-ready 1")
    assert session.run("raft-log 1") == empty
    session.run("process-ready 1")
    assert session.run("raft-log 1") == '1/11 EntryNormal ""\n'


def test_compacting_prints_the_log_and_moves_storage_and_core() -> None:
    session = led(1)
    session.run("propose 1 x")
    session.quietly("stabilize")
    assert session.run("compact 1 11") == '1/12 EntryNormal "x"\n'
    (node,) = session.world.nodes
    assert node.storage.anchor == (11, 1)
    assert node.state.log.base_index == 11
    refused = "requested index is unavailable due to compaction"
    assert session.run("compact 1 11") == refused
    assert session.run("compact 1 12") == "log is empty: first index=13, last index=12"
    with pytest.raises(AssertionError):
        session.run("compact 1 13")


def test_status_shows_the_peers_of_a_leader_only() -> None:
    session = led(3, "inflight=1")
    session.run("propose 1 x")
    session.quietly("process-ready 1")
    assert session.run("status 1") == (
        "1: StateReplicate match=12 next=13\n"
        "2: StateReplicate match=11 next=13 paused inflight=1[full]\n"
        "3: StateReplicate match=11 next=13 paused inflight=1[full]\n"
    )
    assert session.run("status 2") == "ok"


def test_raft_state_counts_both_halves_as_voters_and_no_learner() -> None:
    session = led(2)
    session.quietly("propose-conf-change 1 transition=explicit|r2 l3", "process-ready 1 2")
    session.quietly("deliver-msgs 2", "process-ready 2", "deliver-msgs 1")
    session.quietly("process-ready 1")
    session.quietly("deliver-msgs 2", "process-ready 2", "add-nodes 1")
    membership = session.world.nodes[1].state.membership
    assert (membership.voters, membership.outgoing) == ((1,), (1, 2))
    assert session.run("raft-state") == (
        "1: StateLeader (Voter) Term:1 Lead:1\n"
        "2: StateFollower (Voter) Term:1 Lead:1\n"
        "3: StateFollower (Non-Voter) Term:0 Lead:0\n"
    )


# --- other inputs -----------------------------------------------------------------------------


def test_ticks_count_as_many_as_the_command_says() -> None:
    session = Session("add-nodes 1 voters=(1,2) index=10")
    (node,) = session.world.nodes
    assert session.run("set-randomized-election-timeout 1 timeout=5") == "ok"
    session.run("tick-heartbeat 1")
    assert node.state.election_elapsed == 1
    session.run("tick-election 1")
    assert (node.state.election_elapsed, node.state.role) == (4, Role.FOLLOWER)
    session.run("tick-heartbeat 1")
    assert node.state.role is Role.CANDIDATE


def test_leadership_is_handed_over_on_request() -> None:
    session = led(2)
    assert session.run("transfer-leadership from=2 to=2") == "ok"
    assert session.run("process-ready 2") == (
        "Ready MustSync=false:\nMessages:\n2->1 MsgTransferLeader Term:1 Log:0/0\n"
    )
    assert session.run("transfer-leadership from=1 to=2") == "ok"
    assert session.run("process-ready 1") == (
        "Ready MustSync=false:\nMessages:\n1->2 MsgTimeoutNow Term:1 Log:0/0\n"
    )
    assert session.run("propose 1 x") == "raft proposal dropped"


def test_a_leader_is_forgotten_on_request() -> None:
    session = led(2)
    assert session.run("forget-leader 2") == "ok"
    assert session.world.nodes[1].state.leader == 0


def test_an_unreachable_peer_is_probed() -> None:
    session = led(2)
    assert session.run("report-unreachable 1 2") == "ok"
    assert session.run("status 1").split("\n")[1] == "2: StateProbe match=11 next=12"


@pytest.mark.parametrize(
    "line",
    [
        "campaign",
        "campaign 2",
        "campaign 0",
        "compact 1",
        "transfer-leadership from=1",
        "set-randomized-election-timeout 1",
        "report-unreachable 1",
    ],
)
def test_a_command_without_its_arguments_is_no_command(line: str) -> None:
    with pytest.raises(TraceFormatError):
        Session("add-nodes 1").run(line)


def test_a_number_that_is_none_is_told() -> None:
    assert Session().run("campaign x") == 'strconv.ParseUint: parsing "x": invalid syntax'
