"""``train.start_from``: found and hashed for the plan, copied into the run directory by ``submit``, and named by ``status``."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud_train.errors import CorruptError
from cloud_train.orchestrator import starting, submitting
from cloud_train.orchestrator.adopting import adopt
from cloud_train.orchestrator.consent import NotTrustedError, Question
from cloud_train.orchestrator.following import glance
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reading import read_logs
from cloud_train.orchestrator.reconcile import update_run, update_runs
from cloud_train.orchestrator.results import fetch_model
from cloud_train.orchestrator.resuming import Elsewhere, resume
from cloud_train.orchestrator.submitting import submit
from cloud_train.run import layout
from cloud_train.run.manifest import read_manifest, write_manifest
from cloud_train.run.plan import Plan
from cloud_train.run.record import RunRecord
from cloud_train.run.starting_point import DESCRIPTION, WEIGHTS, StartFile, StartingPoint
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from cloud_train.spec.problems import JobFileError
from cloud_train.storage.registry import open_store
from tests.stores import SCHEMES, server_or_skip, use
from tests.support import wait_until
from tests.web_server import serving, sha256

pytest.importorskip("torch")

Planned = Callable[..., Plan]
CNN = "model: {kind: cnn, blocks: [{filters: 4}]}\ndata: {dataset: digits, size: 8}\n"
SAFETENSORS = (2).to_bytes(8, "little") + b"{}"
SCRIPT = "model: {kind: script, command: 'echo 1 > $CLOUD_TRAIN_MODEL/weights.bin'}\n"


def job(folder: Path, start: str = "", text: str = CNN, **train: object) -> Path:
    fields = {"epochs": 1, "batch_size": 300, "tensorboard": False, **train}
    listed = ", ".join(f"{name}: {json.dumps(value)}" for name, value in fields.items())
    path = folder / ("tuned.yaml" if start else "first.yaml")
    begins = f", start_from: {start}" if start else ""
    section = f"train: {{{listed}{begins}}}\n" if text == CNN or start else ""
    path.write_text(f"name: {path.stem}\nstore: runs\n{text}{section}")
    return path


def end_of(home: Home, run: RunView) -> RunView:
    wait_until(lambda: update_run(home, run.run_id).state.is_end, f"{run.run_id} ends", seconds=120)
    return update_run(home, run.run_id)


def output(home: Home, run: RunView) -> str:
    return b"".join(read_logs(home, run.run_id)).decode()


def model_of(run: RunView) -> Path:
    return Path(run.run_directory) / layout.MODEL / "model.safetensors"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder with a model that only looks like one."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(SAFETENSORS)
    (folder / "model.json").write_text("{}")
    return folder


@pytest.mark.slow
def test_a_run_begins_with_the_weights_of_another_and_records_them(home: Home, tmp_path: Path) -> None:
    first = end_of(home, submit(home, make_plan(home, job(tmp_path))))
    assert first.state is State.SUCCEEDED
    digest = hashlib.sha256(model_of(first).read_bytes()).hexdigest()
    said: list[str] = []
    plan = make_plan(home, job(tmp_path, "first"), dry_run=True)
    assert plan.start is not None
    assert (plan.start.source, plan.start.weights.sha256, set(plan.start.files)) == (first.run_id, digest, {WEIGHTS, DESCRIPTION})
    tuned = end_of(home, submit(home, make_plan(home, job(tmp_path, "first")), said.append))
    assert tuned.state is State.SUCCEEDED, tuned.message
    assert f"starts from {first.run_id}: 4 of 4 tensors\n" in output(home, tuned)
    assert f"copied the weights of {first.run_id} into the run directory" in said
    assert glance(home, tuned.run_id, record=False).starts_from == {"source": first.run_id, "sha256": digest}
    fetched = fetch_model(home, tuned.run_id, tmp_path / "fetched").folder
    assert read_manifest(fetched).fingerprint == {"start_from": {"source": first.run_id, "sha256": digest}}

    # The fetched model is a folder to start from, and so is a run directory; the weights are those of the submission.
    for start in ("fetched", f"runs/{tuned.run_id}", tuned.run_id[-4:]):
        found = make_plan(home, job(tmp_path, start)).start
        assert found is not None
        assert found.weights.sha256 == hashlib.sha256(model_of(tuned).read_bytes()).hexdigest()


@pytest.mark.slow
def test_weights_of_another_network_fail_with_words_that_name_the_layers(home: Home, tmp_path: Path) -> None:
    first = end_of(home, submit(home, make_plan(home, job(tmp_path))))
    run = end_of(home, submit(home, make_plan(home, job(tmp_path, "first", text=CNN.replace("4", "9")))))
    assert run.cause is Cause.FAILED
    assert f"the weights of {first.run_id} are those of another network: 0 of 90 parameters fit" in run.message
    assert "blocks.0.conv.weight (4×1×3×3 → 9×1×3×3)" in run.message
    assert "Traceback" not in output(home, run)


@pytest.mark.slow
def test_weights_on_a_web_server_are_downloaded_by_the_run(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    first = end_of(home, submit(home, make_plan(home, job(tmp_path))))
    content = model_of(first).read_bytes()
    with serving(**{"weights.safetensors": content}) as server:
        start = f"{{url: {server.url}/weights.safetensors, sha256: {sha256(content)}}}"
        run = end_of(home, submit(home, make_plan(home, job(tmp_path, start))))
    assert f"starts from {server.url}/weights.safetensors: 4 of 4 tensors" in output(home, run)
    assert run.state is State.SUCCEEDED, run.message


def test_a_dry_run_copies_nothing(home: Home, tmp_path: Path, weights: Path) -> None:
    plan = make_plan(home, job(tmp_path, "model"), dry_run=True)
    assert plan.start is not None
    assert plan.start.to_dict() == {
        "source": str(weights),
        "files": {
            "weights": {"url": str(weights / "model.safetensors"), "sha256": sha256(SAFETENSORS), "size": len(SAFETENSORS)},
            "model.json": {"url": str(weights / "model.json"), "sha256": sha256(b"{}"), "size": 2},
        },
    }
    assert not (tmp_path / "runs").exists()


def test_a_plan_without_a_start_has_none_in_its_record(home: Home, tmp_path: Path) -> None:
    assert "start" not in make_plan(home, job(tmp_path)).facts()


def test_the_record_of_a_run_keeps_its_start_for_later_attempts(home: Home, tmp_path: Path, weights: Path) -> None:
    plan = make_plan(home, job(tmp_path, "model"))
    record = RunRecord(plan.run_id, 0.0, plan.job.model_dump(mode="json"), plan.program, plan.facts(), {"job_file": "job.yaml"})
    again = Plan.of_attempt(RunRecord.from_json(record.to_json(), "run.json"), 2, "0" * 64)
    assert again.start == plan.start


HASH = "a" * 64
MISTAKES = {
    "none": (
        "'none' is not a file or folder here, and not a run: no run's id begins or ends with 'none'; list all runs with: cloud-train list",
        "a run, a fetched model's folder",
    ),
    "./none": ("no such file or folder", "a run, a fetched model's folder"),
    "none.pth": ("no such file or folder", "a run, a fetched model's folder"),
    "text.txt": ("text.txt is neither a safetensors file nor a file that torch saved", "a run, a fetched model's folder"),
    "empty": ("empty has no model.safetensors", "a run, a fetched model's folder"),
    "fifo": ("fifo is a named pipe, not a file", "a run, a fetched model's folder"),
    "https://example.com/w.pth": ("a download needs a checksum", "#sha256="),
    "https://example.com/w.pth#sha256=abc": ("the checksum is not a SHA-256", "64 characters"),
    "{url: 'https://example.com/w.pth'}": ("'sha256' is missing in 'train.start_from'", ""),
    f"{{url: 'https://me:pw@example.com/w.pth', sha256: {HASH}}}": ("a user name or password must not be in a job file", ""),
    f"{{url: 'https://example.com/w.pth?X-Amz-Signature=1', sha256: {HASH}}}": ("contains a signature or a key", ""),
    "s4://bucket/x": ("is not a store URL", "s3://bucket"),
    "s3:/bucket/x": ("is neither a URL nor a path", "two slashes"),
    "7": ("train.start_from cannot be 7", ""),
}


@pytest.mark.parametrize("start", MISTAKES)
def test_a_mistake_is_shown_with_its_line(home: Home, tmp_path: Path, start: str) -> None:
    (tmp_path / "text.txt").write_text("some text")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "fifo")
    said, wanted = MISTAKES[start]
    with pytest.raises(JobFileError) as caught:
        make_plan(home, job(tmp_path, start))
    (problem,) = caught.value.problems
    assert problem.place.line == 5
    assert said in problem.message
    assert wanted in problem.expected


def test_a_script_loads_its_own_weights(home: Home, tmp_path: Path, weights: Path) -> None:
    with pytest.raises(JobFileError, match="start_from has no effect: a script loads its own weights"):
        make_plan(home, job(tmp_path, "model", text="model: {kind: script, command: x}\n"))


def test_a_run_without_a_model_is_refused_with_the_next_step(home: Home, tmp_path: Path) -> None:
    first = end_of(home, submit(home, make_plan(home, job(tmp_path, text="model: {kind: script, command: 'exit 1'}\n"))))
    with pytest.raises(JobFileError, match=f"train.start_from: {first.run_id} has no final model"):
        make_plan(home, job(tmp_path, "first"))


def test_the_model_of_a_script_is_refused_with_the_next_step(home: Home, tmp_path: Path) -> None:
    first = end_of(home, submit(home, make_plan(home, job(tmp_path, text=SCRIPT))))
    with pytest.raises(JobFileError) as caught:
        make_plan(home, job(tmp_path, "first"))
    (problem,) = caught.value.problems
    assert f"the model of {first.run_id} has no model.safetensors: it was not made by a built-in trainer (weights.bin)" in problem.message
    assert f"copy it here with: cloud-train fetch-model {first.run_id}" in problem.message


def test_weights_that_change_between_plan_and_copy_leave_no_run(home: Home, tmp_path: Path, weights: Path) -> None:
    plan = make_plan(home, job(tmp_path, "model"))
    (weights / "model.safetensors").write_bytes(SAFETENSORS + b" ")
    with pytest.raises(CorruptError, match=r"model\.safetensors was changed while it was copied"):
        submit(home, plan)
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert not update_runs(home)


def test_a_submission_that_is_killed_while_it_copies_leaves_no_run(
    home: Home, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(home, job(tmp_path, "model"))

    class KilledError(BaseException):
        pass

    def copies_and_dies(*arguments: object) -> None:
        starting.copy_start(*arguments)  # type: ignore[arg-type]  # those of the caller
        raise KilledError

    monkeypatch.setattr(submitting, "copy_start", copies_and_dies)
    with pytest.raises(KilledError):
        submit(home, plan)
    assert [path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert not update_runs(home)
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_in_a_store_are_found_as_a_run_a_model_or_a_file_and_copied(
    home: Home, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    server = server_or_skip(scheme)
    use(server, monkeypatch)
    url = server.new_url()
    write_manifest(weights, None)
    store = open_store(url)
    for name in ("model.safetensors", "model.json", layout.MANIFEST):
        store.put(f"runs/old/model/{name}", (weights / name).read_bytes())
    for place in ("runs/old", "runs/old/model", "runs/old/model/model.safetensors"):
        plan = make_plan(home, job(tmp_path, f"{url}/{place}"))
        assert plan.start is not None
        assert plan.start.weights.sha256 == sha256(SAFETENSORS)
        assert plan.start.weights.url == f"{url}/runs/old/model/model.safetensors"
        target = open_store(str(tmp_path / "copies"))
        starting.copy_start(plan, target, print)
        assert target.get(f"{plan.run_id}/{layout.START_FROM}/{WEIGHTS}") == SAFETENSORS
    with pytest.raises(JobFileError, match="there is no model, and no file of weights, at"):
        make_plan(home, job(tmp_path, f"{url}/runs/none"))


def test_a_run_that_moves_takes_its_weights_along(home: Home, tmp_path: Path, weights: Path) -> None:
    run = end_of(home, submit(home, make_plan(home, job(tmp_path, "model"))))
    assert run.state is State.FAILED  # they are no weights
    moved = end_of(home, resume(home, run.run_id, elsewhere=Elsewhere(store=str(tmp_path / "elsewhere"))))
    assert moved.store == str(tmp_path / "elsewhere")
    assert (Path(moved.run_directory) / layout.START_FROM / WEIGHTS).read_bytes() == SAFETENSORS
    assert "missing or was changed" not in moved.message


def test_a_run_from_elsewhere_shows_the_weights_that_it_would_download_before_it_is_accepted(home: Home, tmp_path: Path) -> None:
    run = end_of(home, submit(home, make_plan(home, job(tmp_path, text="model: {kind: script, command: 'exit 1'}\n"))))
    path = Path(run.run_directory) / layout.RUN
    record = json.loads(path.read_bytes())
    file = StartFile("https://example.com/w.pth", "a" * 64)
    record["plan"]["start"] = StartingPoint("digits", {WEIGHTS: file}).to_dict()
    path.write_text(json.dumps(record))
    adopt(home, run.run_directory)
    asked: list[Question] = []

    def refusing(question: Question) -> bool:
        asked.append(question)
        return False

    with pytest.raises(NotTrustedError):
        resume(home, run.run_id, ask=refusing)
    assert ("weights", "https://example.com/w.pth") in asked[0].facts
