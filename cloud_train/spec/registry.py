"""Components of a job by name: the built-in ones, and those that installed packages declare as entry points.

A component is a class: the section of the job file that it is configured with, and all that is known of it without torch. Installed
packages are searched only for a name that is not built in, so they cost nothing where they are not used, and a broken one is reported only
to the job that names it.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Annotated, Any, Generic, TypeVar, Union, cast

from pydantic import BaseModel, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from cloud_train.errors import JobError

UNKNOWN = "unknown_component"
"""Type of pydantic's error for a name that no component has; its context holds ``noun``, ``field``, ``name`` and ``known``."""
BROKEN = "broken_component"
"""Type of pydantic's error for a plugin that cannot be loaded; its context holds ``field`` and ``reason``."""
_BUILT_IN, _PLUGIN = "(built in)", "(plugin)"
Component = TypeVar("Component", bound=BaseModel)


class UnknownComponentError(JobError):
    """No component has this name."""


class BrokenComponentError(JobError):
    """A plugin cannot be loaded, or is not what its entry point promises."""


@dataclass(frozen=True, eq=False)
class Registry(Generic[Component]):
    """The components of one kind. As pydantic metadata, ``Annotated[Base, registry]``, it validates a section by the component it names."""

    noun: str
    """What a component is called in messages, such as ``data set``."""
    field: str
    """The key of the section that names the component."""
    group: str
    """The entry point group of plugins. Each entry point names a subclass of ``base``."""
    base: type[Any]
    built_in: Mapping[str, type[Component]]
    annotation: Any = None
    """Type by which pydantic reads the sections of the built-in components, and which the published JSON Schema describes; by default a
    union that is discriminated by ``field``.
    """
    default: str | None = None
    """The component of a section that names none; None where the name is required."""

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
        """The section of the component ``name``; those of all built-in ones where that is not the name of a plugin."""
        if isinstance(name, str) and name not in self.built_in:
            with suppress(UnknownComponentError, BrokenComponentError):
                return [self.get(name)]
        return list(dict.fromkeys(self.built_in.values()))

    def _plugins(self) -> dict[str, Callable[[], type[Component]]]:
        from importlib.metadata import entry_points  # 30 ms, and only plugins need it

        def loader(entry: Any) -> Callable[[], type[Component]]:
            return lambda: self._load(entry.name, entry.value, entry.load)

        return {entry.name: loader(entry) for entry in entry_points(group=self.group) if entry.name not in self.built_in}

    def _load(self, name: str, value: str, load: Callable[[], object]) -> type[Component]:
        try:
            loaded = load()
        except (Exception, SystemExit) as error:  # a plugin is foreign code: whatever it raises is reported
            raise BrokenComponentError(
                f"the {self.noun} plugin {name!r} ({value}) cannot be loaded: {type(error).__name__}: {error}",
                hint="reinstall or remove the package that provides it",
            ) from error
        if not (isinstance(loaded, type) and issubclass(loaded, self.base)):
            raise BrokenComponentError(f"the {self.noun} plugin {name!r} ({value}) is not a subclass of {self.base.__name__}")
        return cast(type[Component], loaded)

    def _name_in(self, value: object) -> object:
        """What a value says that the component's name is."""
        if isinstance(value, Mapping):
            return value.get(self.field, self.default)
        return value if isinstance(value, str) else getattr(value, self.field, None)

    def _choice(self, value: object) -> str:
        name = self._name_in(value)
        if not isinstance(name, str) or name in self.built_in:
            return _BUILT_IN
        # Where the built-in components share a section, that section says what else is wrong in one with an unknown name.
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
            raise PydanticCustomError(BROKEN, "{reason}", {"field": self.field, "reason": error.message}) from error
        section = {self.field: value} if isinstance(value, str) else value
        if info.mode == "json":  # where a list may stand for a tuple
            return component.model_validate_json(json.dumps(section))
        return component.model_validate(section)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        plugin = core_schema.with_info_plain_validator_function(self._validate_plugin, serialization=core_schema.simple_ser_schema("any"))
        annotation = self.annotation or Annotated[Union[tuple(self.built_in.values())], Field(discriminator=self.field)]  # noqa: UP007 -- of a tuple
        return core_schema.tagged_union_schema({_BUILT_IN: handler.generate_schema(annotation), _PLUGIN: plugin}, self._choice)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        built_in = cast(core_schema.TaggedUnionSchema, schema)["choices"][_BUILT_IN]
        return handler(core_schema.union_schema([built_in]))  # a union's members become references to definitions


def implementation(target: str) -> Any:
    """What ``module:attribute`` names. Raises ImportError and AttributeError."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
