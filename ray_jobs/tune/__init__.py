"""What a search is made of: the study, a trial, what came of them.

`study.py` decides which point is next, `trial.py` trains and judges one point, `outcome.py` turns all points into a front
and a choice. `search.py` puts them together; `cost.py` says beforehand what a search would take.
"""
