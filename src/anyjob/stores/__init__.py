"""Stores as backends, and the store that is built in: memory."""
