"""Every recorded trace ran and passed: ``traces.py RESULTS.xml FOLDER|none``."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

# As many as were recorded; a folder with fewer is not the one meant.
TRACES_MIN = 28


def passed_tests(results: Path) -> list[str]:
    """Ids of the trace tests that passed, from pytest's JUnit report."""
    return [
        case.get("name", "")
        for case in ElementTree.parse(results).iter("testcase")
        if case.get("classname", "").endswith("test_traces")
        and not any(child.tag in {"failure", "error", "skipped"} for child in case)
    ]


def main(results: str, folder: str) -> int:
    """Say which traces have no passing test; 1 if any."""
    if folder == "none":
        sys.stdout.write("traces waived: RAFTKV_TRACES=none\n")
        return 0
    root = Path(folder)
    traces = sorted(path.relative_to(root) for path in root.rglob("*.txt"))
    if len(traces) < TRACES_MIN:
        sys.stdout.write(f"{len(traces)} traces below {root}, expected at least {TRACES_MIN}\n")
        return 1
    passed = passed_tests(Path(results))
    missing = [trace for trace in traces if not any(_is_of(name, trace) for name in passed)]
    for trace in missing:
        sys.stdout.write(f"no passing test for trace {trace}\n")
    sys.stdout.write(f"{len(traces) - len(missing)} of {len(traces)} traces passed\n")
    return bool(missing)


def _is_of(name: str, trace: Path) -> bool:
    """Whether a test id such as ``test_trace[quorum/majority_vote.txt]`` is that of the trace."""
    identifier = name.partition("[")[2].rstrip("]").removesuffix(".txt")
    return identifier in {trace.stem, str(trace.with_suffix(""))}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
