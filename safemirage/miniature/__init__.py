"""A safety mirage that trains on a laptop in a minute: a world of drawn pictures, its questions, its model.

Begin with `world.py`, which writes all files of one seed; `training_sets.py` cuts the training sets that the mirage
comes from.
"""
