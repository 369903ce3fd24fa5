"""Where the arithmetic happens."""

import ctypes
import subprocess
import sys

import pytest
import torch

from cloud_train.training.device import AcceleratorMissingError, check_accelerators, prepare_device, usable_cpus


@pytest.mark.parametrize(
    ("cpus", "environment", "threads"),
    [
        (3, {}, 3),
        (3, {"OMP_NUM_THREADS": "2"}, 3),
        (None, {"OMP_NUM_THREADS": "2"}, 2),
        (None, {"OMP_NUM_THREADS": "many"}, usable_cpus()),
        (4, {"LOCAL_WORLD_SIZE": "2"}, 2),
        (2, {"LOCAL_WORLD_SIZE": "3"}, 1),
        (None, {"LOCAL_WORLD_SIZE": "1", "OMP_NUM_THREADS": "5"}, 5),
    ],
)
def test_the_number_of_threads_follows_from_the_job_the_environment_and_the_processes_that_share_the_machine(
    cpus: int | None, environment: dict[str, str], threads: int
) -> None:
    before = torch.get_num_threads()
    try:
        prepare_device(cpus, environment)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


class Cuda:
    """``torch.cuda`` of a build or a machine that is not here."""

    def __init__(self, devices: int, error: Exception | None = None) -> None:
        self._devices, self._error = devices, error

    def init(self) -> None:
        if self._error:
            raise self._error

    def device_count(self) -> int:
        return self._devices


@pytest.mark.parametrize(
    ("cuda", "said"),
    [
        (
            Cuda(0, AssertionError("Torch not compiled with CUDA enabled")),
            "torch 2.11 cannot use any: Torch not compiled with CUDA enabled",
        ),
        (
            Cuda(4, RuntimeError("The NVIDIA driver on your\nsystem is too old")),
            "cannot use any: The NVIDIA driver on your system is too old",
        ),
        (Cuda(3), "torch 2.11 can use only 3: it finds no more"),
    ],
)
def test_too_few_gpus_for_torch_are_refused_with_torchs_reason(cuda: Cuda, said: str) -> None:
    with pytest.raises(AcceleratorMissingError) as refused:
        check_accelerators("A100", 4, "2.11", cuda)
    assert refused.value.message.startswith("the job asks for 4 × A100 on each machine (resources.accelerator), but torch 2.11 ")
    assert refused.value.message.endswith(said)
    assert "--set resources.accelerator=null" in str(refused.value.hint)


def test_enough_gpus_for_torch_are_enough() -> None:
    check_accelerators("A100", 4, "2.11", Cuda(8))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this is not glibc")
def test_memory_that_a_step_lets_go_of_is_kept_for_the_next_one() -> None:
    code = """
import sys, torch
from cloud_train.training.device import keep_memory
assert sys.argv[1] == "given back" or keep_memory()
def faults():
    return int(open("/proc/self/stat").read().rpartition(")")[2].split()[7])
before = faults()
for step in range(20):  # the heap grows in the first few, until the pieces fit
    torch.ones(20_000_000)
print(faults() - before)
"""
    pages = {}
    for what in ("kept", "given back"):
        ended = subprocess.run([sys.executable, "-c", code, what], capture_output=True, text=True, check=True)
        pages[what] = int(ended.stdout)
    assert pages["kept"] * 3 < pages["given back"]
