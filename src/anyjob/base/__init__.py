"""What all else stands on: the envelope, errors, the clock, logging, and plain values. Knows no job and no backend."""
