"""Images from real registries."""
