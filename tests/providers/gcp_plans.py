"""Plans for Vertex AI, each with one feature, and the requests that they are to become: golden/gcp/<feature>.json.

``python -m tests.providers.gcp_plans`` writes the golden files anew; look at what changed.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloud_train.job.models import JobSpec
from cloud_train.providers.gcp.request import request_of
from cloud_train.run.plan import Plan
from cloud_train.run.record import Program
from cloud_train.run.states import Cause

GOLDEN = Path(__file__).with_name("golden") / "gcp"
STORE = "gs://my-bucket/runs"
REPOSITORY = "europe-west4-docker.pkg.dev/my-project-123456/cloud-train/jobs"
IMAGE = f"{REPOSITORY}@sha256:{'4' * 64}"
SETTINGS: dict[str, Any] = {"project": "my-project-123456", "region": "europe-west4", "repository": REPOSITORY}

FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "before-the-image": {"image": "cloud-train-worker + worker, built when submitted"},
    "accelerator-attached": {"resources": {"accelerator": "T4:2", "cpus": 16}},
    "accelerator-of-the-machine": {"resources": {"accelerator": "A100:4"}},
    "machine-by-name": {"settings": {"machine": "g2-standard-24"}},
    "machine-that-is-not-in-the-table": {"settings": {"machine": "c4-standard-192"}},
    "spot-with-retry": {"resources": {"spot": True}, "retry": {"attempts": 3}},
    "spot-without-retry": {"resources": {"spot": True}},
    "nodes": {"resources": {"nodes": 3, "accelerator": "L4:1"}, "retry": {"attempts": 2}},
    "time-limits": {"limits": {"duration": "2h", "grace": "60 s"}, "retry": {"attempts": 2, "on": ["failed"]}},
    "secrets": {"secrets": ["WANDB_API_KEY"]},
    "second-attempt": {"attempt": 2, "retry": {"attempts": 2}},
    "settings": {
        "settings": {
            "service_account": "trainer@my-project-123456.iam.gserviceaccount.com",
            "network": "projects/12345/global/networks/training",
            "disk": "250GB",
            "disk_type": "pd-standard",
            "labels": {"team": "vision"},
            "max_runtime": "6h",
        }
    },
    "settings-of-organisations": {
        "resources": {"accelerator": "L4:1"},
        "settings": {
            "service_account": "trainer@my-project-123456.iam.gserviceaccount.com",
            "network_attachment": "projects/my-project-123456/regions/europe-west4/networkAttachments/training",
            "kms_key": "projects/my-project-123456/locations/europe-west4/keyRings/ring/cryptoKeys/key",
            "reservation": "projects/my-project-123456/zones/europe-west4-a/reservations/gpus",
            "web_access": True,
            "tensorboard": "projects/my-project-123456/locations/europe-west4/tensorboards/1234567890",
            "base_output_directory": "gs://my-bucket/tensorboard",
        },
    },
    "any-reservation": {"settings": {"reservation": "any"}},
    "flex-start": {"resources": {"accelerator": "H100:8"}, "settings": {"flex_start": True, "max_wait": "12h"}},
    "persistent-resource": {"settings": {"persistent_resource": "training"}},
    "disk-of-the-family": {"resources": {"accelerator": "RTX_PRO_6000:2"}},
    "project-that-pays": {"settings": {"quota_project": "billing-123456"}},
    "private-endpoint": {"secrets": ["TOKEN"], "settings": {"endpoint": "https://{service}-training.p.googleapis.com"}},
}


def plan_of(
    *,
    settings: dict[str, Any] | None = None,
    image: str = IMAGE,
    attempt: int = 1,
    store: str = STORE,
    run_id: str = "digits-261124-120000-abcd",
    **job: Any,
) -> Plan:
    """The plan of a script job."""
    command = ("python3", "train.py")
    fields = {"name": "digits", "model": {"kind": "script", "command": command}, "provider": "gcp", "store": store, **job}
    spec = JobSpec.model_validate_json(json.dumps(fields))
    program = Program(command, "/workspace", attempts=spec.retry.attempts, retry_on=tuple(Cause(cause) for cause in spec.retry.on))
    return Plan(
        run_id=run_id,
        attempt=attempt,
        job=spec,
        job_file="/home/me/job.yaml",
        provider="gcp",
        provider_settings={**SETTINGS, **(settings or {})},
        store=store,
        program=program,
        layers=(),
        data=None,
        steps_per_epoch=None,
        total_steps=None,
        origins={},
        notes=(),
        image=image,
    )


def without(plan: Plan, setting: str) -> Plan:
    """The same plan with one setting less."""
    return replace(plan, provider_settings={name: value for name, value in plan.provider_settings.items() if name != setting})


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for feature, fields in FEATURES.items():
        GOLDEN.joinpath(f"{feature}.json").write_text(json.dumps(request_of(plan_of(**fields)), indent=2) + "\n", encoding="utf-8")
