"""Probes: how deep does unlearning go? The export is changed in some way, and measured as any model is.

`measuring.py` measures the states of a model one after another; `relearn.py` and `weights.py` make them.
"""
