"""Fixtures for pytest: a cluster of whole nodes in virtual time, for tests of milliseconds.

pytest finds them by itself once ``raftkv[testing]`` is installed::

    async def test_a_new_leader_is_elected(raft_cluster):
        leader = await raft_cluster.leader()
        with raft_cluster.isolate(leader.name):
            other = await raft_cluster.leader()
            assert other.name != leader.name

``raft_cluster`` is a :class:`~raftkv.testing.nodes.cluster.SimCluster`: ``partition()``,
``isolate()``, ``cut()`` and ``pause()`` are context managers, ``crash()`` an async one. An
``async`` test that asks for it runs in virtual time, whatever other plugin runs the async tests
around it, and so do the async fixtures it uses. A test that is no coroutine function drives the
cluster with ``raft_run``::

    def test_a_new_leader_is_elected(raft_cluster, raft_run):
        leader = raft_run(raft_cluster.leader())

The marker says what kind of cluster: ``@pytest.mark.raftkv(size=5, seed=7)``, for a function, a
class or a module. A test that reaches the cluster only through fixtures of its own needs it, too.

``size``, ``machine``, ``settings``, ``conditions``
    as for the cluster.
``seed``
    decides everything that chance decides; 0 if none is given.
``seeds``
    a number of them, or the seeds: one test for each.
``shuffle``
    so many per mille of the loop's turns run what is ready in another order; 100 unless given.
``seconds``
    the test fails when so much virtual time has passed; 600 unless given. A cluster never runs out
    of something to do: who waits in vain there would wait for ever.
``decisions``
    the record of a run, instead of a seed: what the shrinker left, or a failure wrote.

When such a test fails, the report says how to run it again, tells its last events, and names a page
to be opened in a browser, with the whole story. ``--raft-traces DIR`` says where such pages go;
``--raft-seed N`` tries another seed, ``--raft-seeds N`` so many, ``--raft-decisions FILE`` a
record.

The page of a failed :class:`~raftkv.testing.suites.cluster.ClusterMachine` lies there, too.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from functools import wraps
from pathlib import Path
from types import FunctionType
from typing import Final, Protocol, TypeVar, cast
from zlib import crc32

import pytest
from attrs import evolve, fields, frozen

from raftkv.kv import KvResult
from raftkv.machine import Machine
from raftkv.node.settings import Settings
from raftkv.testing.choices import (
    Choices,
    ReplayedChoices,
    SeededChoices,
    decode_decisions,
    encode_decisions,
)
from raftkv.testing.nodes.cluster import Conditions, SimCluster
from raftkv.testing.nodes.runner import VirtualRunner
from raftkv.testing.story import StoryWriter, story_of
from raftkv.testing.viewer import as_text, newest, write_html

T = TypeVar("T")

MARKER: Final = "raftkv"
_WORLD: Final = "raft_world"
_FIXTURES: Final = ("raft_cluster", "raft_run", _WORLD)
_SUITES: Final = "raftkv.testing.suites."
_EVENTS_TOLD: Final = 12
_DECISIONS_TOLD_MAX: Final = 400
_NAME_MAX: Final = 150


class RaftRun(Protocol):
    """What the fixture ``raft_run`` is."""

    def __call__(self, awaitable: Awaitable[T], /) -> T:
        """Run it in the test's virtual time, and return its result."""
        ...


@frozen(kw_only=True)
class _Wish:
    """What a marker says."""

    size: int = 3
    machine: Callable[[], Machine[object]] | None = None
    settings: Settings | None = None
    conditions: Conditions | None = None
    seed: int = 0
    seeds: int | Iterable[int] | None = None
    shuffle: int = 100
    seconds: float = 600.0
    decisions: str | None = None


_WORDS: Final = tuple(field.name for field in fields(_Wish))


def _wish(marks: Iterable[pytest.Mark]) -> _Wish:
    """Of several marks, the closest says most."""
    said: dict[str, object] = {}
    for mark in marks:
        unknown = [word for word in mark.kwargs if word not in _WORDS]
        if mark.args or unknown:
            what = ", ".join(map(repr, (*mark.args, *unknown)))
            raise pytest.UsageError(
                f"@pytest.mark.raftkv does not know {what}; it takes {', '.join(_WORDS)}, by name"
            )
        said = {**mark.kwargs, **said}
    return _Wish(**said)  # pyright: ignore[reportArgumentType] - a user's words, checked by name


class World:
    """One test's virtual time, what is decided in it, and what happens."""

    def __init__(self, wish: _Wish, choices: Choices, seed: int | None) -> None:
        self.wish = wish
        self.choices = choices
        self.seed = seed
        self.story = StoryWriter()
        self.runner = VirtualRunner(choices, shuffle_permille=wish.shuffle)
        self.runner.loop.limit_ns = round(wish.seconds * 1e9)

    async def cluster(self) -> SimCluster[object]:
        """The cluster that is wished for, not started."""
        wish = self.wish
        return SimCluster(
            self.choices,
            size=wish.size,
            machine=cast("Callable[[], Machine[object]]", wish.machine),
            settings=wish.settings,
            conditions=wish.conditions,
            story=self.story,
        )


_world_key: Final = pytest.StashKey[World]()


# --- options ----------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where stories go, and which runs to try."""
    group = parser.getgroup("raftkv", "simulated raftkv clusters")
    group.addoption("--raft-seed", type=int, metavar="N", help="run simulated tests with seed N")
    group.addoption(
        "--raft-seeds", type=int, metavar="N", help="run each simulated test with N seeds"
    )
    group.addoption(
        "--raft-decisions", type=Path, metavar="FILE", help="replay the decisions in FILE"
    )
    group.addoption(
        "--raft-traces", type=Path, metavar="DIR", help="where failed tests leave their stories"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", f"{MARKER}({', '.join(_WORDS)}): the simulated cluster that a test runs on"
    )


# --- fixtures ---------------------------------------------------------------------------------


@pytest.fixture
def raft_seed(request: pytest.FixtureRequest) -> int:
    """The seed of this test."""
    given = request.config.getoption("--raft-seed")
    return _wish(request.node.iter_markers(MARKER)).seed if given is None else given


@pytest.fixture
def raft_world(request: pytest.FixtureRequest, raft_seed: int) -> Generator[World]:
    """The test's virtual time; what the other fixtures share."""
    node: pytest.Item = request.node
    wish = _wish(node.iter_markers(MARKER))
    file = request.config.getoption("--raft-decisions")
    record = wish.decisions if file is None else file.read_text()
    if record is None:
        world = World(wish, SeededChoices(raft_seed), raft_seed)
    else:
        world = World(wish, ReplayedChoices(decode_decisions(record.strip())), None)
    node.stash[_world_key] = world
    yield world
    world.runner.close(is_strict=not _has_failed(node))


@pytest.fixture
def raft_run(raft_world: World) -> RaftRun:
    """Runs an awaitable in the test's virtual time, from a test that is no coroutine function."""
    return raft_world.runner.run


@pytest.fixture
def raft_cluster(
    request: pytest.FixtureRequest, raft_world: World
) -> Generator[SimCluster[KvResult]]:
    """A running cluster of three members, or as the marker says; closed after the test.

    A member that stops for good meanwhile fails the test, unless it asked for that with
    ``failed()``.
    """
    run = raft_world.runner.run
    cluster = run(raft_world.cluster())
    run(cluster.__aenter__())
    yield cast("SimCluster[KvResult]", cluster)
    if raft_world.runner.loop.has_given_up:
        return
    if _has_failed(request.node):
        cluster.kill_all()
    else:
        run(cluster.__aexit__(None, None, None))


# --- tests that are coroutine functions -------------------------------------------------------


def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> None:
    """Take over async tests that are ours from plugins that would run them in real time."""
    # Whatever a module holds comes by, mocks and proxies included: by its type alone we know what
    # it is, and nothing is asked of what cannot be a test.
    if issubclass(type(obj), type):
        if collector.classnamefilter(name):
            _refuse_unfinished(collector, cast("type", obj))
        return
    if type(obj) is not FunctionType or not collector.istestfunction(obj, name):
        return
    marks = [*collector.iter_markers(MARKER), *_own_marks(obj, MARKER)]
    if not (marks or _asks_for_us(obj)):
        return
    pytest.mark.usefixtures(_WORLD)(obj)
    if inspect.iscoroutinefunction(obj):
        # What anyio's plugin has just given it: it would run it once for each of its backends.
        kept = [mark for mark in _own_marks(obj) if mark.args != ("anyio_backend",)]
        obj.pytestmark = kept  # pyright: ignore[reportFunctionMemberAccess] - pytest's way


def _refuse_unfinished(collector: pytest.Module | pytest.Class, suite: type) -> None:
    """An abstract class is passed over in silence by pytest: nothing would be tested."""
    lacking = ", ".join(sorted(getattr(suite, "__abstractmethods__", ())))
    if lacking and any(base.__module__.startswith(_SUITES) for base in suite.__mro__):
        raise collector.CollectError(f"{suite.__name__} has no tests until it defines {lacking}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each seed that is asked for."""
    if "raft_seed" not in metafunc.fixturenames:
        return
    config = metafunc.config
    count, seed = config.getoption("--raft-seeds"), config.getoption("--raft-seed")
    seeds = _wish(metafunc.definition.iter_markers(MARKER)).seeds
    if count is None and seeds is None:
        return
    if seed is not None:
        seeds = (seed,)
    elif count is not None:
        seeds = count
    numbers = range(seeds) if isinstance(seeds, int) else [*(seeds or ())]
    metafunc.parametrize("raft_seed", numbers, ids=[f"seed{number}" for number in numbers])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run ours ourselves."""
    for item in items:
        if isinstance(item, pytest.Function) and _WORLD in item.fixturenames:
            if hasattr(item.obj, "hypothesis") and inspect.iscoroutinefunction(
                item.obj.hypothesis.inner_test
            ):
                raise pytest.UsageError(
                    f"{item.nodeid}: give every example of @given a cluster of its own, with"
                    " raftkv.testing.nodes.run_virtual and SimCluster, in a test that is not async"
                )
            if inspect.iscoroutinefunction(item.obj):
                item.runtest = _running(item)


def _running(item: pytest.Function) -> Callable[[], None]:
    def runtest() -> None:
        names = inspect.signature(item.obj).parameters
        arguments = {name: item.funcargs[name] for name in names if name in item.funcargs}
        item.stash[_world_key].runner.run(item.obj(**arguments))

    return runtest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Run async fixtures of one of our tests in its virtual time."""
    function = _bound(cast("Callable[..., object]", fixturedef.func), request)
    is_generator = inspect.isasyncgenfunction(function)
    if not (is_generator or inspect.iscoroutinefunction(function)):
        return (yield)
    if fixturedef.scope != "function" or _WORLD not in request.fixturenames:
        return (yield)
    world = cast("World", request.getfixturevalue(_WORLD))
    make = _generating if is_generator else _returning
    original = fixturedef.func
    fixturedef.func = make(function, world)  # pyright: ignore[reportAttributeAccessIssue] - as anyio's own plugin does
    try:
        return (yield)
    finally:
        fixturedef.func = original  # pyright: ignore[reportAttributeAccessIssue] - as above


def _bound(
    function: Callable[..., object], request: pytest.FixtureRequest
) -> Callable[..., object]:
    """A fixture that is a method, of the instance that the test is a method of."""
    instance = cast("object", request.instance)
    if inspect.ismethod(function) and type(function.__self__) is type(instance):
        return cast("Callable[..., object]", function.__func__.__get__(instance))
    return function


def _returning(function: Callable[..., object], world: World) -> Callable[..., object]:
    @wraps(function)
    def fixture(**arguments: object) -> object:
        return world.runner.run(cast("Awaitable[object]", function(**arguments)))

    return fixture


def _generating(function: Callable[..., object], world: World) -> Callable[..., object]:
    @wraps(function)
    def fixture(**arguments: object) -> Generator[object]:
        run = world.runner.run
        steps = cast("AsyncGenerator[object]", function(**arguments))
        yield run(anext(steps))
        if not world.runner.loop.has_given_up:
            run(anext(steps, None))

    return fixture


def _own_marks(obj: object, name: str | None = None) -> list[pytest.Mark]:
    marks = cast("Iterable[pytest.Mark]", getattr(obj, "pytestmark", ()))
    return [mark for mark in marks if name is None or mark.name == name]


def _asks_for_us(obj: Callable[..., object]) -> bool:
    return any(name in inspect.signature(obj).parameters for name in _FIXTURES)


# --- failures ---------------------------------------------------------------------------------

_failed_key: Final = pytest.StashKey[bool]()


def _has_failed(node: pytest.Item) -> bool:
    return node.stash.get(_failed_key, False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell of a failed test how to run it again, and what happened in it."""
    report = yield
    world = item.stash.get(_world_key, None)
    if world is not None and report.failed and not _has_failed(item):
        item.stash[_failed_key] = True
        report.sections.append(("raftkv", _told(item, call, world)))
    elif report.failed and call.excinfo is not None:
        story, page = story_of(call.excinfo.value), _page(item)
        if story is not None and page is not None:
            write_html(story, page)
            report.sections.append(("raftkv", f"the whole story: {page}"))
    return report


def _told(item: pytest.Item, call: pytest.CallInfo[None], world: World) -> str:
    again = _again(item, world)
    error = call.excinfo
    if error is not None:
        seconds = world.runner.loop.now_ns / 1e9
        what = next(iter(str(error.value).splitlines()), "the test fails")
        world.story.violation(seconds, None, error.typename, what)
    story = world.story.story(item.nodeid, replay=again)
    record = encode_decisions(world.choices.decisions())
    told = [f"run it again: {again}"]
    if 0 < len(record) <= _DECISIONS_TOLD_MAX:
        told.append(f"its decisions: {record}")
    page = _page(item)
    if page is not None:
        file = page.with_suffix(".decisions")
        write_html(story, page)
        file.write_text(record + "\n")
        told += [f"the whole story: {page}", f"its decisions, for --raft-decisions: {file}"]
    last = evolve(newest(story, _EVENTS_TOLD), violated=None, replay="")
    return "\n".join([*told, "", "the last events:", *as_text(last).splitlines()[1:]])


def _again(item: pytest.Item, world: World) -> str:
    node = f"pytest '{item.nodeid}'"
    if world.seed is None:
        file = item.config.getoption("--raft-decisions")
        return node if file is None else f"{node} --raft-decisions {file}"
    return f"{node} --raft-seed {world.seed}"


def _page(item: pytest.Item) -> Path | None:
    """The page of a failed test; None: there is none."""
    folder = _folder(item.config)
    if folder is None:
        return None
    name = re.sub(r"[^\w.-]+", "-", item.nodeid).strip("-")
    if len(name) > _NAME_MAX:  # ids of parameters may be longer than names of files
        name = f"{name[:_NAME_MAX]}-{crc32(item.nodeid.encode()):08x}"
    return folder / f"{name}.html"


def _folder(config: pytest.Config) -> Path | None:
    """Where stories go; None: nowhere."""
    given = config.getoption("--raft-traces")
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        return given.resolve()
    cache = getattr(config, "cache", None)  # absent without pytest's plugin for it
    return None if cache is None else cache.mkdir("raftkv")
