"""``python -m benchmarks NAME [--json]``: one benchmark, a table or one JSON object."""

from __future__ import annotations

import sys
from argparse import ArgumentParser

from benchmarks import core, put


def main() -> int:
    """Parse the command line and run what it names."""
    parser = ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True)
    for name, module in {"core": core, "put": put}.items():
        one = names.add_parser(name, help=(module.__doc__ or name).splitlines()[0])
        one.add_argument("--json", action="store_true", help="print one JSON object")
        module.add_arguments(one)
        one.set_defaults(run=module.run)
    options = parser.parse_args()
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
