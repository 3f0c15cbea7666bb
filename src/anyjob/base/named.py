"""Modules of an application, and objects in them, that settings and command lines name; imported when needed."""

from __future__ import annotations

import importlib
import re
from functools import reduce
from types import ModuleType
from typing import Any, Final

from msgspec import Struct

from anyjob.base.errors import ConfigurationError, did_you_mean
from anyjob.base.forks import forks_wait

__all__ = ["OBJECT_NAME", "NamedObject", "import_application"]

OBJECT_NAME: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
"""As `shop.container:resolver`."""


def import_application(module: str, where: str) -> ModuleType:
    """Import a module that the settings or the command line name; raise `ConfigurationError` if it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # an import of the module's own failed
        raise ConfigurationError(f"{where}: there is no module {module!r} here or on the path.") from error


class NamedObject(Struct, frozen=True):
    """An object of the application's, by a text as `shop.container:resolver`."""

    text: str
    where: str
    """Which setting says so, and its place."""

    def load(self) -> Any:
        """Import and return it; raise `ConfigurationError` if it is missing, or if the text is no name."""
        if not OBJECT_NAME.fullmatch(self.text):
            raise ConfigurationError(f"{self}: it must be 'module:name', as 'shop.container:resolver'.")
        module_name, _, path = self.text.partition(":")
        with forks_wait():
            module = import_application(module_name, str(self))
        try:
            return reduce(getattr, path.split("."), module)
        except AttributeError:
            hint = did_you_mean(path, vars(module))
            raise ConfigurationError(f"{self}: {module_name} has no {path!r}.{hint}") from None

    def __str__(self) -> str:
        return f"{self.where} = {self.text!r}"
