"""The base of all else: the envelope, errors, the clock, logging, and plain values. Knows no job and no backend."""
