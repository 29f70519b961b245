"""The gRPC edge: translates between the wire and the engine's parts, and nothing else."""

import os

# Read once, when numpy is loaded: the threads of its OpenBLAS wait for each other by spinning. While other
# work has the cores a search of 0.3 ms then takes 8 ms; one alone gains nothing from a second thread.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
