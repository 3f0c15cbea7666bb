"""What an adapter or a store promises, and what it may rely on: the contracts between the core and a job system."""
