"""Conformance suites: subclass one in your tests, and pytest runs ours on what you wrote.

- :class:`MachineSuite`: a state machine, by itself;
- :class:`ClusterMachine`: a state machine, in a simulated cluster that everything happens to;
- :class:`StorageSuite`, :class:`FaultyStorageSuite`: a store, on a :class:`Bench` of yours;
- :class:`TransportSuite`: a transport.

They need Hypothesis and pytest (``pip install 'raftkv[testing]'``).
"""

try:
    from raftkv.testing.suites.benches import Bench, DirectoryBench, FaultyBench
    from raftkv.testing.suites.cluster import ClusterMachine
    from raftkv.testing.suites.machine import MachineSuite
    from raftkv.testing.suites.storage import FaultyStorageSuite, StorageSuite
    from raftkv.testing.suites.transport import TransportSuite
except ModuleNotFoundError as error:
    if error.name not in ("hypothesis", "pytest"):
        raise
    raise ModuleNotFoundError(
        f"raftkv.testing.suites needs {error.name}: pip install 'raftkv[testing]'", name=error.name
    ) from error

__all__ = [
    "Bench",
    "ClusterMachine",
    "DirectoryBench",
    "FaultyBench",
    "FaultyStorageSuite",
    "MachineSuite",
    "StorageSuite",
    "TransportSuite",
]
