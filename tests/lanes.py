"""The lanes of the test suite: which tests need Docker or the servers of a cloud, and what keeps a test out of the wrong lane.

``docker`` and ``cloud`` are not written beside the tests. A test gets them if it, or a fixture that it uses, can reach a function that
starts what the lane is about (``STARTERS``); conftest.py asks ``lanes_of`` for every test that is collected. What that cannot see, such as
a call through a table of names, is caught when the test runs: the starters call ``require``, which fails a test outside the lane.

``slow`` is written beside the test: it takes more than about two seconds. The conformance suite is slow as a whole, because
each of its tests starts real runs.
"""

import inspect
from collections.abc import Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import Any

import pytest

STARTERS = {
    "tests.docker_engine:engine_or_skip": "docker",
    "tests.docker_engine:trainers_or_skip": "docker",
    "tests.stores:server_or_skip": "cloud",
    "tests.stores:running": "cloud",
}
"""The functions that start or use what a lane is about."""
ON_THIS_MACHINE = {"local", "local-retrying", "toy"}
"""The parameters for which a fixture of many places or stores starts nothing."""
SIMULATORS = "tests/clouds/"
"""Everything in here is about a simulated cloud."""
REAL_RUNS = "tests/conformance/"
"""Everything in here is slow."""

_running: list[pytest.Item] = []


def lanes_of(item: pytest.Item) -> set[str]:
    """The lanes of a test beside those that are written beside it."""
    if REAL_RUNS in item.path.as_posix():
        return {"slow"}  # conftest.py there knows the others
    if not isinstance(item, pytest.Function) or ON_THIS_MACHINE & _parameters(item):
        return set()
    fixtures = [definition.func for name in item.fixturenames for definition in item._fixtureinfo.name2fixturedefs.get(name, ())]
    found = {lane for function in (item.function, *fixtures) for lane in reached_by(inspect.unwrap(function))}
    return found | ({"cloud"} if SIMULATORS in item.path.as_posix() else set())


def enter(item: pytest.Item | None) -> None:
    """The test that runs from now on; None if there is none."""
    _running[:] = [item] if item is not None else []


def require(lane: str) -> None:
    """Fail the test that is running unless it is in a lane."""
    if _running and _running[0].get_closest_marker(lane) is None:
        pytest.fail(f"{_running[0].nodeid} needs the marker {lane!r}: write @pytest.mark.{lane} beside it")


def _parameters(item: pytest.Function) -> set[str]:
    spec = getattr(item, "callspec", None)
    return {value for value in spec.params.values() if isinstance(value, str)} | set(spec._idlist) if spec else set()


@cache
def reached_by(function: Any) -> frozenset[str]:
    """The lanes whose starters a function, or anything in the test suite that it names, can call."""
    seen: set[int] = set()
    lanes: set[str] = set()
    waiting = [function]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        name = f"{getattr(thing, '__module__', '')}:{getattr(thing, '__qualname__', '')}"
        if name in STARTERS:
            lanes.add(STARTERS[name])
        else:
            waiting.extend(_named_by(thing))
    return frozenset(lanes)


def _named_by(thing: Any) -> Iterator[Any]:
    """The functions, classes, objects and modules of the test suite that the code of a function or of a class's methods names."""
    if not str(getattr(thing, "__module__", "")).startswith("tests"):
        return
    thing = inspect.unwrap(thing) if callable(thing) else thing
    if isinstance(thing, FunctionType):
        names = set(_names(thing.__code__))
        for value in (value for name, value in thing.__globals__.items() if name in names):
            if not inspect.ismodule(value):
                yield value
            elif value.__name__.startswith("tests."):
                yield from (vars(value).get(name) for name in names)
    else:
        kind = thing if inspect.isclass(thing) else type(thing)
        for member in list(vars(kind).values()):
            yield getattr(member, "fget", getattr(member, "__func__", member))


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
