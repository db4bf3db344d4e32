"""Where a node keeps what it must not forget: the ports, and their stores in memory and on RocksDB.

Reading order: ``base`` (the ports), ``batch`` and ``memory`` (the simplest store), ``records`` and
``log`` (raft's records in any store), ``witness`` (what was last promised, kept beside the store),
``member`` (all of them together), ``rocks`` (with ``rocks_options`` the only one here that knows
rocksdict),
``directory`` (one member's data directory, from lock to close), ``scrub`` (reading all of it again,
in pieces).
"""
