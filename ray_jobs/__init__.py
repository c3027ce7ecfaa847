"""Entry points for `ray job submit`: train, search, evaluate, reproduce. All that knows Ray Train and Ray Tune."""
