"""Where the arithmetic happens."""

import ctypes
import subprocess
import sys

import pytest
import torch

from cloud_train.training.device import prepare_device, usable_cpus


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
