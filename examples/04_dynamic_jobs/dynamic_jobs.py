"""Jobs that are known only at run time, as plugins have them: by name, with a JSON payload.

python examples/04_dynamic_jobs/dynamic_jobs.py
"""

from typing import Any

import anyjob


def main() -> None:
    manager = anyjob.configure(backend="memory:")

    def greet(payload: Any) -> None:
        print(f"  hello {payload['name']}, from job {anyjob.current_job().name}")

    manager.registry.register_handler("plugin.greet", greet)
    manager.enqueue_by_name("plugin.greet", {"name": "world"})
    assert manager.drain() == 1

    manager.registry.unregister_handler("plugin.greet")
    try:
        manager.enqueue_by_name("plugin.great", {"name": "nobody"})
    except anyjob.UnknownJobError as error:
        print(f"  refused: {error}")


if __name__ == "__main__":
    main()
