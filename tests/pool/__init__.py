"""Several engines for one run."""
