"""Hostile input: everything that decodes bytes from a peer, a client or a disk, fed with bad ones.

- :mod:`~raftkv.testing.fuzz.targets`: the decoders, what each may refuse with, and valid inputs;
- :mod:`~raftkv.testing.fuzz.mutate`: bad inputs made from valid ones, by a seed;
- :mod:`~raftkv.testing.fuzz.worst`: the inputs that cost most: bombs, nests, crowds;
- :mod:`~raftkv.testing.fuzz.trial`: one input tried: decoded, refused, or a finding;
- :mod:`~raftkv.testing.fuzz.guided`: the same targets guided by coverage, if atheris is installed.

``python -m raftkv.testing fuzz --minutes 5`` tries all of them.
"""
