"""The configuration of an image."""

import json
from typing import Any

import pytest

from cloud_train.image.config import Base, check_platform, configuration, is_root
from cloud_train.image.errors import ImageError
from cloud_train.image.layers import Layer

LAYERS = [Layer((), "sha256:2", "the worker"), *(Layer((), f"sha256:{number}", "the code") for number in (3, 4))]


def base(**settings: Any) -> Base:
    return Base("linux", "arm64", "v8", ("sha256:1",), settings)


def configured(**settings: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(configuration(base(**settings), LAYERS, {"a": "new"}))
    return document


@pytest.mark.parametrize(("user", "becomes"), [("", "65532:65532"), ("root", "65532:65532"), ("0:0", "65532:65532"), ("1000", "1000")])
def test_a_container_never_runs_as_root(user: str, becomes: str) -> None:
    assert configured(User=user)["config"]["User"] == becomes
    assert not is_root(becomes)


@pytest.mark.parametrize(("user", "becomes"), [("", "65532:65532"), ("root", "65532:65532"), ("trainer", "trainer")])
def test_for_a_platform_whose_folders_are_roots_a_container_starts_as_root_and_knows_whom_to_become(user: str, becomes: str) -> None:
    config = json.loads(configuration(base(User=user), LAYERS, {}, starts_as_root=True))["config"]
    assert (config["User"], config["Env"][-1]) == ("0:0", f"_CLOUD_TRAIN_USER={becomes}")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], ["PYTHONPATH=/opt/cloud-train/lib", "HOME=/tmp"]),
        (["HOME=/home/me", "A=b=c"], ["HOME=/home/me", "A=b=c", "PYTHONPATH=/opt/cloud-train/lib"]),
        (["PYTHONPATH=/mine", "HOME="], ["PYTHONPATH=/opt/cloud-train/lib:/mine", "HOME=/tmp"]),
    ],
)
def test_the_worker_is_put_on_pythons_path(before: list[str], after: list[str]) -> None:
    assert configured(Env=before)["config"]["Env"] == after


def test_layers_labels_and_history_are_those_of_the_base_and_ours() -> None:
    document = configured(Labels={"a": "old", "b": "kept"}, Cmd=["bash"], Entrypoint=["init"], ExposedPorts={"80/tcp": {}})
    assert document["rootfs"]["diff_ids"] == ["sha256:1", "sha256:2", "sha256:3", "sha256:4"]
    assert [step.get("created_by") for step in document["history"]] == ["the base image", "the worker", "the code", None]
    assert document["created"] == "1970-01-01T00:00:00Z"
    labels = document["config"]["Labels"]
    assert (labels["a"], labels["b"]) == ("new", "kept")
    assert document["config"]["ExposedPorts"] == {"80/tcp": {}}
    assert "Cmd" not in document["config"]
    assert (document["os"], document["architecture"], document["variant"]) == ("linux", "arm64", "v8")


def test_the_same_inputs_are_the_same_bytes() -> None:
    assert configuration(base(Env=["A=b"], User="1"), LAYERS, {"a": "1", "b": "2"}) == configuration(
        base(User="1", Env=["A=b"]), LAYERS, {"b": "2", "a": "1"}
    )


@pytest.mark.parametrize("platform", ["linux/arm64", "linux/arm64/v8"])
def test_a_base_for_the_platform_is_accepted(platform: str) -> None:
    check_platform(base(), "base", platform)


@pytest.mark.parametrize("platform", ["linux/amd64", "linux/arm64/v7", "windows/arm64"])
def test_a_base_for_another_platform_is_refused(platform: str) -> None:
    with pytest.raises(ImageError, match=f"the base image base is for linux/arm64/v8, not for {platform}"):
        check_platform(base(), "base", platform)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], ["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"]),
        (["NVIDIA_VISIBLE_DEVICES=1"], ["NVIDIA_VISIBLE_DEVICES=1", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"]),
        (["NVIDIA_DRIVER_CAPABILITIES=all"], ["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=all"]),
    ],
)
def test_an_image_for_gpus_gets_them_from_nvidias_runtime_unless_its_base_says_which(before: list[str], after: list[str]) -> None:
    document = json.loads(configuration(base(Env=before), LAYERS, {}, uses_gpus=True))
    assert [each for each in document["config"]["Env"] if each.startswith("NVIDIA_")] == after


def test_an_image_for_no_gpus_asks_nvidias_runtime_for_none() -> None:
    assert not [each for each in configured()["config"]["Env"] if each.startswith("NVIDIA_")]
