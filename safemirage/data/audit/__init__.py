"""The model-free audit: how far the words of a question give its safety label away.

Begin with `audit.py`, which puts together the counts of `words.py` and the classifiers of `lookup.py`; `report.py`
shows it.
"""
