"""The gRPC edge: translates between the wire and the engine's parts, and nothing else."""
