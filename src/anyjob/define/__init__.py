"""Defines jobs: their names, arguments and retry policies, and the context of a running job."""
