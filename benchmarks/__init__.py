"""What raftkv costs, measured: ``python -m benchmarks core`` and ``python -m benchmarks put``."""
