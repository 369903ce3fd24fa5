"""Runs a training job as AWS's own SDK does on one machine. It runs in an environment of its own, which has ``sagemaker<3``::

    python local_mode.py REQUEST.json FOLDER

REQUEST.json is the body of CreateTrainingJob, with the machine ``local``; FOLDER is for the folders that the SDK mounts. Prints the job's
description as JSON. The exit status is 1 if the SDK says that the job failed.
"""

import json
import sys
from pathlib import Path

import boto3
from sagemaker.local import LocalSession  # type: ignore[import-not-found]  # of another environment than the one that checks types


def main(request: Path, folder: str) -> int:
    session = LocalSession(boto3.Session("testing", "testing", region_name="us-east-1"))
    session.sagemaker_config = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}
    session.config = {"local": {"local_code": True, "container_root": folder}}
    body = json.loads(request.read_text())
    try:
        session.sagemaker_client.create_training_job(**body)
    except RuntimeError as error:
        print(f"the SDK says: {error}", file=sys.stderr)
        return 1
    print(json.dumps(session.sagemaker_client.describe_training_job(body["TrainingJobName"]), default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
