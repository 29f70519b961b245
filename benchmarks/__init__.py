"""Demo, measurements and their reports. Nothing here is installed with the distribution."""
