"""What runs a job: the executor, and the worker of every backend that has none of its own."""
