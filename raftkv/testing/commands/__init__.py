"""What ``python -m raftkv.testing`` offers, one module for each command.

Such a module, here or in the area that it belongs to, has two functions: ``add(commands)`` gives
the command its arguments, and ``run(options)`` runs it and answers with the exit status (0 if
nothing is broken, 1 if something is). :mod:`raftkv.testing.__main__` lists them all.
:mod:`~raftkv.testing.commands.screen` has what they share: arguments, and how to print.
"""
