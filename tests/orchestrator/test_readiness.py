"""A dry run refuses what a submission refuses on this machine, in the same words, and a submission stops at the first of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from cloud_train.errors import CloudTrainError
from cloud_train.orchestrator import readiness
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan, request_of
from cloud_train.orchestrator.submitting import submit

PROVIDERS = {
    "docker": ({}, "runs"),
    "aws": (
        {
            "region": "eu-west-1",
            "repository": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/cloud-train",
            "role": "arn:aws:iam::123456789012:role/machines",
        },
        "s3://my-runs/runs",
    ),
    "gcp": (
        {
            "project": "my-project-123456",
            "region": "europe-west4",
            "repository": "europe-west4-docker.pkg.dev/my-project-123456/cloud-train/jobs",
        },
        "gs://my-runs/runs",
    ),
    "azure": (
        {
            "subscription": "11111111-2222-3333-4444-555555555555",
            "resource_group": "cloud-train",
            "workspace": "training",
            "repository": "myregistry.azurecr.io/cloud-train",
            "identity": "99999999-8888-7777-6666-555555555555",
            "vault": "https://my-vault.vault.azure.net",
        },
        "az://myruns/runs",
    ),
}


class Desk:
    """A folder with a job and its code, which submits to one of the providers that run images."""

    def __init__(self, home: Home, folder: Path, provider: str) -> None:
        self.home, self.folder, self.code = home, folder, folder / "code"
        self.code.mkdir()
        (self.code / "train.py").write_text("print('hello')\n")
        settings, self.store = PROVIDERS[provider]
        self.config = folder / f"{provider}.yaml"
        self.config.write_text(json.dumps({"provider": provider, provider: settings}))

    def refused(self, **job: Any) -> list[str]:
        """Why a dry run would be refused."""
        model = {"kind": "script", "command": "python train.py", "directory": "code"}
        (self.folder / "job.yaml").write_text(json.dumps({"name": "x", "store": self.store, "model": model, **job}))
        plan = make_plan(self.home, self.folder / "job.yaml", config=str(self.config), dry_run=True)
        return request_of(self.home, plan)[1]


@pytest.fixture(params=PROVIDERS)
def desk(request: pytest.FixtureRequest, home: Home, tmp_path: Path) -> Desk:
    return Desk(home, tmp_path, request.param)


def test_a_job_with_everything_that_it_needs_is_not_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "")
    assert desk.refused(secrets=["TOKEN"]) == []


def test_a_secret_that_is_not_set_is_named(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKEN", raising=False)
    [problem] = desk.refused(secrets=["TOKEN"])
    assert problem.startswith("missing secret: TOKEN is not set in the environment; export TOKEN=")


def test_a_file_that_looks_like_a_secret_is_named(desk: Desk) -> None:
    (desk.code / ".env").write_text("PASSWORD=x\n")
    [problem] = desk.refused()
    assert "look like secrets, and would be readable in the image: .env" in problem
    (desk.code / ".dockerignore").write_text(".env\n")
    assert desk.refused() == []


def test_code_of_more_than_100_mb_is_refused_with_its_largest_file(desk: Desk) -> None:
    with (desk.code / "weights.bin").open("wb") as file:
        file.truncate(314_000_000)
    [problem] = desk.refused()
    assert "has 314.0 MB, more than the limit of 100.0 MB; the largest files: weights.bin" in problem


def test_a_link_out_of_the_folder_is_refused(desk: Desk) -> None:
    (desk.code / "data").symlink_to("/etc")
    [problem] = desk.refused()
    assert "/etc" in problem


def test_all_that_is_missing_is_said_at_once_and_a_submission_stops_at_the_first_of_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKEN", raising=False)
    (desk.code / "id.pem").write_text("x")
    problems = desk.refused(secrets=["TOKEN"])
    assert [problem.split()[0] for problem in problems] == ["missing", "these"]
    plan = make_plan(desk.home, desk.folder / "job.yaml", config=str(desk.config), dry_run=True)
    with pytest.raises(CloudTrainError, match="missing secret: TOKEN"):
        submit(desk.home, plan)
    assert not desk.home.ledger_path.exists()


@pytest.mark.parametrize(
    ("store", "problem"),
    [
        ("s3://My_Bucket/runs", "invalid bucket name 'My_Bucket'"),
        ("s3://my-runs--x-s3/runs", "invalid bucket name 'my-runs--x-s3'"),
        ("gs://My-Bucket/runs", "invalid bucket name 'My-Bucket'"),
        ("gs://my-google-runs/runs", "invalid bucket name 'my-google-runs'"),
        ("az://MyAccount/runs", "invalid storage account name 'MyAccount'"),
        ("az://myaccount/My_Runs", "invalid container name 'My_Runs'"),
    ],
)
def test_a_store_that_its_own_class_refuses_is_refused_before_an_image_is_built(
    home: Home, tmp_path: Path, store: str, problem: str
) -> None:
    desk = Desk(home, tmp_path, "docker")
    [refused] = desk.refused(store=store)
    assert refused.startswith(f"{problem} in '{store}': use ")
    plan = make_plan(home, tmp_path / "job.yaml", config=str(desk.config), dry_run=True)
    with pytest.raises(CloudTrainError, match=problem):
        submit(home, plan)


def test_on_this_machine_a_package_that_is_missing_is_named(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> list[str]:
        job = {"name": "x", "store": "runs", "model": {"kind": "cnn"}, "data": {"dataset": "digits"}, "train": {"steps": 1}}
        (tmp_path / "job.yaml").write_text(json.dumps(job))
        return request_of(home, make_plan(home, tmp_path / "job.yaml", dry_run=True))[1]

    assert refused() == []
    monkeypatch.setattr(readiness, "find_spec", lambda name: None if name == "torch" else object())
    [problem] = refused()
    assert problem.startswith("training a cnn needs torch, which ")
    assert problem.endswith("install it with: pip install 'cloud-train[train]'")
