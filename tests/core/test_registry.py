"""One name, one args type, one job; whatever is said twice or wrongly is refused with its place."""

from __future__ import annotations

import math
import types
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pytest
from msgspec import UNSET

from anyjob import (
    AsyncBackgroundJob,
    BackgroundJob,
    DuplicateJobError,
    JobConfiguration,
    JobDefinitionError,
    JobManager,
    JobPriority,
    JobRegistry,
    JsonJobSerializer,
    RetryPolicy,
    UnknownJobError,
    background_job,
    job_name,
    override,
)

T = TypeVar("T")
K = TypeVar("K")


@dataclass
class Plain:
    to: str = ""


@job_name("mail.send", aliases=["mail.old", "mail.older"])
@dataclass
class Email:
    to: str = ""


@dataclass
class Newsletter(Email):
    issue: int = 0


@dataclass
class Page(Generic[T]):
    items: list[T]


def make_job(registry: JobRegistry, args_type: Any, name: str = "Job", **attributes: Any) -> type[BackgroundJob[Any]]:
    """Define a job class, as a module would."""
    body = {"execute": lambda _self, _args: None, "__module__": __name__, "__qualname__": name} | attributes
    return types.new_class(name, (BackgroundJob[args_type],), {"registry": registry}, lambda space: space.update(body))


def send(to: str) -> None: ...


def _at_module_level(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda space: space.update(__module__=__name__, __qualname__=name)


def make_function(registry: JobRegistry, name: str | None = None, **options: Any) -> Any:
    return background_job(name, registry=registry, **options)(send)


# Registration


def test_a_class_registers_itself(registry: JobRegistry) -> None:
    policy = RetryPolicy(max_tries=3)

    class SendEmail(BackgroundJob[Email], registry=registry):
        queue = "mail"
        priority = JobPriority.HIGH
        retry = policy
        time_limit = timedelta(minutes=2)

        def execute(self, args: Email) -> None: ...

    assert list(registry) == [
        JobConfiguration(
            name="mail.send",
            aliases=("mail.old", "mail.older"),
            job=SendEmail,
            declared_args_type=Email,
            queue="mail",
            priority=JobPriority.HIGH,
            retry=policy,
            time_limit=120.0,
            is_async=False,
        )
    ]
    configuration = registry.get("mail.send")
    assert configuration is registry.get("mail.older") is registry.get_for(Email()) is registry.get_for_job(SendEmail)


def test_what_a_class_leaves_unsaid(registry: JobRegistry) -> None:
    class SendPlain(AsyncBackgroundJob[Plain], registry=registry):
        async def execute(self, args: Plain) -> None: ...

    configuration = registry.get_for(Plain())
    assert configuration.name == f"{__name__}.Plain"
    assert (configuration.queue, configuration.priority) == ("default", JobPriority.NORMAL)
    assert (configuration.retry, configuration.time_limit) == (UNSET, None)
    assert configuration.is_async


def test_a_function_registers_itself(registry: JobRegistry) -> None:
    make_function(registry, "mail.fn", aliases=["fn.old"], queue="mail", retry=None, time_limit=2)

    configuration = registry.get("fn.old")
    assert configuration is registry.get("mail.fn")
    assert (configuration.queue, configuration.retry, configuration.time_limit) == ("mail", None, 2)
    assert configuration.job.args_type is configuration.args_type


def test_a_function_is_named_after_its_place(registry: JobRegistry) -> None:
    background_job(registry=registry)(send)

    (configuration,) = registry
    assert configuration.name == f"{__name__}.send"
    assert not configuration.is_async


def test_what_is_defined_in_a_function_has_no_name_to_be_found_by(registry: JobRegistry) -> None:
    def local() -> None: ...

    @dataclass
    class Local:
        pass

    for define in (
        lambda: background_job(registry=registry)(local),
        lambda: background_job(registry=registry)(lambda: None),
        lambda: make_job(registry, Local),
        lambda: make_job(registry, int, "f.<locals>.Job"),
    ):
        with pytest.raises(
            JobDefinitionError, match=r'no name leads to it. Give the job one: @background_job\("mail.send"\)'
        ):
            define()
    assert not [*registry]
    background_job("local", registry=registry)(local)
    job_name("of.args")(Local)
    make_job(registry, Local)
    assert {*registry.names} == {"local", "of.args"}


@pytest.mark.parametrize("name", ["anyjob.run", "anyjob.job", "anyjob.mine"])
def test_our_own_names_are_reserved(registry: JobRegistry, name: str) -> None:
    for define in (
        lambda: make_function(registry, name),
        lambda: make_function(registry, "mine", aliases=[name]),
        lambda: job_name(name),
        lambda: registry.register_handler(name, print),
    ):
        with pytest.raises(JobDefinitionError, match=f"'{name}': names that begin with 'anyjob.' are anyjob's own"):
            define()
    make_function(registry, "anyjobs.mine")


def _generate() -> Iterator[None]:
    yield


async def _agenerate() -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (_generate, "_generate .*is a generator: it must not yield"),
        (_agenerate, "_agenerate .*is a generator: it must not yield"),
        (contextmanager(_generate), "_generate .*is a context manager: enter it in a job"),
        (asynccontextmanager(_agenerate), "_agenerate .*is a context manager: enter it in a job"),
    ],
)
def test_what_does_nothing_when_it_is_called_is_no_job(registry: JobRegistry, function: Any, told: str) -> None:
    for define in (
        lambda: background_job("x", registry=registry)(function),
        lambda: registry.register_handler("x", function),
    ):
        with pytest.raises(JobDefinitionError, match=told):
            define()

    with pytest.raises(JobDefinitionError, match="execute .*is a generator"):

        class Yields(BackgroundJob[int], registry=registry):
            def execute(self, args: int) -> Iterator[None]:  # type: ignore[override]
                yield

    assert not [*registry]


@pytest.mark.parametrize(
    "make",
    [
        lambda: attrs.define(type("ByAttrs", (), {})),
        lambda: msgspec.defstruct("ByStruct", []),
        lambda: pydantic.create_model("ByModel"),
        lambda: NamedTuple("ByTuple", []),
        lambda: TypedDict("ByDict", {}),  # type: ignore[operator]
    ],
    ids=["attrs", "struct", "pydantic", "namedtuple", "typeddict"],
)
def test_every_kind_of_args_class_can_be_named(registry: JobRegistry, make: Callable[[], Any]) -> None:
    args_type = job_name("kind")(make())
    job = make_job(registry, args_type)

    assert registry.get("kind").args_type is args_type
    assert registry.get_for_job(job).name == "kind"


def test_the_job_class_may_bear_the_name() -> None:
    registry = JobRegistry()

    @job_name("of.the.args")
    class Named: ...

    configuration = JobConfiguration.of_class(job_name("of.the.job")(make_job(JobRegistry(), int)), int)
    registry.register(configuration)

    assert registry.get("of.the.job") is configuration
    assert JobConfiguration.of_class(configuration.job, Named).name == "of.the.args"  # type: ignore[arg-type]


def test_a_subclass_of_args_is_a_job_of_its_own(registry: JobRegistry) -> None:
    make_job(registry, Email, "SendEmail")
    with pytest.raises(UnknownJobError, match="Newsletter"):
        registry.get_for(Newsletter())

    make_job(registry, Newsletter, "SendNewsletter")

    assert registry.get_for(Newsletter()).name == f"{__name__}.Newsletter"
    assert registry.get_for(Email()).name == "mail.send"


@pytest.mark.parametrize(
    "args_type", [int, str, dict[str, int], list[Email], type(None), Page[int], Email | None], ids=str
)
def test_types_without_identity_are_found_by_their_job_alone(registry: JobRegistry, args_type: Any) -> None:
    first, second = make_job(registry, args_type, "First"), make_job(registry, args_type, "Second")

    assert [each.name for each in registry] == [f"{__name__}.First", f"{__name__}.Second"]
    assert {registry.get_for_job(job).args_type for job in (first, second)} == {args_type}


def test_registries_stand_side_by_side() -> None:
    one, two, neither = JobRegistry(), JobRegistry(), None

    class Here(BackgroundJob[Email], registry=one):
        def execute(self, args: Email) -> None: ...

    class There(BackgroundJob[Email], registry=two):
        def execute(self, args: Email) -> None: ...

    class Nowhere(BackgroundJob[Email], registry=neither):
        def execute(self, args: Email) -> None: ...

    assert (one.get("mail.send").job, two.get("mail.send").job) == (Here, There)
    for job, registry in ((Here, two), (There, one), (Nowhere, one)):
        with pytest.raises(UnknownJobError, match=f"{job.__name__} .*is not in this registry"):
            registry.get_for_job(job)


# Generic and abstract bases


def test_args_types_are_found_through_generic_bases(registry: JobRegistry) -> None:
    class Loud(BackgroundJob[T], Generic[T]):
        def execute(self, args: T) -> None: ...

    class Keyed(Loud[T], Generic[K, T]): ...

    class Many(Keyed[str, list[T]], Generic[T]): ...

    class SendPlain(Loud[Plain], registry=registry): ...

    class SendEmail(Keyed[str, Email], registry=registry): ...

    send_all = types.new_class("SendAll", (Many[Email],), {"registry": registry}, _at_module_level("SendAll"))

    assert [(each.job, each.args_type) for each in registry] == [
        (SendPlain, Plain),
        (SendEmail, Email),
        (send_all, list[Email]),
    ]


def test_generic_and_abstract_classes_are_no_jobs_yet(registry: JobRegistry) -> None:
    class StillGeneric(BackgroundJob[T], Generic[T], registry=registry):
        def execute(self, args: T) -> None: ...

    class StillGenericList(BackgroundJob[list[T]], Generic[T], registry=registry):
        def execute(self, args: list[T]) -> None: ...

    class StillAbstract(BackgroundJob[Email], registry=registry): ...

    assert list(registry) == []


def test_what_a_mixin_says_counts(registry: JobRegistry) -> None:
    class Bulk:
        queue = "bulk"

    class SendEmail(Bulk, BackgroundJob[Email], registry=registry):
        def execute(self, args: Email) -> None: ...

    assert registry.get_for(Email()).queue == "bulk"


def test_a_job_says_what_it_takes(registry: JobRegistry) -> None:
    class Base(BackgroundJob[T], Generic[T]):
        def execute(self, args: T) -> None: ...

    definitions: list[Callable[[], object]] = [
        lambda: make_job(registry, "Later"),
        lambda: make_job(registry, Any),
        lambda: types.new_class("Bare", (Base,), {"registry": registry}),
        lambda: types.new_class(
            "Bare", (BackgroundJob,), {"registry": registry}, lambda space: space.update(execute=print)
        ),
    ]
    for define in definitions:
        with pytest.raises(JobDefinitionError, match=r"say what the job takes, by a class that is defined above it"):
            define()
    assert list(registry) == []


# Duplicates


def test_a_taken_args_type_is_refused_naming_both_places(registry: JobRegistry) -> None:
    make_job(registry, Plain, "First")

    @job_name("another.name")
    class Second(BackgroundJob[Plain], registry=None):
        def execute(self, args: Plain) -> None: ...

    configuration = JobConfiguration(name="another.name", job=Second, declared_args_type=Plain)
    with pytest.raises(DuplicateJobError, match=rf"args type Plain is taken: .*Second \(.*{__name__}.*\) and .*First"):
        registry.register(configuration)


@pytest.mark.parametrize("names", [{"name": "mail.send"}, {"name": "new", "aliases": ["mail.old"]}], ids=str)
def test_a_taken_name_is_refused_naming_both_places(registry: JobRegistry, names: dict[str, Any]) -> None:
    make_job(registry, Email, "SendEmail")

    with pytest.raises(DuplicateJobError, match=r"name 'mail\.\w+' is taken: .*\.send \(.*py:\d+\) and .*SendEmail"):
        make_function(registry, **names)
    assert len(list(registry)) == 1


def test_a_job_that_is_refused_leaves_no_trace(registry: JobRegistry) -> None:
    make_job(registry, Email, "SendEmail")
    with pytest.raises(DuplicateJobError):
        make_function(registry, "free", aliases=["mail.send"])

    assert registry.find("free") is None


def test_a_reloaded_module_replaces_its_jobs(registry: JobRegistry) -> None:
    make_job(registry, Email, "SendEmail", queue="old")
    make_function(registry, "fn", aliases=["fn.old"])

    again = make_job(registry, Email, "SendEmail", queue="new")
    make_function(registry, "fn")

    assert registry.get("mail.send").job is again
    assert registry.get_for(Email()).queue == "new"
    assert registry.find("fn.old") is None
    assert len(list(registry)) == 2


# Refusals


@pytest.mark.parametrize("name", ["", "two words", "line\n", "tab\t", "no\u00a0break", "x" * 129, None, 7])
def test_bad_names_are_refused(registry: JobRegistry, name: Any) -> None:
    told = "can't be a job's name: 1 to 128 printable characters without spaces"

    with pytest.raises(JobDefinitionError, match=told):
        job_name(name)
    with pytest.raises(JobDefinitionError, match=told):
        job_name("fine", aliases=[name])
    with pytest.raises(JobDefinitionError, match=told):
        make_function(registry, "fine", aliases=[name])
    with pytest.raises(JobDefinitionError, match=told):
        registry.register_handler(name, print)


@pytest.mark.parametrize("name", ["x" * 128, "café", "a/b:c-d_e.f#1"])
def test_good_names_are_taken(registry: JobRegistry, name: str) -> None:
    make_function(registry, name)

    assert name in registry.names


def test_a_string_is_no_list_of_aliases(registry: JobRegistry) -> None:
    with pytest.raises(JobDefinitionError, match=r"aliases = 'old' must be a list, as \['old'\]"):
        job_name("new", aliases="old")
    with pytest.raises(JobDefinitionError, match="must be a list"):
        make_function(registry, "new", aliases="old")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"queue": "Mail"}, "queue = 'Mail': a queue's name has a to z first"),
        ({"queue": ""}, "queue = ''"),
        ({"queue": "q" * 64}, "queue = 'q+': .* 63 characters at most"),
        ({"queue": None}, "queue = None"),
        ({"priority": 20}, "priority = 20 is not a JobPriority"),
        ({"priority": "high"}, "priority = 'high' is not a JobPriority"),
        ({"retry": 3}, "retry = 3 is neither a RetryPolicy nor None"),
        ({"retry": "none"}, "retry = 'none' is neither"),
        ({"time_limit": 0}, "time_limit = 0 must be a timedelta or seconds, more than 0"),
        ({"time_limit": timedelta(seconds=-1)}, r"time_limit = -1\.0 must be"),
        ({"time_limit": "10"}, "time_limit = '10' must be"),
        ({"time_limit": math.nan}, "time_limit = nan must be"),
        ({"time_limit": math.inf}, "time_limit = inf must be"),
        ({"time_limit": True}, "time_limit = True must be"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_with_their_place(registry: JobRegistry, setting: dict[str, Any], told: str) -> None:
    with pytest.raises(JobDefinitionError, match=rf"{__name__}\.SendEmail.*: {told}"):
        make_job(registry, Email, "SendEmail", **setting)
    with pytest.raises(JobDefinitionError, match=rf"send \(.*py:\d+\): {told}"):
        make_function(registry, **setting)
    with pytest.raises(JobDefinitionError, match=told):
        registry.register_handler("dynamic", print, **setting)
    assert list(registry) == []


def test_check_finds_the_job_that_cannot_travel(registry: JobRegistry) -> None:
    serializer = JsonJobSerializer()
    make_job(registry, Email)
    registry.register_handler("anything", print)
    registry.check(serializer)

    make_job(registry, Email | Plain, "Either")

    with pytest.raises(JobDefinitionError, match="union"):
        registry.check(serializer)


# Dynamic handlers


def test_a_handler_gets_the_payload_as_it_is(manager: JobManager, registry: JobRegistry) -> None:
    got: list[object] = []
    registry.register_handler("plugin.run", got.append, queue="plugins", priority=JobPriority.LOW, time_limit=3)

    manager.enqueue_by_name("plugin.run", {"any": ["thing", None]})
    manager.drain()

    assert got == [{"any": ["thing", None]}]
    configuration = registry.get("plugin.run")
    assert (configuration.queue, configuration.priority, configuration.time_limit) == ("plugins", JobPriority.LOW, 3)


def test_an_async_handler_is_awaited(manager: JobManager, registry: JobRegistry) -> None:
    got: list[object] = []

    async def handle(payload: object) -> None:
        got.append(payload)

    registry.register_handler("plugin.run", handle)
    manager.enqueue_by_name("plugin.run", 7)
    manager.drain()

    assert got == [7]


def test_handlers_come_and_go(registry: JobRegistry) -> None:
    registry.register_handler("plugin.run", print)
    registry.register_handler("plugin.run", repr)
    assert registry.get("plugin.run").source_location == "builtins.repr"

    assert registry.unregister_handler("plugin.run")
    assert not registry.unregister_handler("plugin.run")
    assert registry.find("plugin.run") is None


def test_the_typed_job_wins_over_the_handler(registry: JobRegistry) -> None:
    registry.register_handler("mail.send", print)
    job = make_job(registry, Email)
    registry.register_handler("mail.old", print)

    assert registry.get("mail.send").job is registry.get("mail.old").job is registry.names["mail.old"].job is job
    assert not registry.unregister_handler("mail.older")
    assert [each.job for each in registry] == [job]


# Looking up


def test_an_unknown_name_is_answered_with_the_nearest(registry: JobRegistry) -> None:
    with pytest.raises(UnknownJobError, match="Known: none; import the modules that define your jobs"):
        registry.get("mail.sent")

    make_job(registry, Email)
    registry.register_handler("plugin.run", print)

    with pytest.raises(UnknownJobError, match=r"'mail\.sent'\. Did you mean 'mail\.send'\? Known: mail\.old, .*plugin"):
        registry.get("mail.sent")
    with pytest.raises(LookupError, match=r"Did you mean 'plugin\.run'"):
        registry.get("plugin.ran")


class Emial: ...


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ("mail.send", r"takes builtins\.str\. To enqueue by name, use enqueue_by_name\(name, payload\)"),
        ({"to": "a"}, r"A dict doesn't say which job is meant: use TheJob\.enqueue\(args\)"),
        ([Email()], "A list doesn't say"),
        (7, "doesn't say which job is meant"),
        (None, "doesn't say which job is meant"),
        (Emial(), r"takes .*Emial \(.*py:\d+\)\. Did you mean 'Email'\?"),
        (object(), "doesn't say which job is meant"),
        (Page([1]), "Known args types: Email"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_args_without_a_job_are_answered_with_advice(registry: JobRegistry, args: object, told: str) -> None:
    make_job(registry, Email)

    with pytest.raises(UnknownJobError, match=told):
        registry.get_for(args)


def test_an_empty_registry_says_so(registry: JobRegistry) -> None:
    with pytest.raises(UnknownJobError, match="none; import the modules"):
        registry.get_for(Email())


def test_a_function_of_another_registry_is_unknown(manager: JobManager) -> None:
    job = make_function(JobRegistry(), "elsewhere")

    with override(manager), pytest.raises(UnknownJobError, match=r"send .*is not in this registry"):
        job.enqueue("a@b.c")


def test_names_cannot_be_written_to(registry: JobRegistry) -> None:
    make_job(registry, Email)

    assert sorted(registry.names) == ["mail.old", "mail.older", "mail.send"]
    with pytest.raises(TypeError, match="does not support item assignment"):
        registry.names["x"] = registry.get("mail.send")  # type: ignore[index]
