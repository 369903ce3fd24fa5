"""A container is given the caller's credentials for the store. They are its worker's: the program, which may be a stranger's, gets none."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.packaging import DEFAULT_BASE
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reading import read_logs
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.submitting import submit
from cloud_train.storage.credential_forwarding import FORWARDED, forwarded_values, names_for, withheld
from cloud_train.worker.worker_log import Redactor
from tests.docker_engine import trainers_or_skip
from tests.stores import server_or_skip, use
from tests.support import wait_until

if TYPE_CHECKING:
    from docker import DockerClient

LOOKING = """
import os
print("own:", sorted(name for name in os.environ if name.startswith(("AWS_", "AZURE_", "_CLOUD_TRAIN_F"))))
for place in ("/proc/1/environ", "/proc/1/mem"):
    try:
        with open(place, "rb") as file:
            print(place, "was read", len(file.read(64)))
    except OSError:
        print(place, "refused")
"""


def test_the_program_of_a_container_reaches_no_credentials_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = trainers_or_skip()
    server = server_or_skip("az")
    use(server, monkeypatch)
    monkeypatch.setenv("CLOUD_TRAIN_HOME", str(tmp_path / "home"))
    (tmp_path / "look.py").write_text(LOOKING)
    (tmp_path / "host.yaml").write_text("docker: {network: host}\n")
    job = {
        "name": "looking",
        "model": {"kind": "script", "command": ["python3", "look.py"]},
        "provider": "docker",
        "store": f"{server.new_url()}/runs",
        "image": {"base": DEFAULT_BASE},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    home = Home(tmp_path / "home")
    run = submit(home, make_plan(home, tmp_path / "job.yaml", config=str(tmp_path / "host.yaml")))
    try:
        wait_until(lambda: update_run(home, run.run_id).state.is_end, "the run ends", 120, pace=0.1)
        assert (ended := update_run(home, run.run_id)).state == "succeeded", ended.message
        lines = b"".join(read_logs(home, run.run_id)).decode().splitlines()
    finally:
        remove(engine, run.run_id)
    assert lines == ["own: []", "/proc/1/environ refused", "/proc/1/mem refused"]


def remove(engine: "DockerClient", run_id: str) -> None:
    for container in engine.containers.list(all=True, filters={"label": f"cloud-train.run={run_id}"}, ignore_removed=True):
        container.remove(force=True)
    engine.close()


OWN = {
    FORWARDED: "AWS_REGION,AWS_SECRET_ACCESS_KEY,AZURE_STORAGE_CONNECTION_STRING",
    "AWS_REGION": "eu-west-1",
    "AWS_SECRET_ACCESS_KEY": "the-secret-key",
    "AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;AccountKey=the-account-key==;EndpointSuffix=core.windows.net",
}


def test_what_the_job_names_as_a_secret_is_the_programs() -> None:
    assert withheld(OWN, ["AWS_SECRET_ACCESS_KEY"]) == {"AWS_REGION", "AZURE_STORAGE_CONNECTION_STRING"}
    assert withheld({"AWS_SECRET_ACCESS_KEY": "my own, on this machine"}, []) == frozenset()


def test_forwarded_values_and_their_parts_are_hidden_in_messages() -> None:
    cleaned = Redactor(forwarded_values(OWN)).clean("the-secret-key in eu-west-1, and the-account-key==")
    assert cleaned == "*** in eu-west-1, and ***"


def test_the_question_names_the_confidential_variables_of_the_store() -> None:
    environment = {**OWN, "AWS_ACCESS_KEY_ID": "id"}
    assert names_for("s3://bucket/runs", environment) == ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    assert names_for("/a/folder", environment) == ()


def test_the_question_names_a_credential_that_is_a_file_even_if_no_variable_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    login = tmp_path / ".config" / "gcloud" / "application_default_credentials.json"
    login.parent.mkdir(parents=True)
    login.write_text("{}")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names_for("gs://bucket/data", {}) == ("GOOGLE_APPLICATION_CREDENTIALS",)
    assert forwarded_values({FORWARDED: "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_APPLICATION_CREDENTIALS": "/a/path"}) == []
