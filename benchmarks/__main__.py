"""``python -m benchmarks NAME [--json]``: one benchmark or all, as tables or one JSON object."""

from __future__ import annotations

import signal
import sys
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import NoReturn

from benchmarks import catchup, core, failover, handover, kv, put, watch
from benchmarks.report import Report, print_reports

BENCHMARKS = {
    "core": core,
    "put": put,
    "failover": failover,
    "handover": handover,
    "catchup": catchup,
    "kv": kv,
    "watch": watch,
}

FAILED = "failed"


def main() -> int:
    """Parse the command line and run what it names."""
    signal.signal(signal.SIGTERM, _end)  # so that what was started is ended
    parser = ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True)
    for name, module in BENCHMARKS.items():
        one = names.add_parser(name, help=(module.__doc__ or name).splitlines()[0])
        one.add_argument("--json", action="store_true", help="print one JSON object")
        module.add_arguments(one)
        one.set_defaults(measure=_alone(module.measure))
    every = names.add_parser("all", help="Every benchmark, one after the other, with its defaults.")
    every.add_argument("--json", action="store_true", help="print one JSON object")
    every.set_defaults(measure=_all)
    options = parser.parse_args()
    reports: list[Report] = options.measure(options)
    print_reports(reports, as_json=options.json)
    return int(any(FAILED in report.notes for report in reports))


def _alone(measure: Callable[[Namespace], Report]) -> Callable[[Namespace], list[Report]]:
    return lambda options: [measure(options)]


def _all(options: Namespace) -> list[Report]:
    reports: list[Report] = []
    for name, module in BENCHMARKS.items():
        parser = ArgumentParser()
        module.add_arguments(parser)
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            reports.append(module.measure(parser.parse_args([])))
        except (Exception, SystemExit) as error:  # the others' figures are worth having
            traceback.print_exc()
            reports.append(Report(name, [], {FAILED: f"{type(error).__name__}: {error}"}))
    return reports


def _end(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt(f"signal {number}")


if __name__ == "__main__":
    sys.exit(main())
