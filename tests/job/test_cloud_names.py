"""The forms of names: what is really called like that fits, and checking takes linear time whatever a text looks like."""

import time

import pytest

from cloud_train.job import cloud_names as forms
from cloud_train.job.cloud_names import EXPECTED, has_form

REAL = {
    forms.SERVICE_URL: [
        "https://management.azure.com",
        "https://management.azure.com/",
        "http://127.0.0.1:8080/x",
        "http://localhost:8080/x",
        "https://a.example:8443/b",
    ],
    forms.SERVICE_TEMPLATE: [
        *("https://{service}.googleapis.com", "https://{service}-eu.p.googleapis.com", "https://private.example/{service}"),
        *("http://127.0.0.1:1/{service}", "http://localhost/{service}"),
    ],
    forms.VAULT_URL: [
        "https://cloud-train.vault.azure.net",
        "https://MyVault.vault.azure.net/",
        "https://cloud-train.vault.azure.cn/",
        "http://127.0.0.1:8080",
    ],
    forms.REPOSITORY: [
        *("123456789012.dkr.ecr.eu-west-1.amazonaws.com/cloud-train", "europe-west4-docker.pkg.dev/my-project-123456/cloud-train/jobs"),
        *("eu.gcr.io/project/x", "your-registry.azurecr.io/a__b/c-d.e_f--g", "localhost:5000/x", "127.0.0.1:5000/x", "[::1]:5000/x"),
        *("registry:5000/team/x", "docker.io/me/x", "ghcr.io/me/x"),
    ],
    forms.AWS_REGION: ["eu-west-1", "us-gov-west-1", "cn-northwest-1", "ap-southeast-7", "us-isob-east-1", "eusc-de-east-1"],
    forms.AWS_TRAINING_PLAN: ["arn:aws:sagemaker:us-east-1:123456789012:training-plan/mine"],
    forms.AWS_FUNCTION: ["arn:aws:lambda:us-east-1:123456789012:function:registry-login"],
    forms.AWS_ROLE: ["arn:aws:iam::123456789012:role/x", "arn:aws-us-gov:iam::123456789012:role/a/b_c+d=e,f.g@h-i"],
    forms.GCP_PROJECT: ["my-project-123456", "example.com:my-project", "123456789012"],
    forms.GCP_REGION: ["europe-west4", "us-central1", "northamerica-northeast1", "me-central2"],
    forms.GCP_ACCOUNT: [
        "trainer@my-project.iam.gserviceaccount.com",
        "123-compute@developer.gserviceaccount.com",
        "a@p.example.com.iam.gserviceaccount.com",
    ],
    forms.GCP_NETWORK: ["projects/12345/global/networks/training", "projects/123456789012/global/networks/vpc-1"],
    forms.GCP_KEY: [
        "projects/my-project/locations/europe-west4/keyRings/ring/cryptoKeys/key_1",
        "projects/123456789012/locations/global/keyRings/R/cryptoKeys/K",
    ],
    forms.GCP_RESERVATION: ["any", "projects/my-project/zones/europe-west4-a/reservations/gpus"],
    forms.GCP_ATTACHMENT: ["projects/my-project/regions/europe-west4/networkAttachments/training"],
    forms.GCP_TENSORBOARD: ["projects/my-project/locations/europe-west4/tensorboards/1234567890"],
    forms.GCP_PERSISTENT: ["training-1"],
    forms.GCS_FOLDER: ["gs://my-bucket", "gs://my-bucket/a/b", "gs://my.bucket_1/x"],
    forms.GUID: ["11111111-2222-3333-4444-555555555555"],
    forms.CLIENT_ID: ["11111111-2222-3333-4444-55555555555F"],
    forms.AZURE_IDENTITY: ["user", "11111111-2222-3333-4444-55555555555F"],
    forms.AZURE_INSTANCE_TYPE: ["gpu-large", "a", "a" * 63],
    forms.AZURE_GROUP: ["cloud-train", "Größe_(1).x"],
    forms.AZURE_WORKSPACE: ["training", "My_Workspace-1"],
    forms.AZURE_LOCATION: ["westeurope", "eastus2"],
    forms.AZURE_COMPUTE: ["gpu-cluster"],
    forms.AZURE_MACHINE: ["Standard_NC4as_T4_v3", "STANDARD_F4S_V2"],
    forms.DOCKER_HOST: [
        *("unix:///var/run/docker.sock", "unix:///run/user/1000/docker.sock", "npipe:////./pipe/docker_engine"),
        *(
            "ssh://host",
            "ssh://me@gpu-box:22",
            "ssh://me@gpu-box/run/user/1000/docker.sock",
            "ssh://me@[fe80::1]:22",
            "ssh://gpu_box.local",
        ),
        *(
            "tcp://127.0.0.1:2375",
            "tcp://gpu-box:2376",
            "tcp://[::1]:2376",
            "https://gpu-box:2376",
            "http://127.0.0.1:2375",
            "tcp://Host.Example",
        ),
    ],
    forms.DOCKER_NETWORK: ["bridge", "host", "none", "laboratory", "container:other_1"],
    forms.DOCKER_USER: ["0:0", "1000:1000", "1000", "nobody:nogroup"],
}
HOSTILE_PARTS = ["a", "-", ".", "a-", "a.", "/", "/a", "a/", "1", "{service}", ":", "@", "_", "__", "a:1", "(", "aA1"]


def test_every_form_is_described_and_has_examples() -> None:
    assert REAL.keys() == EXPECTED.keys()


@pytest.mark.parametrize(("form", "name"), [(form, name) for form, names in REAL.items() for name in names])
def test_what_is_really_called_like_that_fits_and_nothing_may_be_added(form: str, name: str) -> None:
    assert has_form(form, name)
    for wrong in (
        f"{name}\n",
        f" {name}",
        f"{name} ",
        f"{name}#",
        f"{name}\\",
        f"{name}?",
        f"{name}\x00",
        f"{name}@evil.example/ ",
        "",
        None,
        5,
    ):
        assert not has_form(form, wrong), repr(wrong)


@pytest.mark.parametrize("form", EXPECTED)
def test_twice_the_text_takes_about_twice_the_time(form: str) -> None:
    beginnings = ["", *REAL[form], *(name[: len(name) // 2] for name in REAL[form])]

    def seconds(length: int) -> float:
        began = time.process_time()
        for beginning in beginnings:
            for part in HOSTILE_PARTS:
                has_form(form, f"{beginning}{part * (length // len(part))}!")
        return time.process_time() - began

    seconds(500)
    once, twice = min(seconds(4_000) for _ in range(3)), min(seconds(8_000) for _ in range(3))
    assert twice < 3 * once + 0.05
