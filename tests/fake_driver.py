"""A library that answers as NVIDIA's driver does, with what the environment says: FAKE_COUNT, FAKE_ERROR, FAKE_CRASH."""

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = """
#include <stdlib.h>
#include <unistd.h>
static int number(const char *name) { const char *text = getenv(name); return text ? atoi(text) : 0; }
int cuInit(unsigned flags) { if (number("FAKE_CRASH")) abort(); return number("FAKE_ERROR"); }
int cuDeviceGetCount(int *count) { *count = number("FAKE_COUNT"); return 0; }
"""


def build_driver(folder: Path) -> Path:
    """Build ``libcuda.so.1`` in ``folder``; skips the test where there is no C compiler. Returns the folder, for LD_LIBRARY_PATH."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    (folder / "driver.c").write_text(_SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "driver.c"], check=True)
    return folder
