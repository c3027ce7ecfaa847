"""What a run writes: checkpoints that it resumes from, exports, and the card that says what was done.

Begin with `checkpoint.py`; `result.py` writes the export at the end.
"""
