"""The world as ports: clock, chance, threads, tasks, environment.

Only ``system`` touches the real ones. Every other module gets them as a
:class:`~raftkv.runtime.base.Runtime`, so that a simulator can run the same code in virtual time.
"""
