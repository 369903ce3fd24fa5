"""Components of a job by name: the built-in ones, and those that installed packages declare as entry points.

A component is a class: the section of the job file that configures it, and everything known about it without torch. Installed packages are
searched only for a name that is not built in, so they cost nothing where they are not used. A plugin that is broken, when it is loaded or
when its code runs, is reported as such, and only to the job that names it.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any, Generic, TypeVar, Union, cast
from weakref import WeakKeyDictionary

from pydantic import BaseModel, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from cloud_train.errors import CloudTrainError, JobError

UNKNOWN = "unknown_component"
"""Type of pydantic's error for an unknown name of a component; its context holds ``noun``, ``field``, ``name`` and ``known``."""
BROKEN = "broken_component"
"""Type of pydantic's error for a broken plugin; its context holds ``field`` and ``reason``."""
_BUILT_IN, _PLUGIN = "(built in)", "(plugin)"
_PLUGINS: WeakKeyDictionary[type[BaseModel], str] = WeakKeyDictionary()
"""The loaded components of plugins, each with its name for messages."""
_HINT = "update or reinstall the package, or report this to its authors"
Component = TypeVar("Component", bound=BaseModel)


class UnknownComponentError(JobError):
    """No component has this name."""


class BrokenComponentError(JobError):
    """A plugin cannot be loaded, lacks a part of its contract, or its code fails."""


@dataclass(frozen=True, eq=False)
class Registry(Generic[Component]):
    """The components of one kind. As pydantic metadata, ``Annotated[Base, registry]``, it validates a section as the one named in it."""

    noun: str
    """What a component is called in messages, such as ``data set``."""
    field: str
    """The key of the section that names the component."""
    group: str
    """The entry point group of plugins. Each entry point names a subclass of ``base``."""
    base: type[Any]
    built_in: Mapping[str, type[Component]]
    annotation: Any = None
    """The type with which pydantic reads sections of built-in components, and which the published JSON Schema describes; by default a union
    discriminated by ``field``.
    """
    default: str | None = None
    """The component of a section that names none; None if the name is required."""
    requires: tuple[str, ...] = ()
    """Class attributes that every component has to set."""
    target: str = ""
    """The class attribute that names the component's torch part as ``module:function``; empty if there is none."""

    def get(self, name: str) -> type[Component]:
        """The component ``name``. Raises UnknownComponentError, with the nearest name, and BrokenComponentError."""
        if name in self.built_in:
            return self.built_in[name]
        plugins = self._plugins()
        if name in plugins:
            return plugins[name]()
        known = [*self.built_in, *sorted(plugins)]
        close = get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else "install the package that provides it"
        raise UnknownComponentError(f"unknown {self.noun} {name!r}; known here: {', '.join(known)}", hint=hint)

    def names(self) -> list[str]:
        """Every component that is installed here: the built-in ones first."""
        return [*self.built_in, *sorted(self._plugins())]

    def sections(self, name: object = None) -> list[type[BaseModel]]:
        """The section of the component ``name``; those of all built-in components if that is not the name of a plugin."""
        if isinstance(name, str) and name not in self.built_in:
            with suppress(UnknownComponentError, BrokenComponentError):
                return [self.get(name)]
        return list(dict.fromkeys(self.built_in.values()))

    def _plugins(self) -> dict[str, Callable[[], type[Component]]]:
        from importlib.metadata import entry_points  # 30 ms, and only plugins need it

        def loader(entry: Any) -> Callable[[], type[Component]]:
            package = f" of package {entry.dist.name!r}" if entry.dist is not None else ""
            return lambda: self._load(f"the {self.noun} plugin {entry.name!r}{package}", entry.value, entry.load)

        return {entry.name: loader(entry) for entry in entry_points(group=self.group) if entry.name not in self.built_in}

    def _load(self, plugin: str, value: str, load: Callable[[], object]) -> type[Component]:
        try:
            loaded = load()
        except (Exception, SystemExit) as error:  # a plugin is foreign code and may raise anything, which is reported
            raise BrokenComponentError(f"{plugin} cannot be loaded: {value}: {_shown(error)}", _HINT) from error
        if not (isinstance(loaded, type) and issubclass(loaded, self.base)):
            raise BrokenComponentError(f"{plugin} is broken: {value} is not a subclass of {self.base.__name__}", _HINT)
        if (fault := self._fault(loaded)) is not None:
            raise BrokenComponentError(f"{plugin} is broken: {value} {fault}", _HINT)
        _PLUGINS[loaded] = plugin
        return cast(type[Component], loaded)

    def _fault(self, component: type[Any]) -> str | None:
        """What the class lacks, as far as that can be seen without importing its torch part."""
        if abstract := sorted(component.__abstractmethods__):
            return f"does not implement {', '.join(abstract)}"
        if missing := [name for name in self.requires if not getattr(component, name, None)]:
            return f"does not set {', '.join(missing)}"
        target = getattr(component, self.target, "") if self.target else ""
        problem = _missing_in(target) if target else None
        return None if problem is None else f"sets {self.target} to {target!r}, but {problem}"

    def _name_in(self, value: object) -> object:
        """The component's name in a section, in any of its forms."""
        if isinstance(value, Mapping):
            return value.get(self.field, self.default)
        return value if isinstance(value, str) else getattr(value, self.field, None)

    def _choice(self, value: object) -> str:
        name = self._name_in(value)
        if not isinstance(name, str) or name in self.built_in:
            return _BUILT_IN
        # If the built-in components share a section, that section also reports what else is wrong in one with an unknown name.
        return _BUILT_IN if self.annotation is not None and name not in self._plugins() else _PLUGIN

    def _validate_plugin(self, value: Any, info: ValidationInfo) -> Component:
        if isinstance(value, self.base):
            return cast(Component, value)
        name = str(self._name_in(value))
        try:
            component = self.get(name)
        except UnknownComponentError as error:
            context = {"noun": self.noun, "field": self.field, "name": name, "known": self.names()}
            raise PydanticCustomError(UNKNOWN, "unknown {noun} '{name}'", context) from error
        except BrokenComponentError as error:
            raise PydanticCustomError(BROKEN, "{reason}", {"field": self.field, "reason": full_reason(error)}) from error
        section = {self.field: value} if isinstance(value, str) else value
        try:
            with plugin_code(component, "fails to validate its section"):
                if info.mode == "json":  # in which a list may stand for a tuple
                    return component.model_validate_json(json.dumps(section))
                return component.model_validate(section)
        except BrokenComponentError as error:
            raise PydanticCustomError(BROKEN, "{reason}", {"field": self.field, "reason": full_reason(error)}) from error

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        plugin = core_schema.with_info_plain_validator_function(self._validate_plugin, serialization=core_schema.simple_ser_schema("any"))
        annotation = self.annotation or Annotated[Union[tuple(self.built_in.values())], Field(discriminator=self.field)]  # noqa: UP007 -- of a tuple
        return core_schema.tagged_union_schema({_BUILT_IN: handler.generate_schema(annotation), _PLUGIN: plugin}, self._choice)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        built_in = cast(core_schema.TaggedUnionSchema, schema)["choices"][_BUILT_IN]
        return handler(core_schema.union_schema([built_in]))  # a union's members become references to definitions


@contextmanager
def plugin_code(component: BaseModel | type[BaseModel], failing: str) -> Iterator[None]:
    """Raise what a plugin's own code raises in this block as BrokenComponentError; ``failing`` says what fails, such as ``fails in check``.

    Errors of cloud-train, pydantic's validation errors, and errors of built-in components pass unchanged.
    """
    try:
        yield
    except (CloudTrainError, ValidationError, PydanticCustomError):
        raise
    except Exception as error:
        plugin = _PLUGINS.get(component if isinstance(component, type) else type(component))
        if plugin is None:
            raise
        raise BrokenComponentError(f"{plugin} {failing}: {_shown(error)}", _HINT) from error


def implementation(component: BaseModel, attribute: str) -> Any:
    """The function that the class attribute ``attribute`` of ``component`` names as ``module:function``.

    Raises BrokenComponentError if a plugin's cannot be imported.
    """
    target = getattr(component, attribute)
    module, _, function = target.partition(":")
    with plugin_code(component, f"is broken: cannot import {target}"):
        return getattr(import_module(module), function)


def full_reason(error: CloudTrainError) -> str:
    """Message and hint in one."""
    return f"{error.message}; {error.hint}" if error.hint else error.message


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _missing_in(target: str) -> str | None:
    """Why ``module:function`` cannot be imported; None if nothing is visibly wrong. The module itself is not imported: it needs torch."""
    module, _, function = target.partition(":")
    if not module or not function.isidentifier():
        return "that is not of the form module:function"
    try:
        found = find_spec(module)
        source: str | None = getattr(found.loader, "get_source", lambda name: None)(module) if found is not None else None
    except Exception as error:  # noqa: BLE001 -- looking for a module imports the packages above it, which are foreign code
        return f"the module cannot be found: {_shown(error)}"
    if found is None:
        return f"there is no module {module}"
    if source is None or "import *" in source or "__getattr__" in source:
        return None
    return None if function in re.findall(r"\w+", source) else f"{module} does not define {function}"
