"""Several stages and several workers, one verdict."""
