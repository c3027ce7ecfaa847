"""Labels become numbers: pure functions of stored samples, each with its interval. Nothing here reads a file or asks
a model.

Begin with `rates.py`. `intervals.py` and `significance.py` hold the statistics that the others use.
"""
