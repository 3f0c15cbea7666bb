"""Jobs built by a container, with one scope per run. The container here is dishka; any other fits the same hook.

In an application with an anyjob.toml, `resolver = "shop.container:resolver"` in there does the same for every process.

pip install dishka
python examples/02_dependency_injection/dependency_injection.py
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dishka import Provider, Scope, make_container

import anyjob
from anyjob import BackgroundJob


class Connection:
    def __init__(self) -> None:
        print("  connection opened")

    def close(self) -> None:
        print("  connection closed")


def connect() -> Iterator[Connection]:
    connection = Connection()
    yield connection
    connection.close()


@dataclass
class Order:
    number: int


class ShipOrder(BackgroundJob[Order]):
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def execute(self, args: Order) -> None:
        print(f"  order {args.number} shipped with {type(self.connection).__name__}")


provider = Provider(scope=Scope.REQUEST)
provider.provide(connect)
provider.provide(ShipOrder)
container = make_container(provider)


@contextmanager
def resolver(job: type[Any]) -> Iterator[Any]:
    """Give the job from a scope of its own, which is left when the run ends, well or badly."""
    with container() as scope:
        yield scope.get(job)


def main() -> None:
    manager = anyjob.configure(backend="memory:", resolver=resolver)
    for number in (1, 2):
        ShipOrder.enqueue(Order(number))
    assert manager.drain() == 2


if __name__ == "__main__":
    main()
