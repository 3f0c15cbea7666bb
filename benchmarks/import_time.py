"""How long an import takes, in a process of its own, beside the peers: median of N, less the bare interpreter.

python benchmarks/import_time.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

STATEMENTS = {
    "import anyjob": "import anyjob",
    "import msgspec (anyjob's one dependency)": "import msgspec",
    "from celery import Celery": "from celery import Celery",
    "import dramatiq": "import dramatiq",
    "import huey": "import huey",
    "import taskiq": "import taskiq",
}


def measure(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", statement], check=True)
    return (time.perf_counter() - start) * 1000


def main() -> None:
    """Run every import in turn, `rounds` times over, so that all meet the same machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in ["bare", *STATEMENTS]}
    for statement in ["pass", *STATEMENTS.values()]:
        measure(statement)
    for _ in range(rounds):
        for name, statement in [("bare", "pass"), *STATEMENTS.items()]:
            times[name].append(measure(statement))
    bare = statistics.median(times["bare"])
    celery = statistics.median(times["from celery import Celery"]) - bare
    for name in STATEMENTS:
        median = statistics.median(times[name]) - bare
        print(f"{name:42}{median:8.0f} ms{median / celery:8.2f} x celery")


if __name__ == "__main__":
    main()
