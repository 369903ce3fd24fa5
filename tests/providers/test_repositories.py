"""Names of repositories that a cloud's login or machines cannot use, and what is said about them."""

import pytest

from cloud_train.providers.cloud.repositories import AZURE, ECR, GOOGLE, Registry, problem_of

OWN = {"aws": ECR, "gcp": GOOGLE, "azure": AZURE}


@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
def test_the_example_of_each_cloud_is_good(own: Registry) -> None:
    assert problem_of("x", own.example, own) is None


@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
@pytest.mark.parametrize(
    "repository", ["ghcr.io/me/jobs", "registry.example.com:5000/me/jobs", "docker.io/me/jobs", "127.0.0.1:5000/jobs", "public.mygcr.io/x"]
)
def test_a_registry_of_others_is_good(own: Registry, repository: str) -> None:
    assert problem_of("x", repository, own) is None


@pytest.mark.parametrize(
    ("repository", "said"),
    [
        ("ctreg.azurecr.io", "is a registry without a repository; add one, such as ctreg.azurecr.io/cloud-train"),
        ("ctreg.azurecr.io:443", "is a registry without a repository; add one, such as ctreg.azurecr.io/cloud-train"),
        ("https://ctreg.azurecr.io/x", "is a URL; leave out https://"),
        ("ctreg.azurecr.io:443/x", "has a port, which Azure Container Registry does not use; leave out :443"),
        ("Ctreg.azurecr.io/x", "has capital letters, which registries do not accept; write ctreg.azurecr.io/x"),
        ("ctreg.azurecr.io/x:1", "has a tag; write ctreg.azurecr.io/x"),
        (
            "ctreg/x",
            "names no registry, so it would be a repository on Docker Hub; start with the registry's host, such as myregistry.azurecr.io",
        ),
        ("docker.io/ctreg.azurecr.io", "is a repository on Docker Hub with the name ctreg.azurecr.io, not one at ctreg.azurecr.io"),
        ("index.docker.io/me/x", "is on Docker Hub, whose registry is called docker.io; write docker.io/me/x"),
        ("10.1.2.3/x", "is at an IP address, from which a cloud's machines do not pull; use the registry's name"),
        (
            "x.dkr.ecr.us-east-1.amazonaws.com.evil.example/x",
            "is not in Amazon ECR, though x.dkr.ecr.us-east-1.amazonaws.com.evil.example resembles its hosts",
        ),
        ("ctreg.azurecr.io.evil.example/x", "is not in Azure Container Registry, though ctreg.azurecr.io.evil.example resembles its hosts"),
        ("us-docker.pkg.dev.evil.example/p/r/i", "is not in Artifact Registry, though us-docker.pkg.dev.evil.example resembles its hosts"),
        (
            "us-docker.pkg.dev/p/r/i",
            "is in Artifact Registry; the machines pull from Azure Container Registry, so use one such as myregistry",
        ),
        ("ctreg.azurecr.io/-x", "is not a registry's host and a repository in it, such as registry.example.com/team/cloud-train"),
    ],
)
def test_what_is_wrong_with_a_name_is_said_with_the_remedy(repository: str, said: str) -> None:
    problem = problem_of("azure.repository", repository, AZURE)
    assert problem is not None
    assert problem.startswith(f"azure.repository: {repository!r} {said}")


def test_an_image_in_artifact_registry_has_a_project_and_a_repository_before_its_name() -> None:
    assert "has too few parts" in (problem_of("gcp.repository", "us-docker.pkg.dev/project/repository", GOOGLE) or "")
    assert problem_of("gcp.repository", "us-docker.pkg.dev/example.com/project/repository/image", GOOGLE) is None
    assert problem_of("gcp.repository", "gcr.io/project/image", GOOGLE) is None


def test_a_login_in_a_name_is_not_repeated() -> None:
    problem = problem_of("azure.repository", "me:canary@ctreg.azurecr.io/x", AZURE)
    assert problem == "azure.repository: '…@ctreg.azurecr.io/x' contains '@'; a repository's name has no user and no digest"
