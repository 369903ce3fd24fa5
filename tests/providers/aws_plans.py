"""Plans for the aws provider, made by hand."""

import json
from typing import Any

from cloud_train.job.models import JobSpec
from cloud_train.run.plan import Plan
from cloud_train.run.record import Program
from cloud_train.run.states import Cause

RUN_ID = "digits-cnn-261124-120000-abcd"
REPOSITORY = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/cloud-train"
IMAGE = f"{REPOSITORY}@sha256:{'4' * 64}"
SETTINGS = {"region": "eu-west-1", "role": "arn:aws:iam::123456789012:role/cloud-train-machines", "repository": REPOSITORY}


def plan_of(settings: dict[str, Any] | None = None, run_id: str = RUN_ID, attempt: int = 1, **job: Any) -> Plan:
    """The plan of a script job; ``settings`` are those of the config file, beside ``SETTINGS``, of which None takes one away."""
    fields = {"name": "digits-cnn", "model": {"kind": "script", "command": ["true"]}, "provider": "aws", "store": "s3://bucket/runs", **job}
    spec = JobSpec.model_validate_json(json.dumps(fields))
    limit = spec.limits.duration
    return Plan(
        run_id=run_id,
        attempt=attempt,
        job=spec,
        job_file="/nowhere/job.yaml",
        provider="aws",
        provider_settings={name: value for name, value in {**SETTINGS, **(settings or {})}.items() if value is not None},
        store=spec.store,
        program=Program(
            ("true",),
            "/workspace",
            grace_seconds=spec.limits.grace.seconds,
            duration_seconds=limit.seconds if limit else None,
            attempts=spec.retry.attempts,
            retry_on=tuple(Cause(cause) for cause in spec.retry.on),
        ),
        layers=(),
        data=None,
        steps_per_epoch=None,
        total_steps=None,
        origins={},
        notes=(),
        image=IMAGE,
    )
