"""From a YAML file and `a.b=c` overrides to a validated config, what is wrong with it in words, and its identity.

Begin with `load.py`. `explain.py` puts a validation error into words, `identity.py` gives the digest that a run is
known by.
"""
