"""Train and judge embeddings. Nothing that serves imports it."""
