"""A state machine with a bug that no plain test meets, found and cut down in a simulated cluster.

``Tickets`` hands out locks, each with a number that must never be used twice: whoever was given a
number too late can be told from whoever has the lock now. Alone it works. Three members of a
cluster run it in virtual time here, while Hypothesis crashes and restarts them; what it finds is
cut down to the steps that matter.

Run it: ``python examples/find_the_bug.py``; ``--html FILE`` writes a page to step through.
"""

from __future__ import annotations

import json
import logging
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

import raftkv
from raftkv.testing.story import story_of
from raftkv.testing.suites.cluster import ClusterMachine
from raftkv.testing.viewer import write_html


class Tickets:
    """Locks by name. ``take NAME`` answers a number, or None if it is taken; ``give NAME``."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}
        self.last = 0

    def apply(self, commands: Sequence[raftkv.Command]) -> Sequence[int | None]:
        """Take or give back."""
        return [self._one(*command.data.decode().split()) for command in commands]

    def _one(self, word: str, name: str) -> int | None:
        if word == "give":
            return self.taken.pop(name, None)
        if name in self.taken:
            return None
        self.last += 1
        self.taken[name] = self.last
        return self.last

    def snapshot(self) -> Iterator[bytes]:
        """The state as bytes."""
        yield json.dumps(self.taken, sort_keys=True).encode()

    def restore(self, chunks: Iterable[bytes]) -> None:
        """The state from bytes. Here is the bug: the highest number may have been given back."""
        self.taken = json.loads(b"".join(chunks))
        self.last = max(self.taken.values(), default=0)


class TicketsInACluster(ClusterMachine):
    """Three members that take and give one lock, amid crashes and cuts."""

    commands = st.sampled_from([b"take it", b"give it"])

    def make_machine(self) -> Tickets:
        """A new one for each start of a member."""
        return Tickets()


def find() -> AssertionError | None:
    """What is wrong with Tickets, by the shortest way there; None if nothing was found."""
    tries = settings(
        TicketsInACluster.TestCase.settings,
        max_examples=200,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        print_blob=False,
    )
    try:
        run_state_machine_as_test(TicketsInACluster, settings=tries)
    except AssertionError as error:
        return error
    return None


def main() -> None:
    """Look for the bug and tell its story."""
    parser = ArgumentParser(description="Find a bug in a state machine.")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the whole story as a page")
    page: Path | None = parser.parse_args().html
    logging.disable()  # members tell of the messages that a fault cost them
    found = find()
    if found is None:
        print("nothing was found")
        return
    print(f"Wrong: {found}\n")
    print(found.__notes__[-1])  # above it are the steps as they were found, many more
    story = story_of(found)
    if page is not None and story is not None:
        write_html(story, page)
        print(f"\nThe whole story: {page}")


if __name__ == "__main__":
    main()
