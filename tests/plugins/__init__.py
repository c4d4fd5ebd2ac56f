"""Plugins of others inside a stage and on the host."""
