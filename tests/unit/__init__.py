"""What needs no engine."""
