"""Conformance suites: subclass one in your tests, and pytest runs ours on what you wrote.

They need Hypothesis and pytest (``pip install 'raftkv[testing]'``).
"""
