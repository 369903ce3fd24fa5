"""Whether a program can use the GPUs that its job asks for: the driver's library is one that the test builds, and devices are files."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud_train.run.states import Cause, State
from cloud_train.worker.accelerators import asked, lacking, library_path, usable
from tests.fake_driver import build_driver
from tests.worker.launching import Launched

ONE: dict[str, Any] = {"resources": {"accelerator": "L4:1"}}
FOUR: dict[str, Any] = {"resources": {"accelerator": "A100:4"}}


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a library that answers as NVIDIA's driver, with what variables say."""
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def says(driver: Path, tmp_path: Path) -> Callable[..., str]:
    """What is lacking for a job where the driver answers so."""
    return lambda job, **answers: lacking(job, {"LD_LIBRARY_PATH": str(driver), **answers}, tmp_path)


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, ("", 0)),
        ({"accelerator": None}, ("", 0)),
        ({"accelerator": "L4"}, ("L4", 1)),
        ({"accelerator": "A100-80GB:8"}, ("A100-80GB", 8)),
        ({"accelerator": "TPU_V5_LITEPOD:4"}, ("", 0)),
        ({"accelerator": "Trainium:16"}, ("", 0)),
        ({"accelerator": 3}, ("", 0)),
    ],
)
def test_a_job_asks_for_gpus_by_kind_and_number(resources: dict[str, Any], expected: tuple[str, int]) -> None:
    assert asked({"resources": resources}) == expected


def test_enough_gpus_are_enough(says: Callable[..., str]) -> None:
    assert says(ONE, FAKE_COUNT="1") == ""
    assert says(FOUR, FAKE_COUNT="8") == ""
    assert says({"resources": {}}) == ""


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"FAKE_COUNT": "3"}, ["asks for 4 × A100", "can use only 3", "shows no more"]),
        ({"FAKE_COUNT": "1", "CUDA_VISIBLE_DEVICES": "2"}, ["can use only 1", "CUDA_VISIBLE_DEVICES is '2'"]),
        ({"FAKE_COUNT": "0", "CUDA_VISIBLE_DEVICES": ""}, ["cannot use any", "CUDA_VISIBLE_DEVICES is ''"]),
        ({"FAKE_ERROR": "100"}, ["cannot use any", "finds no GPU", "use a machine that has one"]),
        ({"FAKE_ERROR": "34"}, ["stub of the CUDA toolkit"]),
        ({"FAKE_ERROR": "803"}, ["different versions", "remove NVIDIA's driver packages from the image"]),
        ({"FAKE_ERROR": "804"}, ["cuda-compat"]),
        ({"FAKE_ERROR": "999"}, ["cuInit failed with 999"]),
        ({"FAKE_CRASH": "1"}, ["could not be asked (exit status -6)"]),
    ],
)
def test_too_few_gpus_are_said_with_the_reason_and_what_to_do(
    says: Callable[..., str], answers: dict[str, str], expected: list[str]
) -> None:
    said = says(FOUR, **answers)
    assert all(words in said for words in [*expected, "--set resources.accelerator=null"]), said


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ((), "there is no NVIDIA driver"),
        (("dev/nvidia0", "dev/nvidia1", "dev/nvidiactl"), "/dev has 2 NVIDIA devices, but the driver's library libcuda.so.1 was not found"),
        (("proc/driver/nvidia/version",), "its devices are not in the container; set NVIDIA_VISIBLE_DEVICES=all"),
    ],
)
def test_without_the_drivers_library_the_devices_tell_why(tmp_path: Path, paths: tuple[str, ...], expected: str) -> None:
    made(tmp_path, *paths)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "libcuda.so.1").write_text("not a library")  # hides one that the machine may have
    assert expected in lacking(ONE, {"LD_LIBRARY_PATH": str(tmp_path / "none")}, tmp_path)


def test_amds_gpus_count_and_processors_beside_them_do_not(says: Callable[..., str], tmp_path: Path) -> None:
    made(tmp_path, "dev/kfd")
    for node, units in enumerate((0, 304, 304)):
        (folder := tmp_path / "sys/class/kfd/kfd/topology/nodes" / str(node)).mkdir(parents=True)
        (folder / "properties").write_text(f"cpu_cores_count 0\nsimd_count {units}\nmem_banks_count 1\n")
    assert says({"resources": {"accelerator": "MI300X:2"}}, FAKE_ERROR="100") == ""
    assert "can use only 2" in says({"resources": {"accelerator": "MI300X:4"}}, FAKE_ERROR="100")
    for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        both = says({"resources": {"accelerator": "MI300X:2"}}, FAKE_ERROR="100", **{name: "0,GPU-4b2c1a9f"})
        assert both == "", name
        one = says({"resources": {"accelerator": "MI300X:2"}}, FAKE_ERROR="100", **{name: "1"})
        assert f"can use only 1: the kernel (amdkfd) has 2; {name} is '1'" in one
    for nothing in ("", "-1", "-1,0"):
        assert "cannot use any" in says({"resources": {"accelerator": "MI300X:1"}}, FAKE_ERROR="100", ROCR_VISIBLE_DEVICES=nothing)
    (tmp_path / "dev/kfd").unlink()
    assert "cannot use any" in says({"resources": {"accelerator": "MI300X:2"}}, FAKE_ERROR="100"), "no device, whatever the topology lists"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "{lib64}:{lib}"),
        ({"LD_LIBRARY_PATH": ""}, "{lib64}:{lib}"),
        ({"LD_LIBRARY_PATH": "/mine"}, "/mine:{lib64}:{lib}"),
        ({"LD_LIBRARY_PATH": "{lib}:/mine"}, "{lib}:/mine:{lib64}"),
        ({"LD_LIBRARY_PATH": "{lib64}:{lib}"}, None),
    ],
)
def test_googles_folders_for_nvidias_libraries_come_after_the_users(tmp_path: Path, given: dict[str, str], expected: str | None) -> None:
    names = {"lib64": str(tmp_path / "usr/local/nvidia/lib64"), "lib": str(tmp_path / "usr/local/nvidia/lib")}
    assert library_path({}, tmp_path) == {}, "a machine that has none of them"
    for folder in names.values():
        Path(folder).mkdir(parents=True)
    found = library_path({name: value.format(**names) for name, value in given.items()}, tmp_path)
    assert found == ({} if expected is None else {"LD_LIBRARY_PATH": expected.format(**names)})


def test_a_program_without_its_gpus_never_starts_and_is_not_retried(launched: Launched, driver: Path) -> None:
    environment = {"LD_LIBRARY_PATH": str(driver), "FAKE_ERROR": "100"}
    launched.job("touch", "started", of_job=ONE, environment=environment, attempts=3, retry_on=(Cause.FAILED, Cause.INFRASTRUCTURE))
    begun = time.monotonic()
    worker = launched.start()
    assert worker.wait(60) == Cause.NO_ACCELERATOR.exit_code == 19
    assert time.monotonic() - begun < 30
    status = launched.status()
    assert (status.state, status.cause, status.program_exit_code) == (State.FAILED, Cause.NO_ACCELERATOR, None)
    assert status.message.startswith("the job asks for 1 × L4 on each machine (resources.accelerator), but its program cannot use any: ")
    assert not (launched.work / "started").exists()
    assert not (launched.directory / "attempts" / "2").exists()


def test_a_program_with_its_gpus_starts(launched: Launched, driver: Path) -> None:
    environment = {"LD_LIBRARY_PATH": str(driver), "FAKE_COUNT": "4"}
    launched.job("touch", "started", of_job=FOUR, environment=environment)
    assert launched.run().cause is Cause.SUCCEEDED
    assert (launched.work / "started").exists()
    assert "4 × A100: found" in launched.worker_log()


def made(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ({}, ["0", "1"]),
        ({"CUDA_VISIBLE_DEVICES": "3,GPU-1a"}, ["3", "GPU-1a"]),
        ({"CUDA_VISIBLE_DEVICES": "3,5,7"}, ["3", "5"]),  # the driver shows two
    ],
)
def test_the_gpus_that_a_program_can_use_are_known_by_their_names(driver: Path, visible: dict[str, str], expected: list[str]) -> None:
    assert usable({"LD_LIBRARY_PATH": str(driver), "FAKE_COUNT": "2", **visible}, driver) == expected
