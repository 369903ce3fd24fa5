"""Plan, submit, observe, reconcile and fetch runs: one module per task, called by the client. Only this package uses all the others.

The modules are attributes of the package, imported on first use because most commands need only a few of them.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloud_train.orchestrator import (
        adopting as adopting,
    )
    from cloud_train.orchestrator import (
        configs as configs,
    )
    from cloud_train.orchestrator import (
        connections as connections,
    )
    from cloud_train.orchestrator import (
        doctor as doctor,
    )
    from cloud_train.orchestrator import (
        following as following,
    )
    from cloud_train.orchestrator import (
        home as home,
    )
    from cloud_train.orchestrator import (
        packaging as packaging,
    )
    from cloud_train.orchestrator import (
        packing as packing,
    )
    from cloud_train.orchestrator import (
        planning as planning,
    )
    from cloud_train.orchestrator import (
        prediction as prediction,
    )
    from cloud_train.orchestrator import (
        reading as reading,
    )
    from cloud_train.orchestrator import (
        reconcile as reconcile,
    )
    from cloud_train.orchestrator import (
        repairing as repairing,
    )
    from cloud_train.orchestrator import (
        results as results,
    )
    from cloud_train.orchestrator import (
        resuming as resuming,
    )
    from cloud_train.orchestrator import (
        state as state,
    )
    from cloud_train.orchestrator import (
        stopping as stopping,
    )
    from cloud_train.orchestrator import (
        submitting as submitting,
    )
    from cloud_train.orchestrator import (
        syncing as syncing,
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
