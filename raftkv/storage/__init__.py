"""Where a node keeps what it must not forget: the ports, and their stores in memory and on RocksDB.

Reading order: ``base`` (the ports), ``batch`` and ``memory`` (the simplest store), ``log`` (raft's
records in any store), ``witness`` (what was last promised, kept beside the store), ``rocks`` (the
only module here that knows rocksdict), ``directory`` (one member's data directory, from lock to
close).
"""
