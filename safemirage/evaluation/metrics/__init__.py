"""Labels become numbers: pure functions of stored samples, each with its interval. Nothing here reads a file or asks
a model.

Begin with `rates.py` (the corrected protocol) and `protocols.py` (the original's beside it). `intervals.py` and
`significance.py` hold the statistics that the others use.
"""
