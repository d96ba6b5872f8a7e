"""What holds for every test."""

import os

# One thread a process: the tests' maps are small, and the workers of pytest-xdist share the cores. Set before torch is
# imported, and inherited by the programs that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
