"""Evaluation: suites yield samples, generators answer them, judges label the answers, metrics count the labels.

`types.py` has what passes between them. One evaluation is put together in `run/evaluate.py`; begin there.
"""
