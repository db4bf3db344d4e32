"""Where old bugs are played again: a world moved by hand, with holes that a seed fills.

Every scenario fixes what matters and leaves the rest open: who plays which part, how much was
written before, which of several links is faster, how long things last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NoReturn

from attrs import frozen

from raftkv.core import (
    SAFEST,
    AppendEntries,
    Campaign,
    InstallSnapshot,
    Message,
    Role,
    TransferLeader,
)
from raftkv.testing.choices import SeededChoices
from raftkv.testing.invariants import broken
from raftkv.testing.member import Member
from raftkv.testing.mutants.patch import FilePatch, Hunk
from raftkv.testing.options import Options, Settings
from tests.core.worlds import ByHand

PLAIN: Settings = {
    "election_ticks": 3,
    "campaign_when_stored": True,
    "snapshots_for_members": True,
}
SAFE: Settings = {**SAFEST, "election_ticks": 3}
_ROUNDS_MAX = 400


class Stage(ByHand):
    """A world in which messages keep their order on each link, unless they are held."""

    def __init__(self, options: Options, seed: int) -> None:
        self.choices = SeededChoices(seed)
        self.choices.begin()
        self.held: set[tuple[int, int]] = set()
        """Links on which nothing moves by itself."""
        self.slow: set[int] = set()
        """Whose disks stand still."""
        super().__init__(options)

    # --- holes ------------------------------------------------------------------------------

    def cast(self) -> list[Member]:
        """The members, in an order that the seed makes."""
        left = list(self.members.values())
        return [left.pop(self.choices.choose(len(left))) for _ in range(len(left))]

    def chatter(self, leader: Member, least: int = 0) -> None:
        """Some writes, all of which everybody who can be reached has in the end."""
        for _ in range(least + self.choices.choose(3)):
            self.write(leader)
            if self.choices.choose(2):
                self.settle()
        self.settle()

    def wait(self) -> None:
        """A tick or two."""
        self.elapse(self.choices.choose(3))

    # --- what happens -----------------------------------------------------------------------

    def write(self, leader: Member) -> None:
        """Something is proposed; nothing arrives by itself."""
        self.propose(leader, (b"w%d" % self.requests,))
        self.work(leader)

    def settle(self, rounds: int = _ROUNDS_MAX) -> None:
        """Everything that may move does, one link or disk at a time, whichever the seed picks."""
        for _ in range(rounds * 10):
            if not self.nudge():
                return
        raise broken("I51", "a world that does not come to rest")

    def nudge(self) -> bool:
        """One message arrives or one write is stored; False if nothing may move."""
        links = list(dict.fromkeys([self._link(one) for one in self.wire]))
        links = [link for link in links if link not in self.held]
        disks = [one for one in self.living() if one.disk.queue and one.id not in self.slow]
        if not links and not disks:
            return False
        picked = self.choices.choose(len(links) + len(disks))
        if picked < len(links):
            self.pass_on(*links[picked])
        else:
            self.finish(disks[picked - len(links)], 1)
        return True

    def on_pages(self, member: Member) -> None:
        """Committed entries are applied at once."""
        self.apply(member, len(member.pages))

    def pass_on(self, sender: int, to: int, *, keep: bool = False) -> Message:
        """The oldest message of a link arrives; ``keep``: and stays under way."""
        place = next(at for at, one in enumerate(self.wire) if self._link(one) == (sender, to))
        message = self.wire[place]
        self.arrive(place, keep=keep)
        return message

    def take(self, sender: Member, to: Member) -> list[Message]:
        """Take everything on a link off it, to deliver it later or never."""
        link = (sender.id, to.id)
        taken = [one for one in self.wire if self._link(one) == link]
        self.wire = [one for one in self.wire if self._link(one) != link]
        return taken

    def hand(self, messages: Iterable[Message]) -> None:
        """These arrive now."""
        for message in messages:
            self.deliver(message)
            self.work(self.members[message.to])

    def lose(self, *kinds: type) -> None:
        """Everything under way is lost, or everything of these kinds."""
        self.wire = [one for one in self.wire if kinds and not isinstance(one, kinds)]

    def hold(self, *links: tuple[Member, Member]) -> None:
        """Nothing moves on these links by itself."""
        self.held |= {(sender.id, to.id) for sender, to in links}

    def cut_off(self, *members: Member) -> None:
        """Nobody reaches these members, nor they anybody."""
        self.cut |= {one.id for one in members}

    def heal(self) -> None:
        """All links and disks work again."""
        self.cut.clear()
        self.held.clear()
        self.slow.clear()

    def lead(self, member: Member) -> Member:
        """Make a member leader, and everybody who can be reached know."""
        for _ in range(100):
            if member.state.role is Role.LEADER:
                self.settle()
                return member
            if not self.options.number("measured_lease"):
                self.elect(member)
                continue
            # Nobody votes before its promise to the last leader is over: whoever leads hands over.
            for one in self.living():
                if one.state.role is Role.LEADER and one.id not in self.cut:
                    self.transfer(one, member)
            self.settle()
            if self.leader() is not member:
                self.elapse(1)
        raise AssertionError(f"n{member.id} does not become leader")

    def campaign(self, member: Member, *voters: Member) -> None:
        """A member asks for votes, and these answer; nothing else moves."""
        self.feed(member, Campaign())
        self.work(member)
        self.finish(member, len(member.disk.queue))
        for voter in voters:
            self.hand(self.take(member, voter))
            self.finish(voter, len(voter.disk.queue))
            self.hand(self.take(voter, member))

    def transfer(self, leader: Member, to: Member) -> None:
        """Leadership is to be handed over."""
        self.feed(leader, TransferLeader(to.id))
        self.work(leader)

    def die(self, member: Member, kept: int = 0) -> None:
        """A member crashes and starts again."""
        self.crash(member, min(kept, len(member.disk.queue)))
        self.restart(member)
        self.work(member)

    def recover(self) -> None:
        """Everything works again: they must agree, in time."""
        self.heal()
        super().recover()

    def appends(self, messages: Iterable[Message]) -> list[AppendEntries]:
        """Those that bring entries."""
        return [one for one in messages if isinstance(one, AppendEntries) and one.entries]

    def snapshots(self) -> list[InstallSnapshot]:
        """The snapshots under way."""
        return [one for one in self.wire if isinstance(one, InstallSnapshot)]

    @staticmethod
    def _link(message: Message) -> tuple[int, int]:
        return message.sender, message.to


def wrong(what: str) -> NoReturn:
    """Something happened that the scenario is there to exclude."""
    raise broken("zoo", what)


@frozen
class Scenario:
    """An old bug's story."""

    name: str
    play: Callable[[Stage], None]
    options: Options
    mutant: int | FilePatch
    """Bring the bug back: a mutant of tests/mutants, or a change made for it."""
    seeds: int = 8
    """How many fillings are tried; some of them must find the bug."""


def slip(path: str, old: str, new: str) -> FilePatch:
    """A change of a few lines in a file of the package."""
    return FilePatch(path, (Hunk(_lines(old), _lines(new)),))


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.splitlines(keepends=True))
