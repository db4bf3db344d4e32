"""The judges that ``.ci/run`` calls can say no."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.source import ROOT

_CASE = '<testcase classname="tests.core.test_traces" name="test_run[{}]">{}</testcase>'


def judge(results: Path, folder: str) -> tuple[int, str]:
    """Exit code and words of the judge of traces."""
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "traces.py"), str(results), folder],
        cwd=results.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    return done.returncode, done.stdout


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    folder = tmp_path / "traces"
    (folder / "kind").mkdir(parents=True)
    for number in range(28):
        (folder / "kind" / f"trace_{number}.txt").touch()
    return folder


def write_results(tmp_path: Path, outcomes: dict[int, str]) -> Path:
    cases = [
        _CASE.format(f"kind/trace_{number}.txt", f"<{outcome}/>" if outcome else "")
        for number, outcome in outcomes.items()
    ]
    results = tmp_path / "results.xml"
    results.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return results


def test_all_traces_passed(tmp_path: Path, traces: Path) -> None:
    results = write_results(tmp_path, dict.fromkeys(range(28), ""))
    assert judge(results, str(traces)) == (0, "28 of 28 traces passed\n")


@pytest.mark.parametrize("outcome", ["failure", "error", "skipped"])
def test_a_trace_that_did_not_pass_is_named(tmp_path: Path, traces: Path, outcome: str) -> None:
    results = write_results(tmp_path, {**dict.fromkeys(range(28), ""), 7: outcome})
    code, words = judge(results, str(traces))
    assert code == 1
    assert "no passing test for trace kind/trace_7.txt" in words


def test_a_trace_that_was_not_run_is_named(tmp_path: Path, traces: Path) -> None:
    code, words = judge(write_results(tmp_path, dict.fromkeys(range(27), "")), str(traces))
    assert code == 1
    assert "no passing test for trace kind/trace_27.txt" in words


def test_a_folder_with_too_few_traces_is_not_the_one_meant(tmp_path: Path, traces: Path) -> None:
    (traces / "kind" / "trace_0.txt").unlink()
    results = write_results(tmp_path, dict.fromkeys(range(28), ""))
    code, words = judge(results, str(traces))
    assert code == 1
    assert "27 traces below" in words


def test_traces_are_waived_by_the_word_none_alone(tmp_path: Path) -> None:
    results = write_results(tmp_path, {})
    assert judge(results, "none")[0] == 0
    assert judge(results, "")[0] == 1
    assert judge(results, str(tmp_path / "nowhere"))[0] == 1


def test_the_script_is_sound_bash() -> None:
    script = ROOT / ".ci" / "run"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert script.stat().st_mode & 0o111, ".ci/run is not executable"
