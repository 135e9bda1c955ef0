"""Side by side with what a reader would use instead: `make bench`.

Everything runs in one process, on one thread, with the repetitions interleaved, and the
table goes to benchmarks/RESULTS.md. None of it is a test, and no test needs it.
"""

import os

# Read by the numerical libraries when they are first imported.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("FIPY_SOLVERS", "scipy")
