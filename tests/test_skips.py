"""Under CI a skip fails unless it is listed."""

from __future__ import annotations

import os
from textwrap import dedent

import pytest

from tests.skips import LIST, read, verdict

pytest_plugins = ["pytester"]

_EXEMPTIONS = read(
    [
        "# a comment",
        "",
        "tests/a.py* | env TRACES=none | no files",
        "tests/b.py::test_x | missing no-such-program-anywhere | optional",
        "tests/c.py::test_x | missing sh | optional",
        "tests/d.py::test_x | lacks /no/such/file | optional",
        "tests/e.py::test_x | lacks / | optional",
        "tests/f.py::test_x | lacks root | optional",
    ]
)


def test_an_unlisted_skip_fails_under_ci_and_says_so() -> None:
    message = verdict("tests/z.py::test_z", "not today", _EXEMPTIONS, {"CI": "true"})
    assert message is not None
    assert message.startswith("tests/z.py::test_z was skipped under CI (not today)")


def test_a_skip_stands_outside_ci() -> None:
    assert verdict("tests/z.py::test_z", "", _EXEMPTIONS, {}) is None


@pytest.mark.parametrize(
    ("test", "environment", "stands"),
    [
        ("tests/a.py::test_x", {"TRACES": "none"}, True),
        ("tests/a.py", {"TRACES": "none"}, True),
        ("tests/a.py::test_x", {"TRACES": "elsewhere"}, False),
        ("tests/a.py::test_x", {}, False),
        ("tests/b.py::test_x", {}, True),
        ("tests/b.py::test_y", {}, False),
        ("tests/c.py::test_x", {"PATH": "/bin:/usr/bin"}, False),
        ("tests/d.py::test_x", {}, True),
        ("tests/e.py::test_x", {}, False),
        ("tests/f.py::test_x", {}, os.geteuid() != 0),
    ],
)
def test_an_exemption_counts_only_under_its_condition(
    test: str, environment: dict[str, str], stands: bool
) -> None:
    found = verdict(test, "", _EXEMPTIONS, {"CI": "true", **environment})
    assert (found is None) is stands


@pytest.mark.parametrize("line", ["tests/a.py", "tests/a.py | env A=b", "tests/a.py | always | no"])
def test_an_exemption_without_condition_or_reason_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read([line])


def test_the_list_itself_can_be_read() -> None:
    read(LIST.read_text().splitlines())


def test_skips_and_expected_failures_of_a_run_become_failures(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(
        "from tests.skips import pytest_make_collect_report, pytest_runtest_makereport"
    )
    (pytester.path / "test_marked.py").write_text(
        dedent("""
            import pytest

            def test_passes(): pass

            @pytest.mark.skip(reason="lazy")
            def test_skipped(): pass

            @pytest.mark.xfail
            def test_known_to_fail(): assert False

            @pytest.mark.parametrize("x", [])
            def test_of_nothing(x): pass
        """)
    )
    (pytester.path / "test_whole_file.py").write_text(
        "import pytest\npytest.skip('not here', allow_module_level=True)"
    )
    monkeypatch.delenv("CI", raising=False)
    pytester.runpytest_inprocess().assert_outcomes(passed=1, skipped=3, xfailed=1)
    monkeypatch.setenv("CI", "true")
    result = pytester.runpytest_inprocess()
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*test_whole_file.py was skipped under CI (*not here)*"])
    result = pytester.runpytest_inprocess("test_marked.py")
    result.assert_outcomes(passed=1, failed=1, errors=2)
