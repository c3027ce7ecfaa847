"""What runs in the workers of a job, and what they tell its driver.

`training.py` is one Train worker, which calls `safemirage/training/loop.py`; `engines.py` is a model as an actor. Reports
go through a file of lines (`journal.py`) that `progress.py` follows in the driver.
"""
