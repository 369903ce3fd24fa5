"""The front door: what ``import cloud_train`` offers, and what a client and its runs do."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import cloud_train
from cloud_train import (
    Cause,
    Client,
    ConflictError,
    JobError,
    LogLine,
    MetricPoint,
    NotFoundError,
    Question,
    Run,
    State,
    StateChange,
    UsageError,
)
from cloud_train.client import Metrics
from cloud_train.errors import MissingDependencyError
from cloud_train.job.overrides import override_text
from cloud_train.orchestrator.following import Progress, events
from cloud_train.run.view import RunView

ROOT = Path(__file__).parent.parent
PUBLIC = [
    "Artifacts",
    "Cause",
    "Client",
    "CloudTrainError",
    "ConflictError",
    "CorruptError",
    "GivenValues",
    "JobError",
    "JobSpec",
    "Listed",
    "LogLine",
    "MetricPoint",
    "Metrics",
    "MissingDependencyError",
    "NotFoundError",
    "NotTrustedError",
    "Plan",
    "Progress",
    "ProviderError",
    "Question",
    "Run",
    "RunView",
    "State",
    "StateChange",
    "StoreError",
    "Summary",
    "Unreadable",
    "UsageError",
    "Waiting",
    "__version__",
    "load_model",
]
MEASURE = """printf '{"step": %d, "split": "train", "name": "loss", "value": 0.%d}\\n' 1 9 2 8 >> "$CLOUD_TRAIN_METRICS\""""


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    client = Client(tmp_path / "home")
    yield client
    for run in client.runs():
        if not run.view.state.is_end:
            run.cancel(force=True)


def job(command: str, more: str = "") -> str:
    lines = "".join(f"    {line}\n" for line in command.splitlines())
    Path("job.yaml").write_text(f"name: test\nmodel:\n  kind: script\n  command: |\n{lines}store: runs\n{more}")
    return "job.yaml"


def test_the_public_names_are_these() -> None:
    assert sorted(cloud_train.__all__) == sorted(PUBLIC)
    assert dir(cloud_train) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_imported(name: str) -> None:
    if name == "load_model":
        pytest.importorskip("torch")
    assert getattr(cloud_train, name)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        cloud_train.no_such_name  # type: ignore[attr-defined] # noqa: B018 - that is what is tested


def test_importing_the_package_imports_next_to_nothing() -> None:
    code = "import sys; before = set(sys.modules); import cloud_train; print(*sorted(set(sys.modules) - before))"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert set(ended.stdout.split()) <= {
        "cloud_train",
        "cloud_train.version",
        "importlib",
        "importlib._bootstrap",
        "importlib._bootstrap_external",
        "warnings",
    }


def test_making_a_client_loads_neither_pydantic_nor_the_ledger() -> None:
    code = "import sys, cloud_train; cloud_train.Client(); print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(ended.stdout.split()).isdisjoint({"pydantic", "sqlite3", "ruamel", "typer", "rich", "torch", "numpy"})


@pytest.mark.slow
def test_a_program_that_uses_the_package_passes_mypy_strict(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        """
from cloud_train import Client, CloudTrainError, JobSpec, LogLine, MetricPoint, Run, RunView, State, StateChange

def train(client: Client) -> float | None:
    run: Run = client.submit("job.yaml", set={"train.epochs": 2})
    for event in run.follow():
        if isinstance(event, LogLine):
            text: str = event.text
        elif isinstance(event, MetricPoint):
            value: float | None = event.value
        else:
            change: StateChange = event
    view: RunView = run.status()
    assert view.state is State.SUCCEEDED
    spec: JobSpec = client.plan("job.yaml").job
    return run.metrics()[-1].value

def wrong(client: Client) -> int:
    return client.run().id
"""
    )
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(program)],  # with the settings and the cache of `make types`: a third of the time
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert re.findall(r"program.py:(\d+): error", ended.stdout) == ["19"], ended.stdout + ended.stderr


def test_a_run_is_submitted_followed_and_read(client: Client) -> None:
    run = client.submit(job(f"echo one; {MEASURE}; printf two"))
    happened = list(run.follow())
    assert [event.text for event in happened if isinstance(event, LogLine)] == ["one", "two"]
    assert [(event.key, event.value) for event in happened if isinstance(event, MetricPoint)] == [("train/loss", 0.9), ("train/loss", 0.8)]
    end = happened[-1]
    assert isinstance(end, StateChange)
    assert (end.run.state, run.view.cause) == (State.SUCCEEDED, Cause.SUCCEEDED)
    assert run.logs() == "one\ntwo"
    assert [row.step for row in run.metrics()] == [1, 2]
    assert run.worker_log()
    assert (client.run(), client.run(run.id[-4:]), client.runs()) == (run, run, [run])
    assert client.runs_in("runs").runs[0].run_id == run.id
    assert "run.json" in run.sync("copy").copied


def test_following_a_submission_waits_for_its_end(client: Client) -> None:
    assert client.submit(job("exit 3"), follow=True).view.cause is Cause.FAILED


def test_a_plan_writes_nothing(client: Client, tmp_path: Path) -> None:
    plan = client.plan(job("true"), set={"env.GREETING": "a: b"}, store="elsewhere")
    assert plan.job.env == {"GREETING": "a: b"}
    assert plan.store == str(tmp_path / "elsewhere")
    assert client.request(plan)[1] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.yaml"]


def test_mistakes_are_raised_with_every_problem(client: Client) -> None:
    with pytest.raises(JobError, match="nme"):
        client.submit(job("true"), set={"nme": "x"})


def test_a_run_is_cancelled_and_resumed(client: Client) -> None:
    run = client.submit(job("trap 'exit 1' TERM; echo ready; while :; do sleep 0.05; done", "limits: {grace: 5s}\n"))
    for event in run.follow():
        if isinstance(event, LogLine):
            break
    assert run.cancel().state is State.CANCELLED
    assert run.resume() is run
    assert run.view.attempt == 2
    assert run.cancel(force=True).state is State.CANCELLED
    with pytest.raises(NotFoundError):
        run.fetch_model("model")


def test_what_is_missing_or_wrong_is_an_error(client: Client) -> None:
    with pytest.raises(NotFoundError, match="no runs yet"):
        client.run()
    run = client.submit(job("true"), follow=True)
    with pytest.raises(ConflictError):
        run.resume()
    with pytest.raises(UsageError):
        run.predict()
    with pytest.raises(UsageError):
        run.log_bytes(attempt=1, follow=True)


def test_a_client_prints_nothing_and_tells_its_notes(client: Client, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = client.submit(job("echo hello"), follow=True)
    run.status()
    run.metrics()
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_file_that_came_with_a_job_is_refused_asked_about_or_trusted(client: Client, tmp_path: Path) -> None:
    Path("configs").mkdir()
    Path("configs/local.yaml").write_text("provider: local\nlocal: {python: /no/such/python}\n")
    with pytest.raises(UsageError) as refused:
        client.submit(job("true"), config="local")
    assert refused.value.code == "not-trusted"
    asked: list[str] = []

    def ask(question: Question) -> bool:
        asked.append(question.subject)
        return False

    asking = Client(tmp_path / "home", ask=ask)
    with pytest.raises(UsageError):
        asking.submit(job("true"), config="local")
    assert len(asked) == 1
    assert client.trust("configs/local.yaml") == {"provider": "local", "local.python": "/no/such/python"}


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("train.epochs", 3, "train.epochs=3"),
        ("train.optimizer.name", "adam", 'train.optimizer.name="adam"'),
        ("name", "7", "name=7"),
        ("env.A", "b: c", "env.A=b: c"),
        ("data.path", Path("/a b"), "data.path=/a b"),
        ("model.blocks", [{"filters": 8}], 'model.blocks=[{"filters": 8}]'),
        ("train.early_stopping", None, "train.early_stopping=null"),
    ],
)
def test_an_override_of_python_is_one_of_the_command_line(key: str, value: object, text: str) -> None:
    assert override_text(key, value) == text


def seen(state: State, output: bytes = b"", attempt: int = 1) -> Progress:
    cause = Cause.FAILED if state.is_end else None
    view = RunView("id", "name", "local", "/runs", None, 0.0, attempt, state, cause)
    return Progress(view, None, None, None, None, output=output)


def test_lines_that_come_in_pieces_are_whole_events_and_the_end_is_last() -> None:
    looks = [
        seen(State.STARTING),
        seen(State.RUNNING, b"on"),
        seen(State.RUNNING, b"e\ntw"),
        seen(State.RUNNING, b"3", attempt=2),
        seen(State.FAILED, b"!", attempt=2),
    ]
    told = []
    for event in events(looks):
        assert not isinstance(event, MetricPoint)
        told.append(event.text if isinstance(event, LogLine) else event.run.state.value)
    assert told == ["starting", "running", "one", "tw", "running", "3!", "failed"]


def test_metrics_become_a_frame_where_pandas_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = ModuleType("pandas")
    pandas.__dict__["DataFrame"] = lambda rows, columns: SimpleNamespace(rows=rows, columns=columns)
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    frame = Metrics([MetricPoint(1, 2, 0.5, 3.0, "train", "loss", 0.25)]).to_pandas()
    assert frame.columns == ["attempt", "step", "epoch", "time", "split", "name", "value"]
    assert frame.rows[0]["value"] == 0.25
    assert Metrics().to_pandas().columns == frame.columns


def test_without_pandas_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match="pandas is not installed"):
        Metrics().to_pandas()


@pytest.mark.slow
def test_the_page_about_python_runs_from_top_to_bottom(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 8
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    (tmp_path / "page.py").write_text("\n".join(blocks))
    environment = {**os.environ, "CLOUD_TRAIN_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert ended.returncode == 0, ended.stderr
    assert "not-found" in ended.stdout


def test_a_run_says_what_it_is(client: Client) -> None:
    run = client.submit(job("true"), follow=True)
    assert repr(run) == f"<Run {run.id}: succeeded>"
    assert isinstance(run, Run)
    assert len({run, client.run()}) == 1


def test_load_model_without_its_packages_says_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "cloud_train.training.loading", raising=False)
    monkeypatch.delitem(vars(cloud_train), "load_model", raising=False)
    with pytest.raises(cloud_train.MissingDependencyError, match="load_model needs torch") as caught:
        cloud_train.load_model("folder")
    assert "cloud-train[train]" in (caught.value.hint or "")


def test_one_override_may_be_given_as_a_text(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("name: one\nmodel: {kind: script, command: 'true'}\n")
    plan = Client(tmp_path / "home").plan(tmp_path / "job.yaml", set="name=two")
    assert plan.job.name == "two"


def test_a_home_that_is_a_file_is_an_error_with_words(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(f"name: one\nmodel: {{kind: script, command: 'true'}}\nstore: {tmp_path / 'runs'}\n")
    (tmp_path / "home").write_text("")
    with pytest.raises(cloud_train.StoreError, match=r"cannot create .*: not a directory"):
        Client(tmp_path / "home").submit(tmp_path / "job.yaml")
