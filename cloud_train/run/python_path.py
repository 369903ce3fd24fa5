"""PYTHONPATH for the Python processes that cloud-train starts: none of them imports modules from its current folder."""

from __future__ import annotations  # the worker also runs on Python 3.10, in users' own images

import os
from collections.abc import Mapping

_VARIABLE = "PYTHONPATH"
_GIVEN = "_CLOUD_TRAIN_PYTHONPATH"


def fixed(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a worker or a built-in trainer, with only the absolute entries of PYTHONPATH.

    Empty and relative entries depend on the current folder, so a ``json.py`` there would be imported instead of the standard library's.
    The original value is kept in another variable for ``as_given``.
    """
    given = environment.get(_VARIABLE)
    entries = [entry for entry in (given or "").split(os.pathsep) if os.path.isabs(entry)]  # noqa: PTH117 -- pathlib makes "" the current folder
    absolute = os.pathsep.join(entries)
    if given is None or given == absolute:
        return dict(environment)
    others = {name: value for name, value in environment.items() if name != _VARIABLE}
    return {**others, **({_VARIABLE: absolute} if absolute else {}), _GIVEN: given}


def as_given(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a user's own program, with the PYTHONPATH from before ``fixed``."""
    if _GIVEN not in environment:
        return dict(environment)
    return {**{name: value for name, value in environment.items() if name != _GIVEN}, _VARIABLE: environment[_GIVEN]}
