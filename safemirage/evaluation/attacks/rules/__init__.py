"""Rewrites of English questions by rules: the parts of a question, and the patterns that they are put into.

Begin with `rewrites.py`. `phrasing.py` takes a question apart, `patterns.py` holds what it is put into.
"""
