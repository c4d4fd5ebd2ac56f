"""The engines themselves, and what stands directly on them."""
