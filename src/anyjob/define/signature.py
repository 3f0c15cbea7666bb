"""A function as a job: its signature becomes the args type, keyword-only on the wire."""

from __future__ import annotations

import copy
import inspect
import typing
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import AsyncGeneratorType, GeneratorType, SimpleNamespace
from typing import Any, Final, Generic, ParamSpec, TypeVar

import msgspec

from anyjob.base.errors import InvalidArgsError, JobDefinitionError

__all__ = ["JobFunction", "is_unrun", "refuse_generator", "source_location_of"]

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


class _MadeOnce(Generic[T]):
    """A `cached_property` without its lock (Python 3.11's), which a forked child could inherit held."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __get__(self, owner: Any, _: object = None) -> T:
        made: T = vars(owner).setdefault(self._make.__name__, self._make(owner))
        return made


class JobFunction(Generic[P, R]):
    """A plain or async function, with the Struct that carries its arguments.

    The signature is checked here, at decoration; the Struct is made on first use, so that annotations may name what
    is defined further down the module.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        if isinstance(function, type) or not hasattr(function, "__qualname__"):
            raise JobDefinitionError(f"{function!r} is no function: a job is one, or a class with an `execute`.")
        self.function: Callable[..., Any] = function
        refuse_generator(function)
        self.is_async = inspect.iscoroutinefunction(function)
        self._parameters = tuple(inspect.signature(function).parameters.values())
        for parameter in self._parameters:
            if parameter.kind in _REFUSED:
                raise JobDefinitionError(
                    f"{source_location_of(function)}: {_REFUSED[parameter.kind]} {parameter.name!r} can't be a job's "
                    "argument: every argument travels under its name. Give it a name, or take a dict or a list."
                )
        if self._parameters and self._parameters[0].name in ("self", "cls"):
            raise JobDefinitionError(
                f"{source_location_of(function)}: a method can't be a job, for its {self._parameters[0].name!r} "
                "doesn't travel. Use a function, or a class with an `execute`."
            )
        self._positional = tuple(p.name for p in self._parameters if p.kind is p.POSITIONAL_OR_KEYWORD)

    @_MadeOnce
    def args_type(self) -> type[msgspec.Struct]:
        """The Struct with one field per parameter. Raises `JobDefinitionError` if an annotation can't be resolved."""
        try:
            hints = self._hints()
        except (NameError, TypeError) as error:
            raise JobDefinitionError(
                f"{source_location_of(self.function)}: {error}. "
                "The annotations of a job must be importable names, not only under TYPE_CHECKING."
            ) from error
        fields = [
            (p.name, hints.get(p.name, Any), *(() if p.default is p.empty else (_default(p.default),)))
            for p in self._parameters
        ]
        return msgspec.defstruct(
            self.function.__qualname__, fields, kw_only=True, frozen=True, module=self.function.__module__
        )

    def _hints(self) -> Mapping[str, Any]:
        """Return the parameters' types; the type that the function returns need not be importable."""
        annotations = getattr(self.function, "__annotations__", {})
        parameters = SimpleNamespace(
            __annotations__={p.name: annotations[p.name] for p in self._parameters if p.name in annotations},
            __type_params__=getattr(self.function, "__type_params__", ()),
        )
        names = getattr(inspect.unwrap(self.function), "__globals__", {})
        return typing.get_type_hints(parameters, names, include_extras=True)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> msgspec.Struct:
        """Return the Struct for a call with these arguments; raise `InvalidArgsError` as Python would `TypeError`."""
        if len(args) > len(self._positional):
            raise InvalidArgsError(
                f"{self.function.__qualname__}() takes {len(self._positional)} positional arguments; {len(args)} given"
            )
        try:
            return self.args_type(**dict(zip(self._positional, args, strict=False)), **kwargs)
        except TypeError as error:
            raise InvalidArgsError(f"{self.function.__qualname__}(): {error}") from error

    def call(self, args: msgspec.Struct) -> Any:
        """Call the function with the fields of `args`; an async one returns its coroutine."""
        return self.function(**{name: getattr(args, name) for name in args.__struct_fields__})


_REFUSED: Mapping[Any, str] = {
    inspect.Parameter.VAR_POSITIONAL: "variable arguments",
    inspect.Parameter.VAR_KEYWORD: "variable keyword arguments",
    inspect.Parameter.POSITIONAL_ONLY: "the positional-only parameter",
}


def refuse_generator(function: Callable[..., Any]) -> None:
    """Raise `JobDefinitionError` for a function that does nothing when it is called, and so nothing as a job."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        kind = "a generator: it must not yield"
    elif getattr(function, "__code__", None) in _CONTEXT_MANAGERS:
        kind = "a context manager: enter it in a job"
    else:
        return
    raise JobDefinitionError(
        f"{source_location_of(function)} is {kind}. Called as a job it would be done, and nothing run."
    )


def is_unrun(result: object) -> bool:
    """Whether a job returned the work itself, unrun."""
    return isinstance(result, _UNRUN)


def _generator() -> Iterator[None]:
    yield


async def _async_generator() -> AsyncIterator[None]:
    yield


_MAKERS: Final = (contextmanager(_generator), asynccontextmanager(_async_generator))
_CONTEXT_MANAGERS: Final = frozenset(each.__code__ for each in _MAKERS)  # what is decorated so has the decorator's code
_UNRUN: Final = (GeneratorType, AsyncGeneratorType, *(type(each()) for each in _MAKERS))


def _default(value: Any) -> Any:
    """Return `value` as a field default; mutable ones are copied for each call, so that no two jobs share one."""
    if isinstance(value, str | bytes | int | float | tuple | frozenset | type(None)):
        return value
    return msgspec.field(default_factory=lambda: copy.deepcopy(value))


def source_location_of(thing: Any) -> str:
    """Return `module.qualname (file:line)`, as far as it can be told."""
    name = f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', repr(thing))}"
    try:
        path, line = inspect.getsourcefile(thing), inspect.getsourcelines(thing)[1]
    except (TypeError, OSError):
        return name
    return f"{name} ({path}:{line})"
