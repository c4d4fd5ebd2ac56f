"""The same outcomes as in a local run."""
