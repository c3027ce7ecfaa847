"""Unlearning and tuning methods: one module each, told apart by `build_method`.

A method has one `loss(model, batch)`. What it returns is this worker's *share*: summed over all workers and
micro-batches of a step it is the loss of the global batch, so results do not depend on how the batch is cut.
"""
