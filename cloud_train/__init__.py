"""cloud-train: one YAML file trains a CNN, an RNN or your own script here or on a cloud, with no server.

The names in ``__all__`` are the public interface (docs/python.md), beside ``cloud_train.worker.api`` for the user's own training scripts.
Every other module is private: it may change with any release.

Each name is imported when it is first used, so that ``import cloud_train`` and ``cloud-train --help`` take no time. The rooms of the
package and what each may import are in docs/design.md.
"""

from importlib import import_module

from cloud_train.version import __version__

TYPE_CHECKING = False  # typing's own constant would cost as much as everything else here
if TYPE_CHECKING:
    from cloud_train.client import Client, Metrics, Run
    from cloud_train.errors import (
        CloudTrainError,
        ConflictError,
        CorruptError,
        JobError,
        MissingDependencyError,
        NotFoundError,
        ProviderError,
        StoreError,
        UsageError,
    )
    from cloud_train.job.models import JobSpec
    from cloud_train.orchestrator.adopting import Listed, Unreadable
    from cloud_train.orchestrator.consent import NotTrustedError, Question
    from cloud_train.orchestrator.following import LogLine, Progress, StateChange
    from cloud_train.orchestrator.given_values import GivenValues
    from cloud_train.orchestrator.results import Artifacts
    from cloud_train.orchestrator.resuming import Waiting
    from cloud_train.orchestrator.summaries import Summary
    from cloud_train.run.metrics import MetricPoint
    from cloud_train.run.plan import Plan
    from cloud_train.run.states import Cause, State
    from cloud_train.run.view import RunView
    from cloud_train.training.loading import load_model


__all__ = [
    "Artifacts",
    "Cause",
    "Client",
    "CloudTrainError",
    "ConflictError",
    "CorruptError",
    "GivenValues",
    "JobError",
    "JobSpec",
    "Listed",
    "LogLine",
    "MetricPoint",
    "Metrics",
    "MissingDependencyError",
    "NotFoundError",
    "NotTrustedError",
    "Plan",
    "Progress",
    "ProviderError",
    "Question",
    "Run",
    "RunView",
    "State",
    "StateChange",
    "StoreError",
    "Summary",
    "Unreadable",
    "UsageError",
    "Waiting",
    "__version__",
    "load_model",
]

_ERRORS = {name: "errors" for name in __all__ if name.endswith("Error") and name != "NotTrustedError"}
_HOMES = {
    **_ERRORS,
    "Artifacts": "orchestrator.results",
    "Cause": "run.states",
    "Client": "client",
    "GivenValues": "orchestrator.given_values",
    "JobSpec": "job.models",
    "Listed": "orchestrator.adopting",
    "LogLine": "orchestrator.following",
    "MetricPoint": "run.metrics",
    "Metrics": "client",
    "NotTrustedError": "orchestrator.consent",
    "Plan": "run.plan",
    "Progress": "orchestrator.following",
    "Question": "orchestrator.consent",
    "Run": "client",
    "RunView": "run.view",
    "State": "run.states",
    "StateChange": "orchestrator.following",
    "Summary": "orchestrator.summaries",
    "Unreadable": "orchestrator.adopting",
    "Waiting": "orchestrator.resuming",
    "load_model": "training.loading",
}
"""The module, below this package, that each public name is imported from."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            module = import_module(f"{__name__}.{_HOMES[name]}")
        except ModuleNotFoundError as error:
            if (error.name or __name__).partition(".")[0] == __name__:
                raise
            missing = import_module(f"{__name__}.errors").MissingDependencyError
            hint = "install what the built-in trainers need with: pip install 'cloud-train[train]'"
            raise missing(f"{name} needs {error.name}, which is not installed", hint=hint) from error
        globals()[name] = value = getattr(module, name)
        return value

    def __dir__() -> list[str]:
        return sorted(__all__)
