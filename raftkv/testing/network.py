"""Who can reach whom, and how long it takes."""

from __future__ import annotations

from attrs import define, field

from raftkv.testing.choices import Choices
from raftkv.testing.options import Faults


@define(slots=True)
class Network:
    """Directed links between members: cut ones lose everything, the others some, late or twice."""

    faults: Faults
    cuts: set[tuple[int, int]] = field(factory=set[tuple[int, int]])
    """(sender, to); looked up, never iterated over."""

    def reaches(self, sender: int, to: int) -> bool:
        """Whether a message can pass now."""
        return (sender, to) not in self.cuts

    def delays(self, choices: Choices) -> tuple[int, ...]:
        """When the copies of one message arrive, in units from now; none if it is lost."""
        faults = self.faults
        if faults.loss and choices.chance(faults.loss):
            return ()
        if faults.duplication and choices.chance(faults.duplication):
            # The second copy may be very late: an answer from another time.
            return self._delay(choices), 1 + choices.choose(400)
        return (self._delay(choices),)

    def _delay(self, choices: Choices) -> int:
        faults = self.faults
        delay = 1
        if faults.jitter:
            delay += choices.choose(faults.jitter + 1)
        if faults.late and choices.chance(faults.late):
            delay += choices.choose(faults.late_units + 1)
        return delay

    def isolate(self, node: int, others: list[int], *, inward: bool, outward: bool) -> None:
        """Cut one member off, in one direction or both."""
        for other in others:
            if other != node:
                if outward:
                    self.cuts.add((node, other))
                if inward:
                    self.cuts.add((other, node))

    def split(self, left: list[int], right: list[int]) -> None:
        """Cut every link between two groups; a member in neither bridges them."""
        for one in left:
            for other in right:
                self.cuts.add((one, other))
                self.cuts.add((other, one))

    def heal(self) -> None:
        """Mend every link."""
        self.cuts.clear()
