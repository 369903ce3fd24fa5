"""Plan, submit, observe, reconcile and fetch runs: one module per task, called by the client. Only this package uses all the others.

The modules are attributes of the package, imported on first use because most commands need only a few of them.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloud_train.orchestrator import (
        adopting,
        configs,
        connections,
        console,
        doctor,
        following,
        given_values,
        home,
        listing,
        packaging,
        packing,
        planning,
        prediction,
        reading,
        reconcile,
        repairing,
        results,
        resuming,
        state,
        stopping,
        submitting,
        summaries,
        syncing,
        uploading,
        visiting,
    )
else:

    def __getattr__(name: str) -> ModuleType:
        module = f"{__name__}.{name}"
        try:
            return import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from error


__all__ = [
    "adopting",
    "configs",
    "connections",
    "console",
    "doctor",
    "following",
    "given_values",
    "home",
    "listing",
    "packaging",
    "packing",
    "planning",
    "prediction",
    "reading",
    "reconcile",
    "repairing",
    "results",
    "resuming",
    "state",
    "stopping",
    "submitting",
    "summaries",
    "syncing",
    "uploading",
    "visiting",
]
