"""Runs jobs: the executor, and the worker of every backend without a worker of its own."""
