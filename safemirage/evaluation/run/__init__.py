"""One evaluation from its config to stored samples: preflight, batches, cache keys; several of them; judging again.

Begin with `evaluate.py`, the evaluation itself; `process.py` opens what its config names, `matrix.py` runs models x
suites. The keys in `evaluation/types.py` say when an answer or a verdict is
known already.
"""
