"""The cluster: a head of our own, its nodes, what it can hold, what its failures mean, jobs followed to their end.

`capacity.py` is arithmetic on resources and knows no Ray; `nodes.py` asks Ray for them. `failures.py` decides whether a
failure is tried again or is a result.
"""
