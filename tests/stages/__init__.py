"""What one stage promises: its keys, its fixtures, its isolation."""
