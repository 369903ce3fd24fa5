"""Plans for Azure ML, made by hand."""

import json
from typing import Any

from cloud_train.job.models import JobSpec
from cloud_train.job.settings import AzureSettings
from cloud_train.run.plan import Plan
from cloud_train.run.record import Program
from cloud_train.run.states import Cause

RUN_ID = "digits-cnn-261124-120000-abcd"
IMAGE = "myregistry.azurecr.io/cloud-train@sha256:" + "4" * 64
SETTINGS = {
    "subscription": "11111111-2222-3333-4444-555555555555",
    "resource_group": "cloud-train",
    "workspace": "training",
    "location": "westeurope",
    "repository": "myregistry.azurecr.io/cloud-train",
    "identity": "99999999-8888-7777-6666-555555555555",
}
STORE = "az://mystorage/runs"


def plan_of(
    settings: dict[str, Any] | None = None, *, image: str | None = IMAGE, run_id: str = RUN_ID, store: str = STORE, **job: Any
) -> Plan:
    """A plan of the first attempt; ``settings`` are changes to ``SETTINGS`` (None leaves one out), ``job`` sections of the job file."""
    fields = {"name": "digits-cnn", "model": {"kind": "script", "command": "python train.py"}, "provider": "azure", **job}
    spec = JobSpec.model_validate_json(json.dumps(fields))
    chosen = {name: value for name, value in {**SETTINGS, **(settings or {})}.items() if value is not None}
    return Plan(
        run_id=run_id,
        attempt=1,
        job=spec,
        job_file="/nowhere/job.yaml",
        provider="azure",
        # Those of a config file with its defaults; changes come unchecked, as settings may that no config file had.
        provider_settings={
            **AzureSettings.model_validate_json(
                json.dumps({key: chosen[key] for key in SETTINGS if chosen.get(key) == SETTINGS[key]})
            ).model_dump(mode="json", exclude_none=True),
            **chosen,
        },
        store=store,
        program=Program(
            ("/bin/sh", "-c", "python train.py"),
            "/workspace",
            grace_seconds=spec.limits.grace.seconds,
            duration_seconds=spec.limits.duration.seconds if spec.limits.duration else None,
            attempts=spec.retry.attempts,
            retry_on=tuple(Cause(cause) for cause in spec.retry.on),
        ),
        layers=(),
        data=None,
        steps_per_epoch=None,
        total_steps=None,
        origins={},
        notes=(),
        image=image,
    )
