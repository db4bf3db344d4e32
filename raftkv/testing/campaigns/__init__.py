"""Campaigns: real processes and real disks, broken on purpose, again and again.

Where the simulator decides everything, a campaign decides little and breaks much: it kills, cuts,
corrupts and partitions what really runs, and holds what it finds against what was promised.

- :mod:`~raftkv.testing.campaigns.frame`: cases, one seed each; running many; what they found;
- :mod:`~raftkv.testing.campaigns.facilities`: what a campaign may need of a machine;
- :mod:`~raftkv.testing.campaigns.ledger`: the sum of all runs, as a file;
- :mod:`~raftkv.testing.campaigns.registry`: all campaigns by name;
- :mod:`~raftkv.testing.campaigns.cluster`: members as processes, with clients in them;
- :mod:`~raftkv.testing.campaigns.killpoints`: where a member can be made to die.

``python -m raftkv.testing crash --cases 20 --seed 7`` runs twenty cases of ``crash``, each part in
its share; without ``--cases`` a full run. A finding keeps its directory and names the command that
tries it again; what kills, cuts and pauses hit is chance even so, as processes are not simulated.
"""
