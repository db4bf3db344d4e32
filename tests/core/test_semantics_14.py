"""RAFT_SEMANTICS section 14, item by item: what the recorded traces are blind to, and who looks.

Each item names tests of this folder; the test at the end sees that they are there.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

READS = "test_paper_8_reads"
TRANSFER = "test_paper_transfer_and_prevote"
ELECTIONS = "test_paper_5_elections"
REPLICATION = "test_paper_5_replication"
MEMBERSHIP = "test_paper_6_membership"
SNAPSHOTS = "test_paper_7_snapshots"
FLOW = "test_semantics_flow"
WRITES = "test_semantics_writes"
LEASE = "test_semantics_lease"

ITEMS: dict[str, tuple[tuple[str, str], ...]] = {
    "reads by a quorum round": (
        (READS, "test_6_4_a_read_is_answered_when_a_quorum_has_confirmed_the_leader"),
        (READS, "test_6_4_no_read_is_answered_before_a_commit_in_the_leaders_term"),
        (READS, "test_6_4_a_deposed_leader_never_answers"),
    ),
    "reads by lease": (
        (READS, "test_6_4_1_with_a_lease_the_leader_answers_at_once"),
        (READS, "test_6_4_1_a_lease_read_too_waits_for_a_commit_in_the_leaders_term"),
        (LEASE, "test_a_plain_lease_holds_from_quorum_check_to_quorum_check"),
    ),
    "leadership transfer: timeout": (
        (TRANSFER, "test_3_10_a_transfer_ends_after_an_election_timeout_and_proposals_go_on"),
    ),
    "leadership transfer: refusal of proposals": (
        (TRANSFER, "test_3_10_no_proposal_is_taken_meanwhile"),
    ),
    "leadership transfer: lease override": (
        (TRANSFER, "test_3_10_the_target_campaigns_without_pre_vote_and_overrides_leases"),
        (LEASE, "test_a_handed_over_leadership_is_given_votes_in_spite_of_the_promise"),
    ),
    "leadership transfer: learner and self targets": (
        (TRANSFER, "test_3_10_learners_strangers_and_oneself_are_no_targets"),
        (TRANSFER, "test_3_10_naming_oneself_cancels_a_pending_transfer"),
    ),
    "a lost election": (
        (ELECTIONS, "test_5_2_a_candidate_that_cannot_win_any_more_follows"),
        (TRANSFER, "test_9_6_a_lost_pre_vote_leaves_a_follower_of_the_same_term"),
        (FLOW, "test_14_in_a_joint_configuration_losing_either_half_loses_the_election"),
    ),
    "no entry of an old term is committed by count": (
        (REPLICATION, "test_5_4_2_entries_of_old_terms_are_not_committed_by_counting"),
        (
            REPLICATION,
            "test_5_4_2_figure_8_a_replicated_entry_of_an_old_term_may_still_be_overwritten",
        ),
    ),
    "campaign with unapplied configuration changes": (
        (FLOW, "test_14_nobody_campaigns_beside_an_unapplied_change"),
        (FLOW, "test_14_nor_when_it_is_handed_the_lead"),
    ),
    "the pending-index rule": (
        (MEMBERSHIP, "test_4_1_no_change_begins_before_the_last_one_is_applied"),
    ),
    "the pending-index rule after an election": (
        (MEMBERSHIP, "test_4_1_a_new_leader_changes_nothing_before_all_it_found_is_applied"),
    ),
    "automatic leave after a leader change": (
        (FLOW, "test_14_a_new_leader_leaves_the_joint_configuration_of_an_old_one"),
    ),
    "automatic leave, its retry": (
        (FLOW, "test_14_a_leave_that_was_refused_is_tried_again_at_the_next_applied_entry"),
        (FLOW, "test_9_a_leave_is_proposed_once"),
    ),
    "snapshot status reports": (
        (SNAPSHOTS, "test_8_the_reported_outcome_says_where_to_probe"),
        (SNAPSHOTS, "test_8_a_report_counts_in_snapshot_state_only_and_for_known_peers"),
    ),
    "snapshots to inactive peers": (
        (SNAPSHOTS, "test_8_no_snapshot_goes_to_a_peer_that_is_not_active"),
    ),
    "snapshots, fast-forward": (
        (SNAPSHOTS, "test_7_a_snapshot_of_a_prefix_keeps_the_entries_after_it"),
    ),
    "snapshots for non-members": (
        (SNAPSHOTS, "test_8_a_snapshot_that_does_not_know_the_receiver_is_ignored"),
    ),
    "stale rejections": (
        (FLOW, "test_14_a_rejection_at_or_below_match_is_stale_while_streaming"),
        (FLOW, "test_14_a_rejection_of_another_probe_than_the_last_is_stale"),
    ),
    "appends below the commit": (
        (FLOW, "test_14_an_append_below_the_commit_is_accepted_at_the_commit_uncompared"),
    ),
    "accepted index below the last index": (
        (FLOW, "test_14_an_append_is_accepted_up_to_its_own_end_which_may_be_below_ours"),
    ),
    "byte-limited windows": (
        (FLOW, "test_14_a_window_of_bytes_is_full_at_its_limit_and_one_append_may_overshoot"),
    ),
    "message size limits": (
        (FLOW, "test_14_a_message_holds_what_its_limit_allows_but_at_least_one_entry"),
    ),
    "uncommitted size": (
        (FLOW, "test_14_a_proposal_beyond_the_uncommitted_limit_is_refused"),
        (FLOW, "test_14_a_first_oversized_proposal_passes_and_so_do_empty_ones"),
        (FLOW, "test_14_the_uncommitted_size_falls_when_entries_are_applied"),
        (FLOW, "test_14_a_new_leader_counts_from_zero_whatever_its_log_holds"),
    ),
    "apply budget across Readys": (
        (WRITES, "test_what_is_handed_out_and_not_applied_counts_against_the_budget"),
        (WRITES, "test_a_page_holds_what_the_budget_allows_but_at_least_one_entry"),
    ),
    "restart": (
        (SNAPSHOTS, "test_12_a_member_restarts_from_snapshot_hard_state_and_entries"),
        (SNAPSHOTS, "test_12_a_commit_index_outside_the_log_is_fatal"),
    ),
    "forwarding disabled": ((FLOW, "test_14_with_forwarding_disabled_a_follower_refuses"),),
}


@pytest.mark.parametrize("item", ITEMS)
def test_every_item_that_the_traces_are_blind_to_has_its_tests(item: str) -> None:
    assert ITEMS[item]
    for module, test in ITEMS[item]:
        tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert test in names
