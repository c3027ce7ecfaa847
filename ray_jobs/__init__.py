"""Entry points for `ray job submit`: train, search, evaluate, reproduce. All that knows Ray Train and Ray Tune.

Begin with `train.py`, one run from its config to its export. `worker` holds what runs in its processes, `cluster` what
is asked of a cluster and how its failures are told apart, `tune` what a search is made of.
"""
