"""What holds for all tests."""

import os

# Read when torch is imported. Tiny models gain nothing from more threads, and threads that wait by spinning take the
# cores from the other processes of a test: with one thread a test of many small forwards ran in a tenth of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
