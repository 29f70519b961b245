"""What an answer means in an open set: thresholds from a target rate and the identities searched."""
