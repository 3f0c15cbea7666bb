"""The jobs of the conformance kit and the journal they write; workers import this, and no test library."""

__all__: list[str] = []
