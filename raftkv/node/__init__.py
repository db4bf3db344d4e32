"""The hands: inbox -> step -> Ready -> persist beside send -> apply -> reply. They do not decide.

How a write travels through these files:

1. ``node.propose`` checks the caller and puts a waiter into the queue (``waiters``).
2. ``loop`` takes everything that queued meanwhile, makes one entry of it (``commands``) and steps
   it.
3. ``loop`` takes the core's Ready: messages leave at once through the transport; entries and hard
   state go through ``disk`` in one batch, and one sync in the ``wal`` worker covers all batches so
   far. Only then is ``Persisted`` stepped and leave the messages that promise something.
4. ``applier`` hands committed entries to the machine in slices and gives each waiter its result.
5. ``applying`` has the machine's part of each turn; it forgets the log's beginning (``retention``)
   once ``images`` has an image that contains it. ``sending`` carries one to a member that needs it
   and ``receiving`` takes it in there, with the frames of ``snapshots``, beside the state that is
   served, until it is whole.

Beside all that: a boot takes part once others would have noticed an old copy (``admission``,
``disks``); a member that lost something comes back (``recovery``, ``repair``); what is stored is
read again (``scrub``) and compared (``hashes``). ``upkeep`` and ``notes`` carry what members tell
each other for that.
"""
