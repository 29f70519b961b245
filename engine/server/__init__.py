"""The gRPC edge: translates between the wire and the engine's parts, and nothing else."""

import os

# Read once, when numpy is loaded: the threads of its OpenBLAS wait for each other by spinning. With other work
# on the machine's cores a search of 0.3 ms then takes 8 ms; a search alone gains nothing from a second thread.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
