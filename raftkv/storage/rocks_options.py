"""How RocksDB is opened: every option that is not its default, and why.

Bounds: memtables 64 MiB in all, block cache 32 MiB, live write-ahead logs 128 MiB (then the column
families that hold the oldest are flushed), 512 open files, two background threads.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Final

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    Options,
)

from raftkv.storage.base import Space

_MIB: Final = 1024 * 1024
_MEMTABLE_BYTES: Final = {
    Space.LOG: 16 * _MIB,
    Space.META: 2 * _MIB,
    Space.MACHINE: 16 * _MIB,
    Space.IMAGE: 8 * _MIB,
    Space.STAGED: 16 * _MIB,
}
_MEMTABLES_BYTES_MAX: Final = 64 * _MIB
_WAL_BYTES_MAX: Final = 128 * _MIB
_CACHE_BYTES: Final = 32 * _MIB
_OPEN_FILES_MAX: Final = 512
_ROWS: Final = (Space.MACHINE, Space.STAGED)

# rocksdict cannot set these by a call; every other option is set by :func:`database_options`.
# Nobody may try again after a failed write: RocksDB would, a second later, and close only then.
_OPTIONS_FILE: Final = """[Version]
  rocksdb_version=9.8.4
  options_file_version=1.1
[DBOptions]
  track_and_verify_wals_in_manifest=true
  max_bgerror_resume_count=0
[CFOptions "default"]
"""


class Mode(Enum):
    """How to open."""

    CREATE = "create"  # a new, empty store
    NORMAL = "normal"  # every record in the write-ahead log must be whole
    LOOK = "look"  # read only, changing no data: up to the first damaged record
    CUT = "cut"  # drop everything from the first damaged record on


def database_options(path: Path, mode: Mode) -> Options:
    """What holds for the database as a whole."""
    # Written anew each time, beside the store: it is a way to say something, not data.
    beside = path.with_name(path.name + "-options")
    beside.mkdir(0o700, exist_ok=True)
    (beside / "OPTIONS-000001").write_text(_OPTIONS_FILE)
    options, _ = Options.load_latest(str(beside))
    create = mode is Mode.CREATE
    # Creating elsewhere would answer a lost CURRENT file with a new, empty database.
    options.create_if_missing(create)
    options.create_missing_column_families(create)
    options.set_error_if_exists(create)
    whole = mode in (Mode.CREATE, Mode.NORMAL)
    options.set_wal_recovery_mode(
        DBRecoveryMode.absolute_consistency() if whole else DBRecoveryMode.point_in_time()
    )
    options.set_paranoid_checks(True)
    options.set_db_write_buffer_size(_MEMTABLES_BYTES_MAX)
    options.set_max_total_wal_size(_WAL_BYTES_MAX)
    options.set_max_background_jobs(2)
    options.set_max_open_files(_OPEN_FILES_MAX)
    options.set_allow_concurrent_memtable_write(False)  # there is one writer
    options.set_manifest_preallocation_size(64 * 1024)
    options.set_max_manifest_file_size(16 * _MIB)
    options.set_bytes_per_sync(_MIB)
    options.set_max_log_file_size(_MIB)  # RocksDB's own diary, not data
    options.set_keep_log_file_num(4)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


def column_families() -> dict[str, Options]:
    """What holds for each space, by its name."""
    cache = Cache(_CACHE_BYTES)
    families: dict[str, Options] = {}
    for space in Space:
        table = BlockBasedOptions()
        table.set_block_cache(cache)
        table.set_format_version(5)
        table.set_block_size(16 * 1024)
        options = Options(raw_mode=True)
        if space in _ROWS:
            # A machine looks up each key it writes, and often finds none: in neither place.
            table.set_bloom_filter(10, False)
            options.set_memtable_prefix_bloom_ratio(0.02)
            options.set_memtable_whole_key_filtering(True)
        options.set_block_based_table_factory(table)
        options.set_write_buffer_size(_MEMTABLE_BYTES[space])
        options.set_max_write_buffer_number(4)
        options.set_level_compaction_dynamic_level_bytes(True)
        # The log is short-lived and often compressed or encrypted already; rows stay for long.
        compress = space in _ROWS
        options.set_compression_type(
            DBCompressionType.lz4() if compress else DBCompressionType.none()
        )
        families[space.value] = options
    return families
