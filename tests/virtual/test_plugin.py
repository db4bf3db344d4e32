"""The fixtures for pytest, as a user's own tests meet them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from anyio import pytest_plugin as anyio_plugin

from raftkv.testing import plugin
from raftkv.testing.choices import decode_decisions
from tests.source import ROOT

pytest_plugins = ["pytester"]


@pytest.fixture
def users(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A user's directory, without any plugin but ours."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    return pytester


def run(users: pytest.Pytester, *args: str) -> pytest.RunResult:
    return users.runpytest_inprocess("--color=no", *args, plugins=[plugin])


def run_beside_anyio(users: pytest.Pytester, *args: str) -> pytest.RunResult:
    return users.runpytest_inprocess(
        "--color=no", "-o", "anyio_mode=auto", *args, plugins=[plugin, anyio_plugin]
    )


ELECTION = """
    import anyio, asyncio, pytest

    async def test_election(raft_cluster):
        leader = await raft_cluster.leader()
        with raft_cluster.isolate(leader.name):
            other = await raft_cluster.leader()
            assert other.name != leader.name
        await anyio.sleep(10)
"""


def test_an_async_test_runs_in_virtual_time_without_another_plugin(users: pytest.Pytester) -> None:
    users.makepyfile(ELECTION)
    run(users).assert_outcomes(passed=1)


def test_an_async_test_runs_once_beside_anyio(users: pytest.Pytester) -> None:
    users.makepyfile(ELECTION + "\n    async def test_of_theirs():\n        await anyio.sleep(0)\n")
    result = run_beside_anyio(users, "-v")
    result.assert_outcomes(passed=3)  # ours, and theirs on each backend
    result.stdout.fnmatch_lines(["*::test_election PASSED*", "*::test_of_theirs*asyncio* PASSED*"])


def test_a_test_that_is_not_async_drives_the_cluster(users: pytest.Pytester) -> None:
    users.makepyfile(
        """
        def test_put(raft_cluster, raft_run):
            leader = raft_run(raft_cluster.leader())
            put = raft_run(leader.kv.put("a", b"1"))
            with raft_cluster.pause(leader.name):
                other = raft_run(raft_cluster.leader())
                assert raft_run(other.kv.get("a")).mod_revision == put.revision
        """
    )
    run(users).assert_outcomes(passed=1)


def test_the_marker_says_what_kind_of_cluster(users: pytest.Pytester) -> None:
    users.makepyfile(
        """
        import pytest
        from raftkv.node.settings import Settings
        from raftkv.testing.nodes import Conditions, Weather

        pytestmark = pytest.mark.raftkv(size=1, settings=Settings(tick_seconds=0.01))

        class Counter:
            count = 0
            def apply(self, commands):
                self.count += len(commands)
                return [self.count] * len(commands)
            def snapshot(self):
                yield b"%d" % self.count
            def restore(self, chunks):
                self.count = int(b"".join(chunks))

        async def test_of_the_module(raft_cluster):
            assert raft_cluster.names == ("n1",)

        @pytest.mark.raftkv(machine=Counter)
        class TestOfTheClass:
            async def test_both(self, raft_cluster):
                leader = await raft_cluster.leader()
                assert await leader.propose(b"x") == 1
                assert raft_cluster.names == ("n1",)
                assert raft_cluster.settings.tick_seconds == 0.01

            @pytest.mark.raftkv(size=5, seed=7, conditions=Conditions(weather=Weather(lost=50)))
            async def test_the_closest_wins(self, raft_cluster, raft_seed):
                assert len(raft_cluster.names) == 5
                assert raft_seed == 7
                assert raft_cluster.network.weather.lost == 50
        """
    )
    run(users).assert_outcomes(passed=3)


def test_async_fixtures_of_a_test_live_in_its_virtual_time(users: pytest.Pytester) -> None:
    users.makepyfile(
        """
        import anyio, pytest

        seen = []

        @pytest.fixture
        async def leader(raft_cluster):
            leader = await raft_cluster.leader()
            yield leader
            await anyio.sleep(5)
            seen.append((await leader.kv.get("a")).value)

        @pytest.fixture
        async def value():
            await anyio.sleep(5)
            return b"1"

        class TestIt:
            place = None

            @pytest.fixture
            async def here(self):
                self.place = "here"

            @pytest.mark.raftkv
            async def test_put(self, leader, value, here):
                assert self.place == "here"
                await leader.kv.put("a", value)

        def test_after():
            assert seen == [b"1"]
        """
    )
    run_beside_anyio(users).assert_outcomes(passed=2)
    run(users).assert_outcomes(passed=2)


def test_one_test_for_each_seed(users: pytest.Pytester) -> None:
    users.makepyfile(
        """
        import pytest

        @pytest.mark.raftkv(seeds=3, size=1)
        async def test_count(raft_seed):
            assert raft_seed in (0, 1, 2)

        @pytest.mark.raftkv(seeds=[5, 9], size=1)
        async def test_list(raft_seed):
            assert raft_seed in (5, 9)

        @pytest.mark.raftkv
        async def test_single(raft_seed):
            pass
        """
    )
    run(users).assert_outcomes(passed=6)
    run(users, "-k", "single", "--raft-seeds", "4").assert_outcomes(passed=4, deselected=8)
    result = run(users, "--raft-seed", "9", "-v", "-k", "list or single")
    result.assert_outcomes(passed=2, deselected=1)
    result.stdout.fnmatch_lines(["*test_list?seed9? PASSED*", "*test_single PASSED*"])


FAILING = """
    import anyio, pytest

    @pytest.mark.raftkv(size=1, seeds=3)
    async def test_it(raft_cluster):
        first = await (await raft_cluster.leader()).kv.put("a", b"1")
        raft_cluster.crash("n1")
        # What chance decides depends on the seed alone.
        assert raft_cluster.loop.now_ns % 2 == 7, f"seen at {raft_cluster.loop.now_ns}"
"""


def _seen(result: pytest.RunResult) -> list[str]:
    return re.findall(r"AssertionError: seen at (\d+)", result.stdout.str())


def test_a_failure_tells_how_to_run_it_again_and_what_happened(users: pytest.Pytester) -> None:
    users.makepyfile(FAILING)
    result = run(users, "-k", "seed2", "--raft-traces", "traces")
    result.assert_outcomes(failed=1, deselected=2)
    again = "pytest '*::test_it?seed2?' --raft-seed 2"
    result.stdout.fnmatch_lines(
        ["*- raftkv -*", f"run it again: {again}", "the whole story: *", "the last events:",
         "*CRASH*crashes:*", "*VIOLATION*AssertionError*"]
    )  # fmt: skip
    (page,) = users.path.joinpath("traces").glob("*.html")
    assert "crashes: " in page.read_text()
    (file,) = users.path.joinpath("traces").glob("*.decisions")
    assert decode_decisions(file.read_text().strip())

    (seen,) = _seen(result)[:1]
    assert set(_seen(run(users, "--raft-seed", "2"))) == {seen}
    replayed = run(users, "-k", "seed0", "--raft-decisions", str(file))
    assert set(_seen(replayed)) == {seen}
    replayed.stdout.fnmatch_lines([f"run it again: *--raft-decisions {file}"])
    assert set(_seen(run(users, "-k", "seed1"))) != {seen}


def test_a_failure_leaves_its_story_in_the_cache(users: pytest.Pytester) -> None:
    users.makepyfile(FAILING)
    run(users, "-k", "seed2").assert_outcomes(failed=1, deselected=2)
    assert [*users.path.glob(".pytest_cache/d/raftkv/*.html")]
    without = run(users, "-k", "seed2", "-p", "no:cacheprovider")
    without.assert_outcomes(failed=1, deselected=2)
    without.stdout.no_fnmatch_line("the whole story:*")


def test_a_long_name_of_a_test_is_cut_in_those_of_its_files(users: pytest.Pytester) -> None:
    users.makepyfile("""
        import pytest

        @pytest.mark.raftkv(size=1)
        @pytest.mark.parametrize("word", ["x" * 300, "x" * 301])
        async def test_it(raft_cluster, word):
            raise AssertionError(word)
    """)
    run(users, "--raft-traces", "traces").assert_outcomes(failed=2)
    assert len([*users.path.joinpath("traces").glob("*.html")]) == 2


def test_a_record_in_the_marker_is_replayed(users: pytest.Pytester) -> None:
    users.makepyfile(
        """
        import pytest

        @pytest.mark.raftkv(size=1, decisions="77;1,2")
        async def test_it(raft_cluster):
            assert raft_cluster.choices.decisions() == ((77,),)
            assert 0
        """
    )
    result = run(users)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["run it again: pytest '*::test_it'", "its decisions: 77"])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("await anyio.Event().wait()", "*TimeLimitError: 9 virtual seconds * wait or run:*"),
        ("raft_cluster.kill_all(); await anyio.Event().wait()", "*DeadlockError: deadlock:*"),
        ("asyncio.get_running_loop().create_task(anyio.sleep(1e6), name='lost')", "*lost in*"),
        ("raft_cluster.process('n1').workers.worker('wal').submit(int, int)", None),
    ],
)
def test_what_goes_wrong_in_virtual_time_fails_the_test(
    users: pytest.Pytester, body: str, says: str | None
) -> None:
    users.makepyfile(
        f"""
        import anyio, asyncio, pytest

        @pytest.mark.raftkv(seconds=9)
        async def test_it(raft_cluster):
            {body}
        """
    )
    result = run(users)
    if says is None:
        result.assert_outcomes(passed=1)
        return
    outcomes = result.parseoutcomes()
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) == 1
    result.stdout.fnmatch_lines([says])


def test_a_member_that_stops_for_good_fails_the_test(users: pytest.Pytester) -> None:
    users.makepyfile(
        """
        import anyio

        async def test_it(raft_cluster):
            def broken(name, before, given, after):
                raise ValueError("never")
            raft_cluster.on_step.append(broken)
            await anyio.sleep(1)
        """
    )
    result = run(users)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*NodeStoppedError*never*", "run it again: *"])


@pytest.mark.parametrize("said", ["sizes=3", "3", "size=3, colour=1"])
def test_a_marker_that_says_nonsense_is_told(users: pytest.Pytester, said: str) -> None:
    users.makepyfile(
        f"""
        import pytest

        @pytest.mark.raftkv({said})
        async def test_it(raft_cluster):
            pass
        """
    )
    result = run(users)
    result.stdout.fnmatch_lines(["*raftkv does not know * it takes size, machine*"])
    assert result.ret != 0


def test_an_async_property_is_told_to_take_a_cluster_for_each_example(
    users: pytest.Pytester,
) -> None:
    users.makepyfile(
        """
        import pytest
        from hypothesis import given, strategies

        @given(strategies.integers())
        @pytest.mark.raftkv
        async def test_it(number):
            pass
        """
    )
    result = run(users)
    result.stderr.fnmatch_lines(["*give every example of @given a cluster of its own*"])


def test_the_example_passes(users: pytest.Pytester) -> None:
    users.makepyfile(ROOT.joinpath("examples/test_election.py").read_text())
    run(users).assert_outcomes(passed=12)


def test_a_suite_that_is_not_finished_is_refused(users: pytest.Pytester) -> None:
    users.makepyfile("""
        from raftkv.testing.suites import TransportSuite

        class TestMine(TransportSuite):
            def make_transport(self): ...
    """)
    result = run(users)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*TestMine has no tests until it defines address_of"])


def test_a_failure_that_carries_its_story_leaves_a_page(users: pytest.Pytester) -> None:
    users.makepyfile("""
        from raftkv.testing.story import StoryWriter, attach_story

        def test_fails():
            error = AssertionError("wrong")
            attach_story(error, StoryWriter(["n1"]).story("mine"))
            raise error
    """)
    result = run(users, "--raft-traces", "there")
    result.assert_outcomes(failed=1)
    (page,) = users.path.joinpath("there").glob("*.html")
    result.stdout.fnmatch_lines([f"the whole story: {page}"])


def test_what_a_module_holds_beside_its_tests_is_left_alone(users: pytest.Pytester) -> None:
    users.makepyfile("""
        from unittest.mock import Mock, call

        class Proxy:
            def __getattr__(self, name):
                raise RuntimeError("outside of a context")

        class Odd:
            @property
            def __class__(self):
                raise RuntimeError("of no class")

        proxy, mock = Proxy(), Mock()
        odd_test = Odd()

        def test_of_theirs():
            assert mock is not call
    """)
    run(users).assert_outcomes(passed=1)


def test_the_plugin_needs_no_extra_and_is_found_by_pytest() -> None:
    """It is loaded into every run of pytest where raftkv is installed."""
    code = "import sys, raftkv.testing.plugin; sys.stdout.write(str('hypothesis' in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT, text=True
    )
    assert done.stdout == "False"
    assert 'raftkv = "raftkv.testing.plugin"' in Path(ROOT, "pyproject.toml").read_text()
