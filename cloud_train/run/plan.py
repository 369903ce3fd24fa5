"""A plan: a job with everything decided that its submission needs. Pure data; nothing was sent, written or started."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

from cloud_train.errors import CorruptError
from cloud_train.job.models import JobSpec
from cloud_train.run.documents import Fields
from cloud_train.run.record import Program, RunRecord
from cloud_train.spec.facts import DataFacts, LayerFacts

NOT_WRITTEN = "0" * 64
"""In place of the SHA-256 of ``run.json`` in a plan that has not been submitted."""
_BESIDE = frozenset({"job", "program", "record_sha256", "is_foreign"})
"""Fields left out of the plan in ``run.json``: the first two have their own sections there, the others are about the file itself."""


@dataclass(frozen=True)
class Plan:
    """Everything that a submission will do."""

    run_id: str
    attempt: int
    job: JobSpec
    job_file: str
    """The job file, absolute."""
    provider: str
    provider_settings: dict[str, Any]
    """The provider's part of the config file."""
    store: str
    """URL of the store; a local folder is absolute."""
    program: Program
    layers: tuple[LayerFacts, ...]
    """The model, layer by layer; empty for a script."""
    data: DataFacts | None
    steps_per_epoch: int | None
    total_steps: int | None
    origins: dict[str, str]
    """Origin of each value of the resolved spec: dotted path → ``file:line``, ``--set``, ``default``, …"""
    notes: tuple[str, ...]
    """Facts to know before submitting, such as a resource that this provider does not enforce."""
    image: str | None = None
    """The container image: its parts before it is built, its name with digest afterwards; None if the provider runs no containers."""
    host_data: str | None = None
    """Absolute path of the job's data on this machine, to be mounted into the container; None without data or container."""
    record_sha256: str = NOT_WRITTEN
    """Hexadecimal SHA-256 of the ``run.json`` that the worker must find; zeros until it is written."""
    is_foreign: bool = False
    """Whether another machine wrote that ``run.json``."""

    @property
    def parameters(self) -> int:
        """Trainable parameters of the model."""
        return sum(layer.parameters for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {**self.facts(), "job": self.job.model_dump(mode="json"), "program": asdict(self.program)}

    def facts(self) -> dict[str, Any]:
        """The plan as JSON in ``run.json``, where the job and the program have their own sections."""
        fields = {name: value for name, value in vars(self).items() if name not in _BESIDE}
        return {
            **fields,
            "notes": list(self.notes),
            "layers": [asdict(layer) for layer in self.layers],
            "parameters": self.parameters if self.layers else None,
            "data": asdict(self.data) if self.data else None,
        }

    @classmethod
    def of_attempt(cls, record: RunRecord, attempt: int, record_sha256: str) -> Self:
        """The plan of a further attempt of the run in ``record``, whose bytes have the SHA-256 ``record_sha256``.

        Raises CorruptError if this version cannot read the plan in the record.
        """
        try:
            fields = {name: value for name, value in record.plan.items() if name not in {"parameters", "attempt", "run_id", *_BESIDE}}
            fields["layers"] = tuple(LayerFacts(**{**layer, "output_shape": tuple(layer["output_shape"])}) for layer in fields["layers"])
            fields["data"] = fields["data"] and DataFacts(**{**fields["data"], "sample_shape": tuple(fields["data"]["sample_shape"])})
            fields["notes"] = tuple(map(str, fields["notes"]))
            _check_types(fields)
            job = JobSpec.model_validate_json(json.dumps(record.job))
            return cls(run_id=record.run_id, attempt=attempt, job=job, program=record.program, record_sha256=record_sha256, **fields)
        except (TypeError, ValueError, KeyError, AttributeError) as error:  # pydantic's ValidationError is a ValueError
            raise CorruptError(
                f"run.json of {record.run_id} does not hold a plan that this version of cloud-train can read: {error}"
            ) from error


def _check_types(fields: dict[str, Any]) -> None:
    """Raise ValueError for a field of the wrong type: the record is not trusted."""
    said = Fields(fields)
    fields["job_file"] = said.text("job_file")
    if "\0" in fields["job_file"]:
        raise ValueError("'job_file' is not a path")
    for name in ("image", "host_data"):
        fields[name] = None if said.is_null(name) else said.text(name)
    fields["provider_settings"] = said.mapping("provider_settings")
    fields["origins"] = {str(key): str(value) for key, value in said.mapping("origins").items()}
