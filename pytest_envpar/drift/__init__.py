"""What differs between environments, and what a run left behind in its container."""
