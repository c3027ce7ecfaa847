"""From records to the batches of a step: tokens and labels, the order of samples, how they are shared out.

Begin with `batches.py`; `order.py` is why losses do not depend on the number of workers.
"""
