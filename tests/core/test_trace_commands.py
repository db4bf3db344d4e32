"""Every command of interaction traces: what it prints, its options, its errors."""

from __future__ import annotations

import pytest

from raftkv.core import (
    AppendEntries,
    AppendResponse,
    ForwardProposal,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Payload,
    ReadMode,
    Role,
    Snapshot,
    StorageAppendResponse,
    TimeoutNow,
    TransferLeadership,
)
from raftkv.core.types import EntryKind
from tests.core.trace_commands import InteractionDriver
from tests.core.trace_file import Directive, TraceFormatError, parse_directive


class _Session:
    """A driver fed with directive lines; input follows a ``|``."""

    def __init__(self, *lines: str) -> None:
        self.driver = InteractionDriver()
        self.world = self.driver.world
        for line in lines:
            assert self.run(line) == "ok"

    def run(self, line: str) -> str:
        head, _, text = line.partition("|")
        directive = parse_directive(head)
        return self.driver.handle(Directive(directive.command, directive.arguments, text.strip()))

    def quietly(self, *lines: str) -> None:
        assert self.run("log-level none") == "ok"
        for line in lines:
            assert self.run(line) == "ok"
        assert self.run("log-level debug") == "ok"


def _led(nodes: int = 3, options: str = "") -> _Session:
    """A session whose node 1 leads that many voters, everything settled at index 11."""
    session = _Session()
    voters = ",".join(str(node) for node in range(1, nodes + 1))
    session.quietly(
        f"add-nodes {nodes} voters=({voters}) index=10 {options}", "campaign 1", "stabilize"
    )
    return session


def test_every_command_is_known_and_no_other() -> None:
    assert _Session().driver.commands == {
        *("add-nodes", "campaign", "propose", "propose-conf-change", "stabilize", "process-ready"),
        *("process-append-thread", "process-apply-thread", "deliver-msgs", "raft-log"),
        *("raft-state", "status", "compact", "tick-election", "tick-heartbeat"),
        *("set-randomized-election-timeout", "transfer-leadership", "forget-leader"),
        *("report-unreachable", "send-snapshot", "log-level", "_breakpoint"),
    }
    assert _Session().run("crash 1") == "unknown command"
    assert _Session().run("_breakpoint") == "ok"


# --- add-nodes --------------------------------------------------------------------------------


def test_nodes_are_numbered_in_order_of_creation() -> None:
    session = _Session("add-nodes 1", "add-nodes 2 voters=(7,1) index=5", "add-nodes 0")
    assert [node.id for node in session.world.nodes] == [1, 2, 3]
    assert session.run("raft-state") == (
        "1: StateFollower (Non-Voter) Term:0 Lead:0\n"
        "2: StateFollower (Non-Voter) Term:0 Lead:0\n"
        "3: StateFollower (Non-Voter) Term:0 Lead:0\n"
    )


def test_settings_are_those_of_recorded_runs_unless_overridden() -> None:
    (node,) = _Session("add-nodes 1").world.nodes
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
    (node,) = _Session(
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
    (node,) = _Session("add-nodes 1 prevote=false read-only=safe").world.nodes
    assert not node.config.pre_vote
    assert node.config.read_mode is ReadMode.SAFE


def test_a_starting_snapshot_lies_in_storage_history_and_core() -> None:
    (node,) = _Session("add-nodes 1 voters=(2,1) learners=3 index=10 content=x,y").world.nodes
    snapshot = node.storage.snapshot
    assert node.history == [snapshot]
    assert (snapshot.index, snapshot.term, snapshot.data) == (10, 1, b"x,y")
    assert (snapshot.membership.voters, snapshot.membership.learners) == ((2, 1), (3,))
    assert (node.state.commit, node.state.applied, node.state.log.last_index) == (10, 10, 10)
    assert (node.state.term, node.state.log.last_term) == (0, 1)


def test_a_bare_node_starts_with_nothing() -> None:
    (node,) = _Session("add-nodes 1 inflight=2").world.nodes
    assert node.history == [Snapshot(0, 0)]
    assert (node.state.commit, node.state.log.last_index) == (0, 0)
    assert not node.state.membership.members()


@pytest.mark.parametrize("options", ["voters=1", "learners=1 index=0", "index=1", "content=x"])
def test_a_starting_snapshot_needs_an_index_above_1(options: str) -> None:
    session = _Session()
    text = "index must be specified as > 1 due to bootstrap"
    assert session.run(f"add-nodes 1 {options}") == text
    assert not session.world.nodes


def test_settings_that_make_no_node_are_told() -> None:
    assert "check_quorum" in _Session().run("add-nodes 1 read-only=lease-based")
    assert "inflight" in _Session().run("add-nodes 1 inflight=0")
    assert _Session().run("add-nodes 1 read-only=x") == 'invalid read-only option "x"'
    assert "ParseBool" in _Session().run("add-nodes 1 prevote=yes")


# --- proposals --------------------------------------------------------------------------------


def test_a_proposal_is_the_second_argument_byte_for_byte() -> None:
    session = _led(1)
    assert session.run('propose 1 "a\\b"') == "ok"
    session.quietly("stabilize")
    assert session.run("raft-log 1") == '1/11 EntryNormal ""\n1/12 EntryNormal "\\"a\\\\b\\""\n'


def test_a_refused_proposal_is_told() -> None:
    session = _Session("add-nodes 1 voters=(1,2) index=2")
    assert session.run("propose 1 x") == "raft proposal dropped"
    assert session.run("propose-conf-change 1|v3") == "raft proposal dropped"
    session.run("log-level none")
    assert session.run("propose 1 x") == "raft proposal dropped"
    assert not session.world.nodes[0].has_ready


def test_a_forwarded_proposal_that_is_refused_is_told_at_its_delivery() -> None:
    session = _Session("add-nodes 2 voters=(1,2) index=2")
    session.world.in_flight.append(ForwardProposal(2, 1, (Payload(EntryKind.NORMAL, b"x"),)))
    assert session.run("deliver-msgs 1") == (
        '2->1 MsgProp Term:0 Log:0/0 Entries:[0/0 EntryNormal "x"]\nraft proposal dropped\n'
    )
    assert not session.world.nodes[0].has_ready


def test_a_follower_forwards_without_anything_to_tell() -> None:
    session = _led(2)
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
    session = _led(1)
    assert session.run(line) == "ok"
    assert f"\nEntries:\n1/12 {entry}\n" in session.run("process-ready 1")


def test_transitions_differ_in_what_they_lead_to() -> None:
    for transition, auto_leave in (("implicit", True), ("explicit", False)):
        session = _led(1)
        session.quietly(f"propose-conf-change 1 transition={transition}|l2")
        session.quietly("process-ready 1", "process-ready 1")
        membership = session.world.nodes[0].state.membership
        assert membership.is_joint
        assert membership.auto_leave is auto_leave


def test_an_empty_list_asks_to_leave() -> None:
    session = _led(1)
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
    session = _led(1)
    assert session.run(line) == text
    assert not session.world.nodes[0].has_ready


# --- Ready ------------------------------------------------------------------------------------


def test_one_ready_is_printed_plainly_and_several_under_heads() -> None:
    session = _Session("add-nodes 2 voters=(1,2) index=10")
    assert session.run("process-ready 2") == "<empty Ready>"
    session.run("campaign 1")
    assert session.run("process-ready 2 1") == (
        "> 2 handling Ready\n"
        "  <empty Ready>\n"
        "> 1 handling Ready\n"
        "  Ready MustSync=true:\n"
        "  Lead:0 State:StateCandidate\n"
        "  HardState Term:1 Vote:1 Commit:10\n"
        "  Messages:\n"
        "  1->2 MsgVote Term:1 Log:1/10\n"
    )


def test_a_synchronous_ready_is_stored_applied_sent_and_reported() -> None:
    session = _led(2)
    session.run("propose 1 x")
    session.run("process-ready 1")
    node = session.world.nodes[0]
    assert node.storage.last_index == 12
    assert node.storage.hard_state.commit == 11
    assert [type(message) for message in session.world.in_flight] == [AppendEntries]
    assert node.state.unstable == 13
    session.quietly("stabilize")
    assert [(one.index, one.data) for one in node.history] == [(10, b""), (11, b""), (12, b"x")]
    assert node.state.applied == 12
    assert node.state.snapshot == node.history[-1]


def test_an_asynchronous_ready_hands_work_to_the_threads() -> None:
    session = _led(1, "async-storage-writes=true")
    session.run("propose 1 x")
    assert session.run("process-ready 1") == (
        "Ready MustSync=true:\n"
        "Entries:\n"
        '1/12 EntryNormal "x"\n'
        "Messages:\n"
        '1->AppendThread MsgStorageAppend Term:0 Log:0/0 Entries:[1/12 EntryNormal "x"]'
        " Responses:[\n"
        "  1->1 MsgAppResp Term:1 Log:0/12\n"
        "  AppendThread->1 MsgStorageAppendResp Term:1 Log:1/12\n"
        "]\n"
    )
    node = session.world.nodes[0]
    assert node.storage.last_index == 11
    assert session.run("process-append-thread 1") == (
        "Processing:\n"
        '1->AppendThread MsgStorageAppend Term:0 Log:0/0 Entries:[1/12 EntryNormal "x"]\n'
        "Responses:\n"
        "1->1 MsgAppResp Term:1 Log:0/12\n"
        "AppendThread->1 MsgStorageAppendResp Term:1 Log:1/12\n"
    )
    assert node.storage.last_index == 12
    assert node.state.unstable == 12
    assert session.run("process-append-thread 1") == "no append work to perform"
    assert session.run("process-apply-thread 1") == "no apply work to perform"
    assert session.run("deliver-msgs 1 drop=1") == (
        "1->1 MsgAppResp Term:1 Log:0/12\nAppendThread->1 MsgStorageAppendResp Term:1 Log:1/12\n"
    )
    session.run("process-ready 1")
    assert session.run("process-apply-thread 1 1") == (
        "> 1 processing apply thread\n"
        "  Processing:\n"
        '  1->ApplyThread MsgStorageApply Term:0 Log:0/0 Entries:[1/12 EntryNormal "x"]\n'
        "  Responses:\n"
        '  ApplyThread->1 MsgStorageApplyResp Term:0 Log:0/0 Entries:[1/12 EntryNormal "x"]\n'
        "> 1 processing apply thread\n"
        "  no apply work to perform\n"
    )
    assert node.history[-1].data == b"x"
    assert node.state.applied == 11
    session.run("deliver-msgs 1")
    assert node.state.applied == 12


def test_storage_threads_work_in_order_under_heads() -> None:
    session = _Session("add-nodes 2 voters=(1,2) index=10 async-storage-writes=true")
    session.run("campaign 2")
    session.run("process-ready 2")
    assert session.run("process-append-thread 1 2") == (
        "> 1 processing append thread\n"
        "  no append work to perform\n"
        "> 2 processing append thread\n"
        "  Processing:\n"
        "  2->AppendThread MsgStorageAppend Term:1 Log:0/0 Commit:10 Vote:2\n"
        "  Responses:\n"
        "  2->2 MsgVoteResp Term:1 Log:0/0\n"
    )
    assert session.world.nodes[1].storage.hard_state.vote == 2


def test_a_snapshot_and_entries_in_one_ready_cannot_be_stored() -> None:
    session = _led(2)
    session.quietly("add-nodes 1")
    session.quietly("propose-conf-change 1|l3", "stabilize 1 2", "deliver-msgs drop=3")
    members = session.world.nodes[0].state.membership
    snapshot = session.world.nodes[0].history[-1]
    assert 3 in members.learners
    session.world.in_flight += [InstallSnapshot(1, 3, 1, snapshot)]
    session.run("propose 1 x")
    session.run("process-ready 1")
    leader = session.world.nodes[0].state
    entry = leader.log.entry(13)
    session.world.in_flight += [AppendEntries(1, 3, 1, 12, 1, 12, (entry,))]
    session.run("deliver-msgs 3")
    text = session.run("process-ready 3")
    assert text.startswith("Ready MustSync=true:\nLead:1 State:StateFollower\n")
    assert text.endswith(
        "3->1 MsgAppResp Term:1 Log:0/13\ncan't apply snapshot and entries at the same time"
    )


def test_an_error_within_stabilize_follows_what_was_printed() -> None:
    session = _Session("add-nodes 1 voters=(1,2) index=10")
    (node,) = session.world.nodes
    node.storage.install(Snapshot(90, 1))
    session.world.in_flight += [InstallSnapshot(2, 1, 1, Snapshot(50, 1, 0, node.state.membership))]
    text = session.run("stabilize 1")
    assert text.startswith("> 1 receiving messages\n  2->1 MsgSnap Term:1 Log:0/0\n    Snapshot: ")
    assert text.endswith(
        "  1->2 MsgAppResp Term:1 Log:0/50\nrequested index is older than the existing snapshot"
    )


# --- messages ---------------------------------------------------------------------------------


def test_recipients_and_drops_are_taken_in_written_order() -> None:
    session = _Session("add-nodes 2")
    session.world.in_flight += [Heartbeat(9, to, 1, 0) for to in (1, 2, 3, 1)]
    assert session.run("deliver-msgs 2 drop=(3,1) 1") == (
        "9->2 MsgHeartbeat Term:1 Log:0/0\n"
        "dropped: 9->3 MsgHeartbeat Term:1 Log:0/0\n"
        "dropped: 9->1 MsgHeartbeat Term:1 Log:0/0\n"
        "dropped: 9->1 MsgHeartbeat Term:1 Log:0/0\n"
    )
    assert session.run("deliver-msgs 1 2 drop=(3)") == "no messages\n"


def test_a_type_holds_for_all_recipients_wherever_it_stands() -> None:
    session = _Session("add-nodes 2")
    session.world.in_flight += [Heartbeat(9, 1, 1, 0), TimeoutNow(9, 1, 1), TimeoutNow(9, 2, 1)]
    assert session.run("deliver-msgs drop=2 1 type=MsgTimeoutNow") == (
        "dropped: 9->2 MsgTimeoutNow Term:1 Log:0/0\n9->1 MsgTimeoutNow Term:1 Log:0/0\n"
    )
    assert session.world.in_flight == [Heartbeat(9, 1, 1, 0)]
    assert session.run("deliver-msgs 1 type=MsgHup") == "no messages\n"


def test_an_unknown_type_is_no_command() -> None:
    with pytest.raises(TraceFormatError, match="MsgFoo"):
        _Session("add-nodes 1").run("deliver-msgs 1 type=MsgFoo")


def test_what_stays_within_a_node_is_not_dropped() -> None:
    session = _Session("add-nodes 1")
    own = [
        AppendResponse(1, 1, 0, 0),
        StorageAppendResponse(2**64 - 1, 1, 0, 0, 0),
        TransferLeadership(1, 1, 0, 1),
    ]
    session.world.in_flight += [*own, Heartbeat(2, 1, 0, 0)]
    assert session.run("deliver-msgs drop=1") == "dropped: 2->1 MsgHeartbeat Term:0 Log:0/0\n"
    assert session.world.in_flight == own


def test_messages_to_nobody_can_only_be_dropped() -> None:
    session = _Session("add-nodes 1")
    session.world.in_flight += [Heartbeat(1, 4, 1, 0)]
    with pytest.raises(TraceFormatError, match="there is no node 4"):
        session.run("deliver-msgs 4")
    session.world.in_flight += [Heartbeat(1, 4, 1, 0)]
    assert session.run("deliver-msgs drop=4") == "dropped: 1->4 MsgHeartbeat Term:1 Log:0/0\n"
    assert session.run("deliver-msgs 4") == "no messages\n"


def test_an_answer_from_a_stranger_is_told_and_not_taken() -> None:
    session = _led(1)
    before = session.world.nodes[0].state
    session.world.in_flight += [HeartbeatResponse(7, 1, 9)]
    assert session.run("deliver-msgs 1") == (
        "7->1 MsgHeartbeatResp Term:9 Log:0/0\nraft: cannot step as peer not found\n"
    )
    assert session.world.nodes[0].state == before


def test_a_local_message_from_another_node_is_told_and_not_taken() -> None:
    session = _led(1)
    before = session.world.nodes[0].state
    session.world.in_flight += [StorageAppendResponse(2, 1, 1, 11, 1)]
    assert session.run("deliver-msgs 1") == (
        "2->1 MsgStorageAppendResp Term:1 Log:1/11\nraft: cannot step raft local message\n"
    )
    assert session.world.nodes[0].state == before


def test_answers_to_what_is_delivered_wait_for_a_ready() -> None:
    session = _led(2)
    session.run("tick-heartbeat 1")
    session.run("process-ready 1")
    assert session.run("deliver-msgs 2 1") == "1->2 MsgHeartbeat Term:1 Log:0/0 Commit:11\n"
    assert session.world.in_flight == []


def test_a_snapshot_is_sent_behind_the_cores_back() -> None:
    session = _led(2)
    before = session.world.nodes[0].state
    text = (
        "1->7 MsgSnap Term:1 Log:0/0\n"
        "  Snapshot: Index:11 Term:1 ConfState:Voters:[1 2] VotersOutgoing:[] Learners:[]"
        " LearnersNext:[] AutoLeave:false"
    )
    assert session.run("send-snapshot 1 7") == text
    assert session.world.nodes[0].state == before
    assert session.run("deliver-msgs drop=7") == f"dropped: {text}\n"


# --- stabilize --------------------------------------------------------------------------------


def test_stabilize_works_in_rounds_over_all_nodes() -> None:
    session = _Session("add-nodes 2 voters=(1,2) index=10", "campaign 1")
    heads = [line for line in session.run("stabilize").split("\n") if line.startswith(">")]
    assert heads == [
        "> 1 handling Ready",
        "> 2 receiving messages",
        "> 2 handling Ready",
        "> 1 receiving messages",
        "> 1 handling Ready",
        "> 2 receiving messages",
        "> 2 handling Ready",
        "> 1 receiving messages",
        "> 1 handling Ready",
        "> 2 receiving messages",
        "> 2 handling Ready",
        "> 1 receiving messages",
    ]
    assert session.run("stabilize") == "ok"


def test_stabilize_prints_one_head_for_all_the_work_of_a_thread() -> None:
    session = _led(1, "async-storage-writes=true")
    for data in ("x", "y"):
        session.run(f"propose 1 {data}")
        session.quietly("process-ready 1")
    lines = session.run("stabilize").split("\n")
    heads = [line for line in lines if line.startswith(">")]
    assert heads == [
        "> 1 processing append thread",
        "> 1 receiving messages",
        "> 1 handling Ready",
        "> 1 processing append thread",
        "> 1 processing apply thread",
        "> 1 receiving messages",
    ]
    assert lines.count("  Processing:") == 4


def test_stabilize_leaves_other_nodes_and_their_messages_alone() -> None:
    session = _Session("add-nodes 3 voters=(1,2,3) index=10", "campaign 1")
    session.run("stabilize 2 1")
    assert {message.to for message in session.world.in_flight} == {3}
    assert session.world.nodes[2].state.term == 0
    assert session.world.nodes[0].state.role is Role.LEADER


def test_stabilize_takes_nodes_in_the_order_given() -> None:
    session = _Session("add-nodes 3 voters=(1,2,3) index=10", "campaign 2", "campaign 3")
    heads = [line for line in session.run("stabilize 3 2").split("\n") if line.startswith(">")]
    assert heads[:2] == ["> 3 handling Ready", "> 2 handling Ready"]


def test_stabilize_may_be_quiet_for_itself_alone() -> None:
    session = _Session("add-nodes 1 voters=1 index=10", "campaign 1")
    assert session.run("stabilize log-level=none") == "ok"
    assert session.run("raft-state") == "1: StateLeader (Voter) Term:1 Lead:1\n"
    session.run("propose 1 x")
    session.run("log-level none")
    assert session.run("stabilize 1 log-level=info") != "ok"
    assert session.run("raft-state") == "ok"


@pytest.mark.parametrize("level", ["debug", "INFO", "Warn", "error", "fatal"])
def test_every_level_but_none_prints(level: str) -> None:
    session = _Session("add-nodes 1")
    session.run("log-level None")
    assert session.run("raft-state") == "ok"
    assert session.run(f"log-level {level}") == "ok"
    assert session.run("raft-state") != "ok"


def test_an_unknown_level_is_told() -> None:
    text = "log levels must be either of [DEBUG INFO WARN ERROR FATAL NONE]"
    assert _Session().run("log-level loud") == text
    assert _Session().run("stabilize log-level=loud") == text


# --- looking ----------------------------------------------------------------------------------


def test_raft_log_shows_what_is_stored() -> None:
    session = _Session("add-nodes 1 voters=1 index=10")
    empty = "log is empty: first index=11, last index=10"
    assert session.run("raft-log 1") == empty
    session.run("campaign 1")
    session.run("process-ready 1")
    assert session.run("raft-log 1") == empty
    session.run("process-ready 1")
    assert session.run("raft-log 1") == '1/11 EntryNormal ""\n'


def test_compacting_prints_the_log_and_moves_storage_and_core() -> None:
    session = _led(1)
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
    session = _led(3, "inflight=1")
    session.run("propose 1 x")
    session.quietly("process-ready 1")
    assert session.run("status 1") == (
        "1: StateReplicate match=12 next=13\n"
        "2: StateReplicate match=11 next=13 paused inflight=1[full]\n"
        "3: StateReplicate match=11 next=13 paused inflight=1[full]\n"
    )
    assert session.run("status 2") == "ok"


def test_raft_state_counts_both_halves_as_voters_and_no_learner() -> None:
    session = _led(2)
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
    session = _Session("add-nodes 1 voters=(1,2) index=10")
    (node,) = session.world.nodes
    assert session.run("set-randomized-election-timeout 1 timeout=5") == "ok"
    session.run("tick-heartbeat 1")
    assert node.state.election_elapsed == 1
    session.run("tick-election 1")
    assert (node.state.election_elapsed, node.state.role) == (4, Role.FOLLOWER)
    session.run("tick-heartbeat 1")
    assert node.state.role is Role.CANDIDATE


def test_leadership_is_handed_over_on_request() -> None:
    session = _led(2)
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
    session = _led(2)
    assert session.run("forget-leader 2") == "ok"
    assert session.world.nodes[1].state.leader == 0


def test_an_unreachable_peer_is_probed() -> None:
    session = _led(2)
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
        _Session("add-nodes 1").run(line)


def test_a_number_that_is_none_is_told() -> None:
    assert _Session().run("campaign x") == 'strconv.ParseUint: parsing "x": invalid syntax'
