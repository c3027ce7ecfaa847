"""What a run needs of each GPU, from its config and the shape of its model, before anything starts.

`shape.py` reads the shape, `memory.py` adds up.
"""
