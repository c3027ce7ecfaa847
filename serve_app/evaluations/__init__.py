"""Evaluations that the service takes up, and how it shows them.

`worker.py` takes queued ones from the store and runs them; `specs.py` says what callers may see of them.
"""
