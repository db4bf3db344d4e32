"""What every state machine has to keep, as tests that run on yours.

    class TestCounter(MachineSuite):
        commands = st.sampled_from([b"+1", b"-1"])

        def make_machine(self) -> Counter:
            return Counter()

pytest collects the tests of the class; Hypothesis draws the commands, and cuts a failure down to
the fewest and shortest that still fail.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from hypothesis import given, note, settings
from hypothesis import strategies as st

from raftkv.machine import Command, Machine
from raftkv.testing.suites.elsewhere import WORLDS, run_elsewhere
from raftkv.testing.suites.lives import Life, digest_of, live
from raftkv.testing.suites.watch import watched

CHUNK_BYTES_MAX: Final = 2**20
_ELSEWHERE_EXAMPLES: Final = 25

Slices = list[list[bytes]]
"""Commands, as the node may hand them to one call of apply after the other."""


class MachineSuite(ABC):
    """Tests of a state machine, in memory or on disk. Subclass it as ``Test...``.

    Commands must be ones that the machine takes: an exception from ``apply`` stops every member of
    a cluster, and fails the test that meets it.
    """

    commands: ClassVar[st.SearchStrategy[bytes]]
    """What may be proposed; draw few different keys, so that commands meet each other."""
    commands_max: ClassVar[int] = 30
    """How many in one history."""
    examples_max: ClassVar[int | None] = None
    """Histories for each test; None: as many as the Hypothesis profile says."""

    @abstractmethod
    def make_machine(self) -> Machine[object]:
        """A new machine in its first state; called often."""

    # --- tests ----------------------------------------------------------------------------------

    def test_the_slices_of_apply_make_no_difference(self) -> None:
        """The node hands commands over as they come; results and state depend on them alone."""

        def run(slices: Slices) -> None:
            one, other = self._live(), self._live()
            sliced = [result for part in slices for result in one.apply(part)]
            single = [other.apply([command])[0] for part in slices for command in part]
            _same(sliced, single, "results of the same commands in other slices")
            _same(one.image(), other.image(), "snapshots after the same commands in other slices")

        self._check(run)

    def test_each_command_has_one_result(self) -> None:
        """Results are matched to commands by their place."""

        def run(slices: Slices) -> None:
            life = self._live()
            for part in slices:
                count = len(life.apply(part))
                assert count == len(part), f"{len(part)} commands gave {count} results"

        self._check(run)

    def test_a_snapshot_at_any_point_gives_the_same_state_back(self) -> None:
        """A member that restores goes on as one that applied everything."""

        def run(slices: Slices) -> None:
            life = self._live()
            for at, part in enumerate(slices):
                image = life.image()
                restored = self._live()
                # Whoever restores had another state before: nothing of it may remain.
                restored.apply([command for rest in slices[at:] for command in rest])
                restored.restore(image)
                _same(
                    restored.image(),
                    image,
                    f"the snapshot after slice {at}, and one of what it restores",
                )
                _same(
                    restored.apply(part), life.apply(part), f"results of slice {at} after a restore"
                )
                _same(
                    restored.image(), life.image(), f"states after slice {at}, once from a snapshot"
                )

        self._check(run)

    def test_a_snapshot_is_of_the_moment_in_which_it_was_asked_for(self) -> None:
        """An on-disk machine goes on while its image is read; in memory it is drained at once."""

        def run(slices: Slices) -> None:
            life = self._live()
            for part in slices:
                image, chunks = life.image(), life.begin_image()
                if life.applies_beside_images:
                    life.apply(part)
                _same(tuple(chunks), image, "a snapshot, and one that was read while commands came")
                if not life.applies_beside_images:
                    life.apply(part)

        self._check(run)

    def test_chunks_of_a_snapshot_are_small(self) -> None:
        """At most 1 MiB each: an image travels and is restored chunk by chunk."""

        def run(slices: Slices) -> None:
            life = self._live()
            for part in slices:
                life.apply(part)
            for chunk in life.image():
                size = len(chunk)
                assert size <= CHUNK_BYTES_MAX, (
                    f"a chunk of {size} bytes, more than {CHUNK_BYTES_MAX}"
                )

        self._check(run)

    def test_nothing_but_the_commands_is_asked(self) -> None:
        """No clock, no chance, no environment, no files: they differ between members."""

        def run(slices: Slices) -> None:
            life = self._live()
            for part in slices:
                with watched() as asked:
                    life.apply(part)
                    image = life.image()
                assert not asked, f"the machine asks for {', '.join(dict.fromkeys(asked))}"
                restored = self._live()
                with watched() as asked:
                    restored.restore(image)
                assert not asked, f"restoring asks for {', '.join(dict.fromkeys(asked))}"

        self._check(run)

    def test_other_processes_come_to_the_same(self) -> None:
        """Under other hash seeds, in other time zones, languages and directories."""
        histories: list[Slices] = []
        self._check(histories.append, examples_max=_ELSEWHERE_EXAMPLES)
        histories.sort(key=lambda one: (sum(map(len, one)), one))
        here = [digest_of(self._live(), one) for one in histories]
        for world in WORLDS:
            there = run_elsewhere(type(self), histories, world)
            for slices, mine, theirs in zip(histories, here, there, strict=True):
                assert mine == theirs, (
                    f"results or state depend on the process: with {dict(world)} they are"
                    f" others after {slices}"
                )

    # --- how ------------------------------------------------------------------------------------

    def _live(self) -> Life:
        return live(self.make_machine())

    def _check(self, run: Callable[[Slices], None], *, examples_max: int | None = None) -> None:
        profile = settings(deadline=None)
        examples = examples_max or self.examples_max or profile.max_examples

        @settings(profile, max_examples=examples)
        @given(_slices(self.commands, self.commands_max))
        def checked(slices: Slices) -> None:
            note(f"slices of commands: {slices}")
            run(slices)

        checked()


def _slices(commands: st.SearchStrategy[bytes], count: int) -> st.SearchStrategy[Slices]:
    return st.lists(st.lists(commands, min_size=1, max_size=5), max_size=max(1, count // 3))


def _same(one: Sequence[object], other: Sequence[object], what: str) -> None:
    assert list(one) == list(other), f"{what} differ: {one!r} and {other!r}"


__all__ = ["CHUNK_BYTES_MAX", "Command", "MachineSuite"]
