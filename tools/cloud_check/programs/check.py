"""The program of the jobs that cloud-check starts. It needs only Python 3.10 and its standard library: ``python3 check.py KIND``."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

BYTES = b"".join(
    [
        b"not UTF-8: \xff\xfe\n",
        b"progress 1\rprogress 2\rprogress 3\n",
        "umlauts and symbols: äöü → 漢\n".encode(),
        b"a long line: " + b"x" * 20_000 + b"\n",
        b"no end of line",
    ]
)
"""What ``plain`` prints last. The run's log must have it byte for byte."""
MARK = "cloud-check was here"
"""A line that the cloud's own log must have too."""
_FOLDERS = ("/tmp", "/var/tmp", "/opt/ml/model", "/opt/ml/output", "/opt/ml/input/config")
_SHOWN = ("AWS_REGION", "CLOUD_ML_REGION", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "NVIDIA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "HOME")
_PLATFORMS = (
    "AWS_",
    "AZUREML_",
    "CLOUD_ML_",
    "CLOUD_TRAIN_",
    "MASTER_",
    "NVIDIA_",
    "SM_",
    "TRAINING_JOB_",
    "TF_CONFIG",
    "DEFAULT_IDENTITY",
)


def main() -> int:
    """Carry out the kind of job that the command line names."""
    kinds = {each.__name__: each for each in (plain, failing, waiting, spot, node, accelerator, secret)}
    return kinds[sys.argv[1]]()


def plain() -> int:
    """Say what the machine is like, then print bytes that a log may spoil."""
    say("facts", facts())
    sys.stdout.flush()
    os.write(1, MARK.encode() + b"\n" + BYTES)
    Path(os.environ["CLOUD_TRAIN_MODEL"], "weights.txt").write_text("weights\n", encoding="utf-8")
    return 0


def failing() -> int:
    """Fail with a status of its own."""
    print("this program fails on purpose")
    return 4


def waiting() -> int:
    """Wait until it is told to stop, then save a checkpoint."""

    def stop(*_: object) -> None:
        save(7)
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    print("ready", flush=True)
    while True:
        time.sleep(0.1)


def spot() -> int:
    """Save a checkpoint and wait for a while: the machine may be reclaimed meanwhile. A second attempt exits at once."""
    resumed = os.environ.get("CLOUD_TRAIN_RESUME", "")
    if resumed:
        print(f"resumed from {Path(resumed).name}")
        return 0
    save(1)
    print("ready", flush=True)
    time.sleep(float(sys.argv[2]))
    return 0


def node() -> int:
    """Say which node this is, and when it began."""
    names = ("CLOUD_TRAIN_NODE_RANK", "CLOUD_TRAIN_NODES", "MASTER_ADDR", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
    say("node", {**{name: os.environ.get(name) for name in names}, "began": time.time()})
    return 0


def accelerator() -> int:
    """Count the GPUs that the program sees."""
    listed = ""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False).stdout
    except OSError as error:
        listed = str(error)
    devices = sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))
    folders = [folder for folder in ("/usr/local/nvidia/lib64", "/usr/local/nvidia/lib") if Path(folder).is_dir()]
    said = [line.split(" (UUID")[0] for line in listed.splitlines()]
    say("accelerator", {"devices": devices, "nvidia-smi": said, "driver": _driver_count(), "folders": folders, **environment()})
    return 0


def secret() -> int:
    """Say the secret's SHA-256, never the secret."""
    say("secret", hashlib.sha256(os.environ.get("CLOUD_CHECK_TOKEN", "").encode()).hexdigest())
    return 0


def facts() -> dict[str, object]:
    """The user, the folders, and the names of the platform's variables."""
    folders = {}
    for folder in _FOLDERS:
        try:
            found = Path(folder).stat()
        except OSError:
            continue
        folders[folder] = {"owner": found.st_uid, "mode": oct(found.st_mode & 0o7777), "writable": os.access(folder, os.W_OK)}
    files = [name for name in ("/opt/ml/input/config/resourceconfig.json",) if Path(name).exists()]
    return {
        "uid": os.getuid(),
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
        "folders": folders,
        "files": files,
        **environment(),
    }


def environment() -> dict[str, object]:
    """The names of the platform's variables, and the values of a few."""
    names = sorted(name for name in os.environ if name.startswith(_PLATFORMS))
    return {"variables": names, "values": {name: os.environ[name] for name in _SHOWN if name in os.environ}}


def save(step: int) -> None:
    """Save a checkpoint of this step."""
    folder = Path(os.environ["CLOUD_TRAIN_CHECKPOINTS"])
    half = folder / f".step-{step}.tmp"
    half.mkdir()
    (half / "weights").write_text(f"{step}\n", encoding="utf-8")
    half.rename(folder / f"step-{step:08d}")


def say(what: str, value: object) -> None:
    """Print a line that the check reads."""
    print(f"cloud-check {what}: {json.dumps(value)}", flush=True)


def _driver_count() -> int | str:
    import ctypes

    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int()
        status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    except OSError as error:
        return str(error)
    return f"status {status}" if status else count.value


if __name__ == "__main__":
    sys.exit(main())
