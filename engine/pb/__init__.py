"""Code generated from protos/ by protos/generate.py; a test regenerates and compares it."""
