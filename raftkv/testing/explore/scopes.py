"""The named scopes: what is explored completely, and what is explored around deep places.

A to C are explored in every test run; the rest by the command. A scope proves something about all
of its worlds and nothing about larger ones, so the deep cases begin from where a prefix led.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from raftkv.core import Change, ChangeKind, MembershipChange
from raftkv.testing.explore.guide import Guide, GuidedScope
from raftkv.testing.explore.scope import PAPER, Scope

_THREE: Final = ((1, 2, 3),)


def _change(*changes: Change) -> tuple[MembershipChange, ...]:
    return (MembershipChange(changes),)


def _voter(node: int) -> Change:
    return Change(ChangeKind.VOTER, node)


def _removed(node: int) -> Change:
    return Change(ChangeKind.REMOVE, node)


# --- prefixes -------------------------------------------------------------------------------


def figure_8(guide: Guide) -> None:
    """Figure 8 of the paper, (c): member 1 leads again, and an old entry of its is on a majority.

    Member 5 led in between, has another entry there, and may be elected still.
    """
    everybody = (1, 2, 3, 4, 5)
    guide.elect(1, 2, 3)
    guide.settle(*everybody)
    guide.propose(1)
    guide.store(1)
    guide.deliver(1, 2)
    guide.store(2)
    for node in (1, 2):
        guide.isolate(node)
    guide.elect(5, 3, 4)
    guide.isolate(5)
    guide.crash(1)
    guide.timeout(1)  # in the term that member 5 led
    guide.store(1)
    guide.isolate(1)
    guide.elect(1, 2, 3)
    for other in (4, 5):
        guide.lose(1, other)
    guide.deliver(1, 3)  # refused: what it follows on is not there
    guide.store(3)
    guide.deliver(3, 1)
    guide.deliver(1, 3)  # the old entry, alone
    guide.store(3)


def joint_half_way(guide: Guide) -> None:
    """Three members become three others: the joint configuration is in force at its leader alone.

    The other two have stored the change and do not know that it is committed.
    """
    guide.elect(1, 2, 3)
    guide.settle(1, 2, 3)
    guide.change(1, 1)
    for other in (2, 3):
        guide.deliver(1, other)
        guide.store(other)
    guide.store(1)
    guide.deliver(2, 1)


def snapshot_half_installed(guide: Guide) -> None:
    """A member that was away is sent an image, and has it, but not on its disk yet."""
    guide.elect(1, 2)
    guide.settle(1, 2)
    guide.isolate(3)
    guide.propose(1)
    guide.settle(1, 2)
    guide.isolate(3)
    guide.image(1)
    while not guide.state(3).incoming:
        guide.beat(1)
        guide.settle(1, 2)
        guide.deliver(1, 3)
        if not guide.state(3).incoming:
            guide.store(3)
            while guide.under_way(3, 1):
                guide.deliver(3, 1)
            while guide.under_way(1, 3) and not guide.state(3).incoming:
                guide.deliver(1, 3)


# --- scopes ---------------------------------------------------------------------------------

_ALL: Final = (
    Scope(
        name="A",
        about="two elections, a proposal",
        elections=2,
        proposals=1,
        alike=_THREE,
    ),
    Scope(
        name="B",
        about="two elections, a lost message, two crashes",
        elections=2,
        drops=1,
        crashes=2,
        alike=_THREE,
    ),
    Scope(
        name="C",
        about="one election, two proposals, a lost message",
        elections=1,
        proposals=2,
        drops=1,
        alike=_THREE,
    ),
    Scope(
        name="D",
        about="two elections, a proposal, a lost message, a crash",
        elections=2,
        proposals=1,
        drops=1,
        crashes=1,
        alike=_THREE,
    ),
    Scope(
        name="E",
        about="three elections, a proposal, a lost message",
        elections=3,
        proposals=1,
        drops=1,
        alike=_THREE,
    ),
    Scope(
        name="F-grow",
        about="two members become three, two elections",
        voters=2,
        joiners=1,
        elections=2,
        beats=1,
        changes=_change(_voter(3)),
        alike=((1, 2),),
    ),
    Scope(
        name="F-shrink",
        about="three members become two, two elections",
        elections=2,
        changes=_change(_removed(3)),
        alike=((1, 2),),
    ),
    Scope(
        name="F-joint",
        about="one of three members is replaced by a joint change, two elections; writes take no"
        " time",
        slow_disks=False,
        joiners=1,
        elections=2,
        beats=1,
        changes=_change(_voter(4), _removed(3)),
        alike=((1, 2),),
    ),
    Scope(
        name="F-pair",
        about="one of two members is replaced by a joint change, two elections",
        voters=2,
        joiners=1,
        elections=2,
        beats=1,
        changes=_change(_voter(3), _removed(2)),
        alike=(),
    ),
    Scope(
        name="G",
        about="two elections, a message that arrives twice, a crash",
        elections=2,
        crashes=1,
        duplicates=1,
        alike=_THREE,
    ),
    Scope(
        name="H",
        about="two elections that ask before they begin",
        elections=2,
        settings={**PAPER, "pre_vote": True},
        alike=_THREE,
    ),
    GuidedScope(
        name="figure-8",
        about="from figure 8 of the paper on, 14 deeds deep",
        voters=5,
        elections=1,
        settings={**PAPER, "append_bytes_max": 0},  # entries travel alone
        alike=(),
        prefix=figure_8,
        depth_max=14,
    ),
    GuidedScope(
        name="joint",
        about="from a joint change half way on, eight deeds deep",
        joiners=1,
        elections=2,
        drops=1,
        crashes=1,
        beats=1,
        changes=_change(_voter(4), _removed(3)),
        alike=((1, 2),),
        prefix=joint_half_way,
        depth_max=8,
    ),
    GuidedScope(
        name="snapshot",
        about="from a snapshot half installed on, ten deeds deep",
        elections=2,
        proposals=1,
        crashes=1,
        images=1,
        beats=1,
        alike=(),
        prefix=snapshot_half_installed,
        depth_max=10,
    ),
)

WALKED: Final = (
    Scope(
        name="walks",
        about="walks of 200 deeds through three members with everything that may happen",
        elections=8,
        proposals=6,
        drops=6,
        crashes=4,
        duplicates=3,
        beats=8,
        images=2,
        link_max=4,
        alike=(),
        depth_max=200,
    ),
    Scope(
        name="walks-joint",
        about="walks of 200 deeds through two membership changes, one of them joint",
        joiners=2,
        elections=8,
        proposals=3,
        drops=4,
        crashes=3,
        beats=12,
        images=2,
        changes=(
            MembershipChange((_voter(4), _removed(3))),
            MembershipChange((_voter(5),)),
        ),
        link_max=4,
        alike=(),
        depth_max=200,
    ),
)

SCOPES: Final[Mapping[str, Scope]] = {scope.name: scope for scope in (*_ALL, *WALKED)}
"""All scopes, by name."""

SMALL: Final = ("A", "B", "C")
"""Those that are explored completely in every test run."""
