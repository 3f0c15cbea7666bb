"""Sends a job: the manager checks it, chooses its backend and hands it over."""
