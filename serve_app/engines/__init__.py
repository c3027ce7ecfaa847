"""The models behind the interface: exports loaded on demand, and single questions gathered into passes.

Begin with `checkpoints.py`; `gathering.py` makes batches out of requests that come one by one.
"""
