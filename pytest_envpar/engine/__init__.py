"""Container engines: a short list of verbs, spoken over the Docker Engine API."""
