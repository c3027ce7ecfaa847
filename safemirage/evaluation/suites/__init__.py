"""Suites: where the questions come from. A module a source; `sampling` draws from them.

`folder.py` reads a suite's folder and is the format to know; `vlguard.py` and `sets` make samples out of public files.
"""
