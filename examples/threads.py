"""The blocking API: the same names from ordinary threads, no await.

Run it: ``python examples/threads.py``. One member alone here; give it more in ``cluster``, and then
leave ``listen`` out: a member is reached by the others at its address in ``cluster``.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor

import raftkv


def main() -> None:
    """Put from eight threads at once and count what arrived."""
    with tempfile.TemporaryDirectory() as directory:
        opened = raftkv.blocking.open_node(
            directory,
            name="n1",
            cluster={"n1": "127.0.0.1:7400"},
            listen="127.0.0.1:0",  # any free port: nobody else is there to come to 7400
        )
        with opened as node:
            node.ready(timeout=30)

            def put(number: int) -> int:
                return node.kv.put(f"jobs/{number:03}", str(number)).revision

            with ThreadPoolExecutor(8) as threads:
                revisions = list(threads.map(put, range(200)))
            print("puts:", len(revisions), "distinct revisions:", len(set(revisions)))
            print("stored:", node.kv.range(prefix="jobs/", count_only=True).count)


if __name__ == "__main__":
    main()
