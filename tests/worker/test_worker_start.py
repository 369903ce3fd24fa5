import subprocess
import sys

import psutil
import pytest

from cloud_train.run.states import State
from cloud_train.worker import contract
from tests.support import wait_until
from tests.worker.launching import Launched

HEAVY = ("argparse", "asyncio", "numpy", "psutil", "pydantic", "rich", "ruamel", "socket", "torch", "typer")


def test_the_worker_imports_nothing_heavy() -> None:
    code = f"import sys, cloud_train.worker.__main__; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_user_api_imports_nothing_heavy() -> None:
    code = f"import sys, cloud_train.worker.api; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_worker_stays_small(launched: Launched) -> None:
    launched.shell("echo ready; exec sleep 60")
    worker = launched.start_by_command_line()
    launched.says(b"ready")
    wait_until(lambda: launched.is_in(State.RUNNING), "the status says running")
    processes = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children()]
    used = sum(process.memory_info().rss for process in processes if process.name() != "sleep")
    assert used < 60_000_000  # with its guard, and counting twice what the two share


def test_the_program_is_told_on_which_cloud_it_runs_whatever_the_job_says(launched: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZUREML_RUN_ID", "job-1")
    launched.python(f"import os; print(os.environ[{contract.PLATFORM!r}])", environment={contract.PLATFORM: ""})
    launched.start_by_command_line("--platform", "azureml").wait(60)
    assert launched.output() == b"azureml\n"


@pytest.mark.parametrize("word", ["python", "python3"])
@pytest.mark.parametrize("in_shell", [False, True])
def test_python_is_the_interpreter_of_the_worker_where_path_has_none(launched: Launched, word: str, in_shell: bool) -> None:
    (launched.work / "program.py").write_text("import sys; print(sys.executable)")
    launched.job(*(("/bin/sh", "-c", f"{word} program.py") if in_shell else (word, "program.py")))
    assert launched.run(environment={"PATH": str(launched.home)}).state is State.SUCCEEDED
    assert launched.output().decode() == f"{sys.executable}\n"


def test_the_python_of_path_comes_first(launched: Launched) -> None:
    (launched.home / "python").write_text("#!/bin/sh\necho mine\n")
    (launched.home / "python").chmod(0o755)
    launched.job("python", "program.py")
    launched.run(environment={"PATH": f"{launched.home}:/usr/bin:/bin"})
    assert launched.output() == b"mine\n"
