"""What must hold, by number: who looks at it, on which level, and what nobody looks at yet.

Four places look. *Cores* (L1): the methods of :class:`~raftkv.testing.invariants.Checker`, after
every step of a simulated core. *Nodes* (L2, L3): :mod:`raftkv.testing.nodes`, which hands the same
Checker the cores of whole nodes, and adds what only nodes have. *Explorer*:
:mod:`raftkv.testing.explore.laws`, in every state that a small cluster can reach. *Live*: the
shipped code itself, in every process, whatever flags Python is started with.

``python -m raftkv.testing simulate --help`` and ``explore --help`` tell how to run them.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen


@frozen
class Invariant:
    """One rule. Empty: nobody looks at it there."""

    number: str
    says: str
    cores: str = ""
    """Methods and functions of :mod:`raftkv.testing.invariants`, the world or the simulation."""
    nodes: str = ""
    """``Checker`` where nodes are judged as cores are; else modules of raftkv.testing."""
    explorer: bool = False
    live: str = ""
    """Where shipped code looks."""
    lacks: str = ""
    """What has no subject yet, or cannot be told on a level."""


INVARIANTS: Final = (
    Invariant(
        "I1", "the term never decreases", "stepped", "Checker", True, "core.step, core.guard"
    ),
    Invariant(
        "I2",
        "one vote in a term, across restarts too",
        "stepped, _voted, sweep",
        "Checker",
        True,
        "core.step, core.guard",
    ),
    Invariant(
        "I3",
        "applied <= commit <= last index, no gap below the log or in it",
        "_positions_fit, _log_changed",
        "Checker",
        True,
        "core.step, core.guard, core.log",
    ),
    Invariant(
        "I4",
        "commit and applied never go back",
        "_commit_moved, _positions_fit",
        "Checker",
        True,
        "core.step, core.guard",
    ),
    Invariant(
        "I5",
        "terms do not decrease along the log",
        "_log_changed",
        "Checker",
        True,
        "core.log, core.guard",
    ),
    Invariant(
        "I6",
        "a leader never rewrites its log",
        "_first_new",
        "Checker",
        True,
        "core.transitions, core.guard",
    ),
    Invariant(
        "I7",
        "match never goes back while one leads, next > match",
        "_progress_moved",
        "Checker",
        True,
        "core.guard",
    ),
    Invariant(
        "I8",
        "nothing at or below commit is truncated",
        "_log_changed",
        "Checker",
        True,
        "core.follower, core.guard",
    ),
    Invariant(
        "I9",
        "nothing leaves that depends on what is not durable",
        "leaves_at_once, leaves_after_write, _has_acknowledged, _elected",
        "nodes.checks, nodes.durable",
        True,
    ),
    Invariant("I10", "at most one leader in a term", "_elected", "Checker", True),
    Invariant("I11", "equal index and term, equal log", "_log_changed, _work_off", "Checker", True),
    Invariant("I12", "a new leader has what was committed", "_elected", "Checker", True),
    Invariant(
        "I13",
        "machines apply the same, in order, and are alike",
        "applies, applied, restored, membership_changed",
        "nodes.checks",
    ),
    Invariant("I14", "only own terms are committed by counting", "_commit_moved", "Checker", True),
    Invariant(
        "I15", "what is committed is durable on a quorum", "_durable_on_quorum", "Checker", True
    ),
    Invariant("I16", "what is committed stays committed", "_commit_moved, sweep", "Checker", True),
    Invariant(
        "I17",
        "at most one change of membership is not committed",
        "_change_appended",
        "Checker",
        True,
        "core.proposals, core.guard",
    ),
    Invariant(
        "I18",
        "consecutive configurations share quorums",
        "_first_to_change",
        "Checker",
        True,
    ),
    Invariant(
        "I19", "a joint configuration is left only when in it", "_change_appended", "nodes.checks"
    ),
    Invariant(
        "I20",
        "learners and removed members neither campaign nor count",
        "_role_changed, _elected",
        "Checker",
        True,
    ),
    Invariant("I21", "a removed id never comes back", "_first_to_change", "Checker"),
    Invariant(
        "I22",
        "who recovers neither votes nor acknowledges, and is not counted",
        "_recovering, _durable_on_quorum, _progress_moved",
        "Checker",
        lacks="the explorer has no members that recover",
    ),
    Invariant(
        "I23",
        "disk identity and boots never go back, as peers see them",
        "",
        "nodes.checks",
        lacks="bare cores have neither",
    ),
    Invariant(
        "I24",
        "reads see all that was committed when they were asked",
        "answered, _answer",
        "Checker",
    ),
    Invariant("I25", "lease reads do, too", "answered", "Checker"),
    Invariant(
        "I26",
        "one revision per command that writes, equal on all",
        nodes="histories.revisions",
        live="kv.machine",
    ),
    Invariant(
        "I27",
        "no reply shows a later revision than it names",
        nodes="histories.revisions",
        live="kv.machine",
    ),
    Invariant(
        "I28",
        "create and mod revision and version count",
        nodes="histories.revisions",
        live="kv.rows",
    ),
    Invariant(
        "I29", "nobody sees a part of a transaction", nodes="histories.revisions, nodes.chronicle"
    ),
    Invariant(
        "I30",
        "compaction removes only what is superseded, and hides the rest",
        nodes="nodes.clients, histories.revisions",
        live="kv.compaction",
    ),
    Invariant("I31", "equal rows at equal applied index, whatever was swept", nodes="nodes.checks"),
    Invariant("I32", "watchers see revisions in order", nodes="nodes.chronicle"),
    Invariant("I33", "... each once", nodes="nodes.chronicle"),
    Invariant("I34", "... and all of them", nodes="nodes.chronicle, nodes.run"),
    Invariant("I35", "... none in part", nodes="nodes.chronicle"),
    Invariant(
        "I36", "a watch goes on where it ended, or hears what is lost", nodes="nodes.chronicle"
    ),
    Invariant("I37", "a progress mark is ahead of nothing", nodes="nodes.chronicle"),
    Invariant("I38", "a watch from now or later shows nothing of before", nodes="nodes.chronicle"),
    Invariant("I39", "events are what happened, filtered as asked", nodes="nodes.chronicle"),
    Invariant("I40", "nothing is delivered before it is committed", nodes="nodes.chronicle"),
    Invariant("I41", "no lease ends before its time", nodes="nodes.chronicle"),
    Invariant("I42", "a lease that ended is never renewed", nodes="nodes.chronicle"),
    Invariant(
        "I43",
        "the end of a lease deletes all its keys in one revision",
        nodes="histories.revisions",
    ),
    Invariant(
        "I44",
        "a change of leader takes nothing from a lease",
        nodes="nodes.chronicle, nodes.leasing",
    ),
    Invariant("I45", "what is asked again in a session is done once", nodes="histories.revisions"),
    Invariant("I46", "members decide alike who may do what", lacks="there are no permissions"),
    Invariant(
        "I47",
        "what was acknowledged is in the log, once",
        "applied",
        "histories.revisions, nodes.lists",
    ),
    Invariant(
        "I48", "histories are strictly serializable", nodes="histories.revisions, nodes.lists"
    ),
    Invariant("I49", "what surely failed never shows", nodes="histories.revisions, nodes.lists"),
    Invariant("I50", "stale reads are of a true past", nodes="histories.revisions"),
    Invariant(
        "I51",
        "queues and windows keep their bounds",
        "work, _progress_moved",
        "nodes.checks",
        True,
        "core.guard, core.drain, node.waiters",
    ),
    Invariant(
        "I52",
        "nothing is left when a node has stopped",
        "",
        "nodes.stage, nodes.cancel",
        lacks="L1 has no tasks",
    ),
    Invariant("I53", "all agree soon once nothing goes wrong", "recover", "nodes.liveness"),
    Invariant(
        "I54", "terms do not inflate once nothing goes wrong", "_judge_terms", "nodes.liveness"
    ),
)
