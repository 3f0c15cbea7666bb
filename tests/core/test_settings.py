"""Several sources, one schema: the strongest wins, all faults are told at once, passwords never."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from anyjob import ConfigurationError, JobRegistry, JobRoute, NotConfiguredError, RetryPolicy
from anyjob.base.urls import hide_in, hide_password
from anyjob.settings import Settings, compose, load_settings
from anyjob.settings.schema import FIELDS

SCHEMES = ["celery+amqp", "memory", "rq+redis"]
KNOWN = "celery+amqp, memory, rq+redis"
PASSWORD = "hunter2"

Load = Callable[..., Settings | None]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load from a folder with the given files."""

    def load_from(
        given: Any = None,
        *,
        environ: Mapping[str, str] | None = None,
        schemes: list[str] | None = SCHEMES,
        **files: str,
    ) -> Settings | None:
        for name, text in files.items():
            (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
        return load_settings(given, environ=environ or {}, directory=tmp_path, schemes=schemes)

    return load_from


@pytest.fixture
def loaded(load: Load) -> Callable[..., Settings]:
    def load_some(*args: Any, **kwargs: Any) -> Settings:
        settings = load(*args, **kwargs)
        assert settings is not None
        return settings

    return load_some


Loaded = Callable[..., Settings]


@pytest.fixture
def faults(load: Load) -> Callable[..., list[str]]:
    def load_badly(*args: Any, **kwargs: Any) -> list[str]:
        with pytest.raises(ConfigurationError) as caught:
            load(*args, **kwargs)
        assert str(caught.value) == "\n".join(caught.value.faults)
        return list(caught.value.faults)

    return load_badly


Faults = Callable[..., list[str]]


# Doors


def test_nothing_said_is_nothing_set(load: Load) -> None:
    assert load() is None
    assert load({"namespace": "shop"}, environ={"ANYJOB_MAX_LOSSES": "3"}, pyproject="[project]\nname = 'x'") is None


def test_one_url_is_enough(loaded: Loaded) -> None:
    settings = loaded(environ={"ANYJOB_BACKEND": "memory:"})

    assert (settings.default, settings.worker_backend) == ("default", None)
    assert settings.backends["default"].url == "memory:"
    assert (settings.retry, settings.namespace, settings.enqueue_only) == (RetryPolicy(), "anyjob", False)
    assert (settings.enqueue_timeout, settings.max_args_size, settings.max_losses) == (5.0, 1024 * 1024, 5)
    assert (settings.imports, settings.routes) == ((), ())


def test_a_file_says_everything(loaded: Loaded) -> None:
    settings = loaded(
        anyjob="""
        default = "main"
        worker_backend = "ledger"
        imports = ["shop.jobs"]
        namespace = "shop"
        enqueue_only = true
        enqueue_timeout = 2
        max_args_size = 1000
        max_losses = 0
        retry = { max_tries = 3, jitter = 0.5 }

        [backends]
        ledger = "celery+amqp://localhost"

        [backends.main]
        url = "rq+redis://localhost"
        queues = ["mail", "web"]
        options = { any = { thing = 1 } }

        [[routes]]
        job = "billing.*"
        backend = "ledger"

        [[routes]]
        queue = "mail"
        backend = "main"
        """
    )

    assert (settings.default, settings.worker_backend, settings.imports) == ("main", "ledger", ("shop.jobs",))
    assert (settings.namespace, settings.enqueue_only, settings.enqueue_timeout) == ("shop", True, 2.0)
    assert (settings.max_args_size, settings.max_losses) == (1000, 0)
    assert settings.retry == RetryPolicy(max_tries=3, jitter=0.5)
    assert settings.routes == (JobRoute(job="billing.*", backend="ledger"), JobRoute(queue="mail", backend="main"))
    main = settings.backends["main"]
    assert (main.url, main.queues, main.options) == ("rq+redis://localhost", ("mail", "web"), {"any": {"thing": 1}})
    assert settings.backends["ledger"].queues is None
    assert set(settings.sources.values()) == {"anyjob.toml"}


def test_the_environment_says_nearly_everything(loaded: Loaded) -> None:
    settings = loaded(
        environ={
            "ANYJOB_BACKENDS__MAIN_ONE__URL": "rq+redis://localhost",
            "ANYJOB_BACKENDS__MAIN_ONE__QUEUES": "mail, web,",
            "ANYJOB_DEFAULT": "main_one",
            "ANYJOB_IMPORTS": "shop.jobs, bank.jobs",
            "ANYJOB_ENQUEUE_ONLY": "true",
            "ANYJOB_ENQUEUE_TIMEOUT": "2.5",
            "ANYJOB_MAX_ARGS_SIZE": "10",
            "ANYJOB_NAMESPACE": "shop",
            "ANYJOB_RETRY": "none",
            "ANYJOB_TEST_REDIS": "reserved",
            "ANYJOBS": "not ours",
            "PATH": "/bin",
        }
    )

    assert settings.backends["main_one"].queues == ("mail", "web")
    assert (settings.default, settings.imports) == ("main_one", ("shop.jobs", "bank.jobs"))
    assert (settings.enqueue_only, settings.enqueue_timeout, settings.max_args_size) == (True, 2.5, 10)
    assert (settings.namespace, settings.retry) == ("shop", None)


def test_the_strongest_door_wins(loaded: Loaded) -> None:
    settings = loaded(
        {"max_losses": 1},
        environ={"ANYJOB_MAX_LOSSES": "2", "ANYJOB_NAMESPACE": "environment"},
        anyjob="max_losses = 3\nnamespace = 'file'\nenqueue_timeout = 3",
        pyproject="[tool.anyjob]\nmax_losses = 4\nenqueue_timeout = 4\nmax_args_size = 4\nbackends.main = 'memory:'",
    )

    assert (settings.max_losses, settings.namespace) == (1, "environment")
    assert (settings.enqueue_timeout, settings.max_args_size) == (3, 4)
    assert settings.sources == {
        "max_losses": "arguments",
        "namespace": "environment",
        "enqueue_timeout": "anyjob.toml",
        "max_args_size": "pyproject.toml [tool.anyjob]",
        "backends.main.url": "pyproject.toml [tool.anyjob]",
    }


TWO = "default = 'one'\n[backends]\none = 'memory:'\ntwo = 'memory:'"


def test_anyjob_backend_may_be_an_alias(loaded: Loaded, faults: Faults) -> None:
    assert loaded(environ={"ANYJOB_BACKEND": "two"}, anyjob=TWO).default == "two"
    assert faults(environ={"ANYJOB_BACKEND": "tow"}) == [
        "environment: default = 'tow' names no backend. Did you mean 'two'? Defined: one, two."
    ]


def test_anyjob_backend_may_be_a_url(loaded: Loaded) -> None:
    settings = loaded(environ={"ANYJOB_BACKEND": "rq+redis://localhost"}, anyjob=TWO)

    assert settings.default == "default"
    assert {alias: row.url for alias, row in settings.backends.items()} == {
        "one": "memory:",
        "two": "memory:",
        "default": "rq+redis://localhost",
    }


@pytest.mark.parametrize(
    ("said", "alias", "url"), [("two", "two", "memory:"), ("rq+redis://localhost", "worker", "rq+redis://localhost")]
)
def test_a_worker_may_serve_another_backend(loaded: Loaded, said: str, alias: str, url: str) -> None:
    settings = loaded(environ={"ANYJOB_WORKER_BACKEND": said}, anyjob=TWO)

    assert (settings.default, settings.worker_backend) == ("one", alias)
    assert settings.backends[alias].url == url


def test_the_workers_url_is_not_where_new_jobs_go(loaded: Loaded) -> None:
    worker = {"ANYJOB_WORKER_BACKEND": "rq+redis://localhost"}

    assert loaded(environ=worker).default == "worker"
    assert loaded(environ=worker, anyjob="backends.main = 'memory:'").default == "main"


def test_a_url_alone_replaces_the_whole_row_and_a_table_amends_it(loaded: Loaded) -> None:
    file = "[backends.main]\nurl = 'rq+redis://localhost'\nqueues = ['mail']\noptions = { a = 1 }"

    replaced = loaded({"backends": {"main": "memory:"}}, anyjob=file).backends["main"]
    assert (replaced.url, replaced.queues, replaced.options) == ("memory:", None, {})

    amended = loaded({"backends": {"main": {"url": "memory:"}}}).backends["main"]
    assert (amended.url, amended.queues, amended.options) == ("memory:", ("mail",), {"a": 1})

    closed = loaded(environ={"ANYJOB_BACKENDS__MAIN__QUEUES": "web"}).backends["main"]
    assert (closed.url, closed.queues) == ("rq+redis://localhost", ("web",))


def test_objects_are_taken_as_they_are(loaded: Loaded) -> None:
    policy, route = RetryPolicy(give_up_on=(ValueError,)), JobRoute(job="x", backend="main")
    settings = loaded({"backends": {"main": "memory:"}, "retry": policy, "routes": [route]})

    assert (settings.retry, settings.routes) == (policy, (route,))
    assert loaded({"backends": {"main": "memory:"}, "retry": None}).retry is None


# Files


def test_the_nearest_folder_with_settings_counts(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "anyjob.toml").write_text("namespace = 'far'\nbackends.main = 'memory:'")
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.anyjob]\nnamespace = 'near'\nbackends.main = 'memory:'")
    (inner / "pyproject.toml").write_text("[tool.other]\nx = 1")

    settings = load_settings(environ={}, directory=inner)

    assert settings is not None
    assert settings.namespace == "near"


@pytest.mark.parametrize("name", ["other.toml", "pyproject.toml"])
def test_a_named_file_is_read_instead(loaded: Loaded, tmp_path: Path, name: str) -> None:
    file = tmp_path / "etc" / name
    file.parent.mkdir()
    table = "[tool.anyjob]\n" if name == "pyproject.toml" else ""
    file.write_text(f"{table}namespace = 'named'\nbackends.main = 'memory:'")

    settings = loaded(environ={"ANYJOB_CONFIG": str(file)}, anyjob="max_losses = 1")
    assert (settings.namespace, settings.max_losses) == ("named", 5)

    other = load_settings(environ={"ANYJOB_CONFIG": "/weaker.toml"}, config=file)
    assert other is not None
    assert other.namespace == "named"


def test_a_named_file_has_to_be_there(faults: Faults, tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"

    assert faults(environ={"ANYJOB_CONFIG": str(missing), "ANYJOB_BACKEND": "memory:"}) == [
        f"{missing}: there is no such file."
    ]


def test_a_broken_file_is_told(faults: Faults, tmp_path: Path) -> None:
    (fault,) = faults(anyjob=f'url = "rq+redis://:{PASSWORD}@localhost\n"')
    assert fault.startswith("anyjob.toml: ")
    assert "line 1" in fault
    assert PASSWORD not in fault

    (tmp_path / "anyjob.toml").write_bytes(b"\xff\xfe")
    (fault,) = faults()
    assert fault.startswith("anyjob.toml: 'utf-8' codec can't decode")


@pytest.mark.parametrize("text", ["tool = 3", "[tool]", "[tool.other]\nanyjob = 1"])
def test_what_is_not_ours_is_left_alone(load: Load, text: str) -> None:
    assert load(pyproject=text) is None


# Faults


def test_all_faults_of_all_sources_are_told_at_once(faults: Faults) -> None:
    assert faults(
        {"enqueue_timeout": "soon", "worker_backend": "nobody"},
        environ={"ANYJOB_MAX_LOSSES": "-1", "ANYJOB_NAMESPASE": "x"},
        anyjob="""
        retry = "never"
        imports = "shop.jobs"
        colour = "red"
        [backends.one]
        url = "redis"
        qeues = []
        [backends.two]
        url = "rq+redsi://localhost"
        """,
    ) == [
        "environment: unknown variable ANYJOB_NAMESPASE. Did you mean 'ANYJOB_NAMESPACE'?",
        "anyjob.toml: retry: 'never' must be \"none\" or a table, as { max_tries = 5 }.",
        "anyjob.toml: imports: 'shop.jobs' must be a list, as ['mail'].",
        f"anyjob.toml: unknown key 'colour'. Known keys: {', '.join(sorted([*FIELDS, 'backends']))}.",
        "anyjob.toml: backends.one.url: must be a URL, as 'memory:' or 'rq+redis://localhost:6379/0'.",
        "anyjob.toml: backends.one: unknown key 'qeues'. Did you mean 'queues'? Known keys: options, queues, url.",
        "environment: max_losses: -1 must be a finite number, 0 or more, 3153600000 at most.",
        "arguments: enqueue_timeout: Expected `float`, got `str`",
        f"anyjob.toml: backends.two.url: unknown scheme 'rq+redsi'. Did you mean 'rq+redis'? Known: {KNOWN}.",
        "arguments: worker_backend = 'nobody' names no backend. Defined: two.",
    ]


MAIN = {"backends": {"main": "memory:"}}


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"retry": {"max_tries": 0}}, "retry: RetryPolicy(max_tries=0): max_tries must be at least 1, or None."),
        ({"retry": {"max_tries": "3"}}, "retry: Expected `int | null`, got `str` - at `$.max_tries`"),
        ({"retry": {"first_wiat": 1}}, "retry: unknown key 'first_wiat'. Did you mean 'first_wait'? Known keys: "),
        ({"retry": {"give_up_on": []}}, "retry: unknown key 'give_up_on'. Known keys: max_tries, "),
        ({"retry": 3}, 'retry: 3 must be "none" or a table'),
        ({"routes": 3}, "routes: must be a list of tables, as [[routes]] makes."),
        ({"routes": {"job": "x", "backend": "main"}}, "routes: must be a list of tables"),
        ({"routes": [3]}, "routes[0] must be a table."),
        ({"routes": [{"job": "x"}]}, "routes[0]: Object missing required field `backend`"),
        ({"routes": [{"backend": "main"}]}, "routes[0]: a route has either a job pattern or a queue."),
        ({"routes": [{"job": "x", "queue": "y", "backend": "main"}]}, "routes[0]: a route has either"),
        ({"routes": [{"jop": "x", "backend": "main"}]}, "routes[0]: unknown key 'jop'. Did you mean 'job'?"),
        ({"routes": [{"queue": "Mail", "backend": "main"}]}, "routes[0]: queue = 'Mail': a queue's name has"),
        (
            {"routes": [{"job": "x", "backend": "main"}, {"job": "y", "backend": "mian"}]},
            "routes[1].backend = 'mian' names no backend. Did you mean 'main'? Defined: main.",
        ),
        ({"namespace": "My Shop"}, "namespace: 'My Shop': a namespace is spelt like a queue: "),
        ({"namespace": 3}, "namespace: 3: a namespace is spelt like a queue: "),
        ({"imports": [1]}, "imports: Expected `str`, got `int`"),
        ({"enqueue_only": "yes"}, "enqueue_only: Expected `bool`, got `str`"),
        ({"enqueue_timeout": 0}, "enqueue_timeout: 0.0 must be a finite number, 0.1 or more, 3153600000 at most."),
        ({"enqueue_timeout": float("nan")}, "enqueue_timeout: nan must be a finite number"),
        ({"enqueue_timeout": "inf"}, "enqueue_timeout: inf must be a finite number"),
        ({"max_args_size": 0}, "max_args_size: 0 must be"),
        ({"max_losses": 1.5}, "max_losses: Expected `int`, got `float`"),
        ({"default": "nobody"}, "default = 'nobody' names no backend. Defined: main."),
        ({"default": 3}, "default: Expected `str`, got `int`"),
        ({"backends": []}, "backends must be a table of backends by alias."),
        ({"backends": {"main": ["memory:"]}}, "backends.main must be a URL, or a table with one."),
        ({"backends": {"main": {"queues": ["mail"]}}}, "backends.main: url is missing, as 'memory:'."),
        ({"backends": {"main": {"url": 3}}}, "backends.main.url: must be a URL"),
        (
            {"backends": {"main": {"url": "memory:", "queues": ["Mail"]}}},
            "backends.main.queues: 'Mail': a queue's name",
        ),
        ({"backends": {"main": {"url": "memory:", "queues": "mail"}}}, "backends.main.queues: 'mail' must be a list"),
        (
            {"backends": {"main": {"url": "memory:", "options": 3}}},
            "backends.main.options: Expected `object`, got `int`",
        ),
    ],
    ids=str,
)
def test_a_fault_says_where_and_what(faults: Faults, given: dict[str, Any], fault: str) -> None:
    (told,) = faults(MAIN | given)

    assert told.startswith(f"arguments: {fault}")


def test_settings_are_a_table(faults: Faults) -> None:
    assert faults([1]) == ["arguments: must be a table."]
    assert faults(pyproject="[tool]\nanyjob = 3") == ["pyproject.toml [tool.anyjob]: must be a table."]


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("ANYJOB_BACKND", "ANYJOB_BACKEND"),
        ("ANYJOB_WORKER_BACKENDS", "ANYJOB_WORKER_BACKEND"),
        ("ANYJOB_CONFG", "ANYJOB_CONFIG"),
        ("ANYJOB_BACKENDS__MAIN__ULR", "ANYJOB_BACKENDS__MAIN__URL"),
    ],
)
def test_an_unknown_variable_is_a_fault(faults: Faults, variable: str, meant: str) -> None:
    assert faults(environ={variable: "memory:"}) == [
        f"environment: unknown variable {variable}. Did you mean {meant!r}?"
    ]


def test_which_of_two_is_the_default_has_to_be_said(faults: Faults) -> None:
    assert faults({"backends": {"one": "memory:", "two": "memory:"}}) == [
        "default is missing: which of one, two do new jobs go to?"
    ]


def test_schemes_are_checked_only_against_a_list(loaded: Loaded) -> None:
    assert loaded({"backends": {"main": "their+own://x"}}, schemes=None).backends["main"].url == "their+own://x"


# Passwords


@pytest.mark.parametrize(
    ("password", "in_url"),
    [
        ("p@ss:/?#[]%w", "p%40ss%3A%2F%3F%23%5B%5D%25w"),
        ("söß", "s%C3%B6%C3%9F"),
        ("", ""),
        ("${OTHER}", "%24%7BOTHER%7D"),
    ],
)
def test_a_password_from_the_environment_may_hold_any_character(loaded: Loaded, password: str, in_url: str) -> None:
    settings = loaded(
        {"backends": {"main": "rq+redis://user:${REDIS_PASSWORD}@${HOST}/${DB}?name=${NAME}"}},
        environ={"REDIS_PASSWORD": password, "HOST": "[::1]:6379", "DB": "0", "NAME": "a/b"},
    )

    assert settings.backends["main"].url == f"rq+redis://user:{in_url}@[::1]:6379/0?name=a/b"


def test_a_url_without_user_is_filled_in_as_it_is(loaded: Loaded) -> None:
    settings = loaded(environ={"ANYJOB_BACKEND": "rq+redis://${HOST}", "HOST": "localhost:1"})

    assert settings.backends["default"].url == "rq+redis://localhost:1"


@pytest.mark.parametrize("url", ["rq+${URL}", "${SCHEME}+${URL}", "${SCHEME}${REST}"])
def test_a_scheme_may_be_filled_in_too(loaded: Loaded, url: str) -> None:
    variables = {"URL": "redis://h", "SCHEME": "rq", "REST": "+redis://h"}

    assert loaded(environ={"ANYJOB_BACKEND": url, **variables}).backends["default"].url == "rq+redis://h"


def test_a_variable_that_is_not_set_is_a_fault(faults: Faults) -> None:
    assert faults(anyjob="backends.main = 'rq+redis://:${REDIS_PASSWORD}@localhost'") == [
        "anyjob.toml: backends.main.url: ${REDIS_PASSWORD} is not set in the environment."
    ]


def test_settings_never_show_a_password(loaded: Loaded) -> None:
    settings = loaded(
        {"backends": {"main": {"url": "rq+redis://u:${PW}@localhost?token=hunter2", "options": {"pw": PASSWORD}}}},
        environ={"PW": PASSWORD, "ANYJOB_WORKER_BACKEND": f"celery+amqp://:{PASSWORD}@localhost"},
    )

    assert PASSWORD in settings.backends["main"].url
    assert "rq+redis://u:***@localhost" in repr(settings)
    assert PASSWORD not in repr(settings)
    assert PASSWORD not in str(settings.backends)


@pytest.mark.parametrize(
    "url",
    [
        "rq+rediss://:hunter2@localhost",
        "RQ+REDIS://:hunter2@localhost",
        "1rq://:hunter2@localhost",
        "//:hunter2@localhost",
        "rq+redis://:hunter2@${NOWHERE}",
        "rq+redis://u:hunter2/x@localhost",
        "rq+redis://u:hunter2#x@localhost",
        "rq+redis://u:[hunter2]@localhost",
    ],
)
@pytest.mark.parametrize("variable", ["ANYJOB_BACKEND", "ANYJOB_WORKER_BACKEND", "ANYJOB_BACKENDS__MAIN__URL"])
def test_faults_never_show_a_password(faults: Faults, variable: str, url: str) -> None:
    assert PASSWORD not in "\n".join(faults(environ={variable: url}))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory:", "memory:"),
        ("rq+redis://localhost:6379/0", "rq+redis://localhost:6379/0"),
        ("rq+redis://user@localhost", "rq+redis://user@localhost"),
        ("rq+redis://:hunter2@localhost/0", "rq+redis://:***@localhost/0"),
        ("rq+redis://user:hunter2:@x@localhost", "rq+redis://user:***@localhost"),
        ("rq+redis://:hunter2/with?odd#signs@localhost", "rq+redis://:***@localhost"),
        ("celery://?app=shop:app&Password=hunter2&x=1", "celery://?app=shop:app&Password=***&x=***"),
        ("sqs://h?pw=hunter2&auth=hunter2&secret_key=hunter2", "sqs://h?pw=***&auth=***&secret_key=***"),
        ("rq+redis://h/0?bogus=hunter2&db=3&x=&hunter2", "rq+redis://h/0?bogus=***&db=3&x=&***"),
        ("rq+redis://h/0?db=3#hunter2", "rq+redis://h/0?db=3#***"),
        ("rq+redis://u:hunter2#x", "rq+redis://***"),
        ("rq+redis://u:hunter2#x@h/0?db=3", "rq+redis://u:***@h/0?db=3"),
        ("sqlite:////home/me@work:2/jobs.db", "sqlite:////home/me@work:2/jobs.db"),
    ],
)
def test_hiding_a_password(url: str, shown: str) -> None:
    assert hide_password(url) == shown


@pytest.mark.parametrize(("variable", "alias"), [("ANYJOB_BACKEND", "DEFAULT"), ("ANYJOB_WORKER_BACKEND", "WORKER")])
def test_a_backend_that_a_variable_names_may_have_queues_by_another(variable: str, alias: str) -> None:
    environ = {variable: "memory:", f"ANYJOB_BACKENDS__{alias}__QUEUES": "mail,web"}
    settings = load_settings(environ=environ, directory=Path("/"), schemes=SCHEMES)
    assert settings is not None
    row = settings.backends[alias.lower()]
    assert (row.url, row.queues) == ("memory:", ("mail", "web"))


@pytest.mark.parametrize("sign", "/?#")
def test_a_password_that_splits_the_url_is_a_fault_of_its_place(faults: Faults, sign: str) -> None:
    (told,) = faults(environ={"ANYJOB_BACKEND": f"memory://u:hunter2{sign}x@localhost"})
    assert told.startswith("environment: backends.default.url: it can't be read. In front of the host, percent-encode")


@pytest.mark.parametrize(
    ("text", "url", "shown"),
    [
        ("no 'hunter2' here", "x://u:hunter2@h", "no '***' here"),
        ("no 'a/b' here", "x://u:a%2Fb@h", "no '***' here"),
        ("no 'hunter2', port 12", "x://u:1@h?p=hunter2", "no '***', port 12"),
        ("no module 'shop'", "celery://?app=shop", "no module 'shop'"),
    ],
)
def test_hiding_in_what_others_say(text: str, url: str, shown: str) -> None:
    assert hide_in(text, url) == shown


KUBERNETES = {
    "ANYJOB_SERVICE_HOST": "10.0.0.1",
    "ANYJOB_SERVICE_PORT": "6379",
    "ANYJOB_SERVICE_PORT_HTTP": "80",
    "ANYJOB_PORT": "tcp://10.0.0.1:6379",
    "ANYJOB_PORT_6379_TCP": "tcp://10.0.0.1:6379",
    "ANYJOB_PORT_6379_TCP_PROTO": "tcp",
    "ANYJOB_PORT_6379_TCP_PORT": "6379",
    "ANYJOB_PORT_6379_TCP_ADDR": "10.0.0.1",
    "ANYJOB_REDIS_SERVICE_HOST": "10.0.0.1",
    "ANYJOB_REDIS_PORT_6379_TCP_ADDR": "10.0.0.1",
}


def test_what_kubernetes_tells_of_a_service_is_none_of_ours(loaded: Loaded) -> None:
    assert loaded({}, environ={**KUBERNETES, "ANYJOB_BACKEND": "memory:"}) == loaded(
        {}, environ={"ANYJOB_BACKEND": "memory:"}
    )


def test_a_typo_near_those_is_told_all_the_same(faults: Faults) -> None:
    for variable in ("ANYJOB_SERVICE", "ANYJOB_LEESE", "ANYJOB_PORTS"):
        (told,) = faults({"backends": {"main": "memory:"}}, environ={variable: "1"})
        assert told.startswith(f"environment: unknown variable {variable}")


@pytest.mark.parametrize("alias", ["Main", "main", "MAIN", "ma-in", "Ma_In"])
def test_a_variable_means_the_alias_that_it_fits(loaded: Loaded, alias: str) -> None:
    variable = alias.upper().replace("-", "_")
    settings = loaded(
        {"backends": {alias: {"url": "rq+redis://localhost", "queues": ["mail"]}}},
        environ={f"ANYJOB_BACKENDS__{variable}__QUEUES": "bulk", "ANYJOB_BACKEND": alias},
    )
    assert [*settings.backends] == [alias]
    assert settings.backends[alias].queues == ("mail",)  # arguments are the stronger door


def test_a_variable_that_fits_two_aliases_is_a_fault(faults: Faults) -> None:
    (told,) = faults(
        {"backends": {"Main": "memory:", "MAIN": "memory:"}, "default": "Main"},
        environ={"ANYJOB_BACKENDS__MAIN__QUEUES": "mail"},
    )
    assert told == "environment: ANYJOB_BACKENDS__MAIN__QUEUES fits 'MAIN' and 'Main'. Rename one of them."


def test_a_deleted_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "gone"
    here.mkdir()
    monkeypatch.chdir(here)
    here.rmdir()
    settings = load_settings({"backends": {"main": "memory:"}}, environ={})
    assert settings is not None
    monkeypatch.setattr(os, "environ", {})
    with pytest.raises(NotConfiguredError, match="the working directory was deleted"):
        compose.load(registry=JobRegistry())
