"""The command: what it tries, what it says, and what it keeps."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

import pytest

from raftkv.errors import WireError
from raftkv.storage.records import decode_damage
from raftkv.testing.__main__ import main
from raftkv.testing.campaigns.ledger import load_ledger
from raftkv.testing.fuzz import command, guided
from raftkv.testing.fuzz.registry import TARGETS
from raftkv.testing.fuzz.trial import Target, attempt


def no_logs(_level: int) -> None:
    """Left as they are: the process goes on with other tests."""


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[bytes], object]], None]:
    """Makes a function the only target, named ``one``."""

    def make(read: Callable[[bytes], object]) -> None:
        one = Target(name="one", about="", read=read, refusals=(WireError,), valid=lambda: [b"ok"])
        monkeypatch.setattr(command, "TARGETS", {"one": one})
        monkeypatch.setattr(command.logging, "disable", no_logs)

    return make


def refuse_the_odd(data: bytes) -> None:
    if len(data) % 2:
        raise WireError("odd")


def test_a_run_without_a_finding_is_told_and_entered_in_the_ledger(
    target: Callable[[Callable[[bytes], object]], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target(refuse_the_odd)
    ledger = tmp_path / "campaigns.json"
    assert main(["fuzz", "--plain", "--inputs", "500", "--ledger", str(ledger)]) == 0
    assert "501 inputs in all" in capsys.readouterr().out
    line = load_ledger(ledger)["fuzz"]["one"]
    assert (line.cases, line.findings) == (501, 0)


def test_a_finding_is_kept_and_ends_with_status_1(
    target: Callable[[Callable[[bytes], object]], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def read(data: bytes) -> None:
        if len(data) > 10:
            raise KeyError("foreign")

    target(read)
    assert main(["fuzz", "--plain", "--minutes", "0.05", "--save", str(tmp_path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)["targets"]["one"]
    assert len(told["crashes"]) == 3
    assert "KeyError" in told["crashes"][0]
    kept = [bytes.fromhex(path.read_text()) for path in tmp_path.glob("one-*.hex")]
    assert kept
    assert all(len(data) > 10 for data in kept)


def test_what_takes_too_much_memory_is_a_finding(
    target: Callable[[Callable[[bytes], object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    target(lambda _: [bytes(1000) for _ in range(10_000)])
    assert main(["fuzz", "--plain", "--inputs", "1"]) == 1
    assert "ms of CPU and 9." in capsys.readouterr().out


def test_a_run_by_time_ends(target: Callable[[Callable[[bytes], object]], None]) -> None:
    target(refuse_the_odd)
    assert main(["fuzz", "--plain", "--minutes", "0.001"]) == 0


class FakeAtheris:
    """Behaves as atheris does, but mutates by adding a byte and ends by returning."""

    def __init__(self) -> None:
        self.instrumented: list[FunctionType] = []
        self.inputs: list[bytes] = []

    def Mutate(self, data: bytes, size_max: int) -> bytes:
        return (data + b"!")[:size_max]

    def instrument_func(self, function: FunctionType) -> FunctionType:
        self.instrumented.append(function)
        return function

    def Setup(
        self,
        arguments: list[str],
        test: Callable[[bytes], None],
        *,
        custom_mutator: Callable[[bytes, int, int], bytes],
    ) -> list[str]:
        self.corpus = Path(arguments[1])
        self.test, self.mutate = test, custom_mutator
        return []

    def Fuzz(self) -> None:
        for seed, path in enumerate(sorted(self.corpus.iterdir())):
            for data in (path.read_bytes(), self.mutate(path.read_bytes(), 4096, seed)):
                self.inputs.append(data)
                self.test(data)


def test_coverage_guides_from_the_valid_inputs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeAtheris()
    monkeypatch.setattr(guided, "load_atheris", lambda: fake)
    monkeypatch.setattr(guided.logging, "disable", no_logs)
    assert guided.main(["marks of damage", "10", "1", str(tmp_path)]) == 0
    assert not (tmp_path / "crash").exists()
    assert decode_damage in fake.instrumented
    # Its checksum is made right after most changes, but not after all.
    target = TARGETS["marks of damage"]
    assert [attempt(target, data) for data in fake.inputs] == [True, False, True, True]


def test_a_crash_under_guidance_is_left_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def read(data: bytes) -> None:
        if data.endswith(b"!"):
            raise KeyError("foreign")

    one = Target(name="one", about="", read=read, refusals=(WireError,), valid=lambda: [b"ok"])
    monkeypatch.setattr(guided, "TARGETS", {"one": one})
    monkeypatch.setattr(guided, "load_atheris", FakeAtheris)
    monkeypatch.setattr(guided.logging, "disable", no_logs)
    with pytest.raises(AssertionError, match="KeyError"):
        guided.main(["one", "10", "1", str(tmp_path)])
    assert (tmp_path / "crash").read_bytes() == b"ok!"
    monkeypatch.setattr(guided, "load_atheris", lambda: None)
    assert guided.main(["one", "10", "1", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("status", "crash", "what"),
    [(0, b"", ""), (77, b"boom", "KeyError"), (1, b"", "no idea why")],
)
def test_what_the_guided_process_found_is_told(
    target: Callable[[Callable[[bytes], object]], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
    crash: bytes,
    what: str,
) -> None:
    def read(data: bytes) -> None:
        if data == b"boom":
            raise KeyError("foreign")

    def run(arguments: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if crash:
            (Path(arguments[-1]) / "crash").write_bytes(crash)
        said = "stat::number_of_executed_units: 123\nno idea why"
        return subprocess.CompletedProcess(arguments, status, said)

    target(read)
    monkeypatch.setattr(command, "load_atheris", FakeAtheris)
    monkeypatch.setattr(command.subprocess, "run", run)
    assert main(["fuzz", "--inputs", "100", "--json"]) == bool(status)
    told = json.loads(capsys.readouterr().out)["targets"]["one"]
    assert told["guided"] == 123
    assert (told["crashes"] == []) == (not what)
    assert what in "".join(told["crashes"])


def test_without_atheris_it_says_so(
    target: Callable[[Callable[[bytes], object]], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target(refuse_the_odd)
    monkeypatch.setattr(command, "load_atheris", lambda: None)
    assert main(["fuzz", "--inputs", "10"]) == 0
    assert "atheris is not installed" in capsys.readouterr().err
