"""What kills a run, an engine or a container, and what the user is told."""
