"""What was asked of a run: the values of its job that differ from the defaults, those of ``--set``, and what ``resume`` changed.

They are worked out when the run is submitted and kept in its provenance, because the job's models take a second to load.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from cloud_train.errors import CorruptError, NotFoundError
from cloud_train.orchestrator.connections import store_at
from cloud_train.orchestrator.run_directory import changes_in, read_record
from cloud_train.run.view import RunView

if TYPE_CHECKING:
    from cloud_train.run.plan import Plan

RECORDED = "given"
"""The key of a run's provenance that has the job's own values: ``{"values", "set"}``."""
_MOST = 1_000
_SCALARS = (str, int, float, bool)


@dataclass(frozen=True)
class GivenValues:
    """The values of a run's job by their dotted keys, such as ``train.epochs``, as they were when it was submitted."""

    values: dict[str, Any] = field(default_factory=dict)
    """Those that differ from the defaults, except those in ``set``; empty for a run of an earlier version."""
    set: dict[str, Any] = field(default_factory=dict)
    """Those of ``submit --set``."""
    changes: tuple[dict[str, Any], ...] = ()
    """Those of ``resume --set``: ``{"attempt", "set", "code"}``, as in ``Progress``."""


def recorded(plan: "Plan") -> dict[str, Any]:
    """The part of a new run's provenance that has the job's own values."""
    from cloud_train.job.own_values import own_values

    return {RECORDED: asdict(own_values(plan.job, plan.origins))}


def given_values(run: RunView) -> GivenValues:
    """The values that the run was given, for display; empty if its ``run.json`` is gone or malformed. Raises StoreError."""
    try:
        provenance = read_record(store_at(run.store), run.run_id).provenance
    except (NotFoundError, CorruptError):
        return GivenValues()
    given = provenance.get(RECORDED)
    given = given if isinstance(given, Mapping) else {}
    return GivenValues(_plain(given.get("values")), _plain(given.get("set")), tuple(changes_in(provenance)))


def _plain(values: object) -> dict[str, Any]:
    """The scalars by name, at most a thousand: the file may come from anyone."""
    if not isinstance(values, Mapping):
        return {}
    return {str(name): value for name, value in list(values.items())[:_MOST] if isinstance(value, _SCALARS)}
