"""Training: one loop behind the Engine seam; knows tensors and a `report` callable, and no Ray.

Begin with `loop.py`, then `engine.py`. `samples` says which samples a step sees, `saving` what a run writes, `estimate`
what memory it will need.
"""
