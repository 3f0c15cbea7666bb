"""The contracts between the core and a job system: the promises of adapters and stores, and of the core to them."""
