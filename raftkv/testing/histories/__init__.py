"""Histories of clients, and whether what they were answered can be right.

:mod:`~raftkv.testing.histories.operations` records, :mod:`~raftkv.testing.histories.kv` has the
KV's requests.
"""
